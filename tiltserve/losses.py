"""Distillation as a loss of torch: the gradient that a server gave becomes that of a scalar. Torch is needed here, and
nowhere else in the client."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tiltserve.client import Client, Distillation
from tiltserve.distillation import Gradient, Models
from tiltserve.errors import InvalidArgument


def distill_loss(
    images: Tensor,
    using: Client | Distillation,
    model: Models | None = None,
    *,
    iteration: int,
    half: bool = False,
    **wanted: Any,
) -> Tensor:
    """A loss whose gradient is what the server answers for these views.

    loss = tiltserve.distill_loss(render(scene, camera), client, "scenes", iteration=i, seed=0, camera=camera)
    loss.backward()

    Args:
        images: [views, *event] on any device, float16, bfloat16 or float32, in the model's own range.
        using: a client with `model`, or a session, which has one.
        half: send float32 views as float16, which halves the message both ways; bfloat16 goes as float32.
        wanted: as `Client.distill`; tensors of torch may be on any device.

    Raises:
        TiltserveError: as `Client.distill`.
    """
    return as_loss(images, asked(images, using, model, iteration=iteration, half=half, **wanted))


def asked(
    images: Tensor,
    using: Client | Distillation,
    model: Models | None = None,
    *,
    iteration: int,
    half: bool = False,
    **wanted: Any,
) -> Gradient:
    """The server's answer for views of torch, for whoever wants more of it than `distill_loss` gives."""
    if not isinstance(images, Tensor):
        raise InvalidArgument(f"images: expected a tensor of torch, got {type(images).__name__}")
    if not images.is_floating_point():
        raise InvalidArgument(f"images: expected floats in the model's own range, often -1..1, got {images.dtype}")
    views = images.detach().to("cpu", torch.float16 if half or images.dtype == torch.float16 else torch.float32)
    given = {name: _plain(each) for name, each in wanted.items()}
    if isinstance(using, Distillation):
        if model is not None:
            raise InvalidArgument("model: expected none beside a session, which has one, got one")
        return using.distill(views.numpy(), iteration=iteration, **given)
    if model is None:
        raise InvalidArgument("model: expected a name, got none")
    return using.distill(model, views.numpy(), iteration=iteration, **given)


def as_loss(images: Tensor, answer: Gradient) -> Tensor:
    """A scalar float32 on the images' device: its value is the sum of the views' shares, its gradient the answer's."""
    if tuple(answer.gradient.shape) != tuple(images.shape):
        raise InvalidArgument(
            f"images: expected those of the answer, {list(answer.gradient.shape)}, got {list(images.shape)}"
        )
    gradient = torch.from_numpy(answer.gradient).to(images.device, images.dtype)
    value = torch.tensor(np.sum(answer.loss), dtype=torch.float32, device=images.device)
    loss: Tensor = _Loss.apply(images, gradient, value)
    return loss


class _Loss(torch.autograd.Function):
    """A value with a gradient that was computed elsewhere."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, gradient: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (scale * gradient).to(gradient.dtype), None, None


def _plain(value: Any) -> Any:
    """A tensor of torch as numpy's, also inside mappings and lists; whatever else as it is."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return value
