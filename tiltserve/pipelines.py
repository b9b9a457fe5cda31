"""A served pipeline that is called as diffusers' are: the words of such a call become those of `sample`."""

import hashlib
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal, Self

import numpy as np

from tiltserve import names, pictures, tensors
from tiltserve.answers import Samples
from tiltserve.errors import InvalidArgument

Out = Literal["pil", "np", "latent"]
STRENGTH = 0.8
"""Of image-to-image, where a call does not say it: diffusers' default."""
_HERE = "expected none, since that stays on the server"
REFUSED: Mapping[str, str] = {
    "latents": "expected none; a state to begin with is x_init=, on this server's own scale",
    "timesteps": "expected none; the times of the steps are grid=",
    "sigmas": "expected none; the times of the steps are grid= with grid_unit=",
    "callback": "expected none; on_preview= is called with each Preview on the way",
    "callback_on_step_end": f"{_HERE}; on_preview= is called with each Preview on the way",
    "callback_on_step_end_tensor_inputs": _HERE,
    "prompt_embeds": "expected none; what a text network gives is sent as conditions=",
    "negative_prompt_embeds": "expected none; what a text network gives is sent as conditions= of null_<condition>",
    "prompt_2": "expected none: all text encoders of a pipeline read the same prompt",
    "prompt_3": "expected none: all text encoders of a pipeline read the same prompt",
    "negative_prompt_2": "expected none: all text encoders of a pipeline read the same prompt",
    "negative_prompt_3": "expected none: all text encoders of a pipeline read the same prompt",
    "clip_skip": "expected none: which layer is read is fixed when a pipeline is imported",
    "cross_attention_kwargs": _HERE,
    "joint_attention_kwargs": _HERE,
    "ip_adapter_image": "expected none: the server has no such adapters",
    "padding_mask_crop": "expected none; crop the picture before",
}
"""What a call of diffusers may say and this one cannot do, with what to do instead."""


@dataclass(frozen=True, eq=False)
class PipelineOutput:
    """What a call gives.

    Attributes:
        images: a list of Pillow's images, or an array: floats [n, h, w, 3] of 0..1 for "np", latents for "latent".
        samples: everything that the server said: seed, rewards, warnings, report.
    """

    images: Any
    samples: Samples
    nsfw_content_detected: None = None
    """Nobody looked."""

    def __getitem__(self, which: int | str) -> Any:
        return (self.images,)[which] if isinstance(which, int) else {"images": self.images}[which]


@dataclass(frozen=True)
class Call:
    """A call in the words of `sample`."""

    n: int
    keywords: dict[str, Any]
    output_type: Out = "pil"
    return_dict: bool = True

    def answer(self, samples: Samples) -> Any:
        """What the caller gets."""
        images: Any
        match self.output_type:
            case "pil":
                images = samples.pil()
            case "np":
                images = samples.images.astype(np.float32) / 255
            case "latent":
                images = samples.latents
        return PipelineOutput(images, samples) if self.return_dict else (images,)


def call(
    prompt: str | Sequence[str] | None = None,
    *,
    negative_prompt: str | Sequence[str] | None = None,
    image: Any = None,
    mask_image: Any = None,
    strength: float | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    guidance_rescale: float | None = None,
    eta: float | None = None,
    num_images_per_prompt: int | None = None,
    generator: Any = None,
    height: int | None = None,
    width: int | None = None,
    output_type: str | None = None,
    return_dict: bool = True,
    **wanted: Any,
) -> Call:
    """A call of a diffusers pipeline as one of `sample`.

    Args:
        guidance_scale: 1 and less are no guidance, as in diffusers.
        generator: a torch.Generator, whose seed is taken, or the seed. A generator is moved on by it, so that the next
            call with it draws other pictures.
        wanted: keywords of `sample`, such as reward, solver, conditions, on_preview.

    Raises:
        InvalidArgument: what cannot be done.
    """
    for name, told in REFUSED.items():
        if wanted.get(name) is not None:
            raise InvalidArgument(f"{name}: {told}")
    for name in wanted:
        known = name in REFUSED or name in names.PARAMETERS
        if not known and (near := get_close_matches(name, _WORDS, 1, 0.9)):
            raise InvalidArgument(f"unknown keyword {name!r}, did you mean {near[0]!r}?")
    if output_type not in (None, "pil", "np", "latent"):
        raise InvalidArgument(f"output_type: expected pil, np or latent, got {output_type!r}")
    each = 1 if num_images_per_prompt is None else num_images_per_prompt
    if isinstance(each, bool) or not isinstance(each, int) or each < 1:
        raise InvalidArgument(f"num_images_per_prompt: expected a number from 1, got {each!r}")
    if image is None and mask_image is not None:
        raise InvalidArgument("mask_image: expected image= beside it, got none")
    many = {
        "prompt": None if prompt is None else tensors.texts("prompt", prompt),
        "negative_prompt": None if negative_prompt is None else tensors.texts("negative_prompt", negative_prompt),
        names.IMAGE: None if image is None else pictures.pictures("image", image),
        names.MASK: None if mask_image is None else pictures.masks("mask_image", mask_image),
    }
    given = {name: value for name, value in many.items() if value is not None}
    rows = max((len(value) for value in given.values()), default=1)
    for name, value in given.items():
        if len(value) not in (1, rows):
            raise InvalidArgument(f"{name}: expected 1 or {rows}, got {len(value)}")
        if len(value) > 1:
            given[name] = np.repeat(value, each, axis=0)  # the pictures of a prompt come one after another
    if image is not None and mask_image is None and strength is None:
        strength = STRENGTH
    own = {
        **given,
        "strength": strength,
        "steps": num_inference_steps,
        "guidance": None if guidance_scale is None else max(guidance_scale, 1.0),
        "guidance_rescale": guidance_rescale,
        "eta": eta,
        "seed": None if generator is None else _seed(generator),
        "height": height,
        "width": width,
        "latents": True if output_type == "latent" else None,
    }
    keywords = {name: value for name, value in own.items() if value is not None}
    if twice := keywords.keys() & {name for name, value in wanted.items() if value is not None}:
        raise InvalidArgument(f"{min(twice)}: expected it once, got it in this server's words and in diffusers'")
    refused = {name for name in wanted if name in REFUSED}
    keywords |= {name: value for name, value in wanted.items() if name not in refused}
    return Call(rows * each, keywords, output_type or "pil", return_dict)  # type: ignore[arg-type]  # it was checked


_WORDS = tuple(name for name, each in inspect.signature(call).parameters.items() if each.kind != each.VAR_KEYWORD)
"""Keywords of a call in diffusers' words, of which a caller may have misspelt one."""


@dataclass(frozen=True)
class Pipeline:
    """A served pipeline in place of one of diffusers': `pipe(prompt, ...)`, see `call`.

    Noise is this server's, not torch's: with the same seed the same pictures come back, and other ones than diffusers
    draws.

    Attributes:
        settings: keywords of every call that does not say them itself.
    """

    sample: Callable[..., Samples] = field(repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, prompt: str | Sequence[str] | None = None, **given: Any) -> Any:
        """See `call`."""
        asked = call(prompt, **{**self.settings, **given})
        return asked.answer(self.sample(asked.n, **asked.keywords))

    def to(self, *where: Any, **more: Any) -> Self:
        """This pipeline: which device it runs on is the server's."""
        return self


@dataclass(frozen=True)
class AsyncPipeline:
    """As `Pipeline`, awaited."""

    sample: Callable[..., Awaitable[Samples]] = field(repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict)

    async def __call__(self, prompt: str | Sequence[str] | None = None, **given: Any) -> Any:
        """See `call`."""
        asked = call(prompt, **{**self.settings, **given})
        return asked.answer(await self.sample(asked.n, **asked.keywords))

    def to(self, *where: Any, **more: Any) -> Self:
        """As `Pipeline.to`."""
        return self


def _seed(generator: Any) -> int:
    """The seed of a torch.Generator, which is then moved on, or the number itself."""
    if isinstance(generator, int | np.integer) and not isinstance(generator, bool):
        return int(generator)
    if not (callable(getattr(generator, "initial_seed", None)) and callable(getattr(generator, "manual_seed", None))):
        got = type(generator).__name__
        raise InvalidArgument(f"generator: expected one torch.Generator for all samples, or its seed, got {got}")
    seed = int(generator.initial_seed()) % 2**63
    generator.manual_seed(int.from_bytes(hashlib.sha256(seed.to_bytes(8)).digest()[:7]))
    return seed
