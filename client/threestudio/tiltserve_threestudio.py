"""`tiltserve-guidance` for threestudio: the prior runs on a server, so none of it is on the renderer's GPU.

It has no state but the iteration, which threestudio tells it: a run that is resumed from its checkpoint gets the
gradients that it would have got, bit for bit.
"""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import threestudio
import torch
import torch.nn.functional as F  # noqa: N812
from threestudio.utils.base import BaseObject
from threestudio.utils.misc import C
from torch import Tensor

from tiltserve import Client, as_loss
from tiltserve.losses import asked


@threestudio.register("tiltserve-guidance")
class TiltserveGuidance(BaseObject):
    """Called as threestudio's own guidances are. The server's token is the environment's TILTSERVE_TOKEN."""

    @dataclass
    class Config(BaseObject.Config):
        """`text` and `camera` name the conditions of the model that get the prompt's embeddings and the unit vector to
        the camera; `text` is empty for models without. `ask` is whatever else `Client.distill` takes by name. Two
        numbers, `guidance_scale` and `grad_clip`, may be schedules as threestudio has them."""

        url: str = "127.0.0.1:8001"
        model: str = "sd"
        seed: int = 0
        mode: str = "sds"
        schedule: Any = "coarse"
        guidance_scale: Any = 100.0  # of cond + w (cond - null), as threestudio counts; 0 is none
        grad_clip: Any = None
        text: str = "encoder_hidden_states"
        camera: str = ""
        azimuth_offset: float = 0.0  # degrees, added to threestudio's, whose front is +x
        conditions: dict[str, Any] = field(default_factory=dict)  # the same for all views
        encoder: str = ""  # "module:function" from images [B, 3, H, W] of -1..1 to latents, differentiable
        size: int = 512  # edge of the images, or of the latents that a renderer gives
        half: bool = True
        view_dependent_prompting: bool = True
        ask: dict[str, Any] = field(default_factory=dict)
        timeout: float = 600.0

    cfg: Config

    def configure(self) -> None:
        self.client = Client(self.cfg.url, token=os.environ.get("TILTSERVE_TOKEN") or None, timeout=self.cfg.timeout)
        module, _, name = self.cfg.encoder.partition(":")
        self.encode: Callable[[Tensor], Tensor] | None = (
            getattr(importlib.import_module(module), name) if name else None
        )
        self.update_step(0, 0)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        self.iteration = global_step
        self.scale = C(self.cfg.guidance_scale, epoch, global_step)
        self.clip = None if self.cfg.grad_clip is None else C(self.cfg.grad_clip, epoch, global_step)

    def __call__(
        self,
        rgb: Tensor,  # [B, H, W, C] of 0..1, or latents
        prompt_utils: Any,
        elevation: Tensor,
        azimuth: Tensor,
        camera_distances: Tensor,
        rgb_as_latents: bool = False,
        **batch: Any,
    ) -> dict[str, Any]:
        edges = (self.cfg.size, self.cfg.size)
        views = F.interpolate(rgb.permute(0, 3, 1, 2), edges, mode="bilinear", align_corners=False)
        if not rgb_as_latents:
            views = views * 2 - 1
            views = views if self.encode is None else self.encode(views)
        wanted: dict[str, Any] = {"conditions": dict(self.cfg.conditions), "clip": self.clip, **self.cfg.ask}
        if self.cfg.camera:
            e, a = elevation.deg2rad(), (azimuth + self.cfg.azimuth_offset).deg2rad()
            wanted["conditions"][self.cfg.camera] = torch.stack([e.cos() * a.cos(), e.cos() * a.sin(), e.sin()], dim=-1)
        if self.cfg.text:
            wanted |= self.told(prompt_utils, (elevation, azimuth, camera_distances), wanted["conditions"])
        answer = asked(
            views, self.client, self.cfg.model, iteration=self.iteration, half=self.cfg.half, seed=self.cfg.seed,
            mode=self.cfg.mode, schedule=self.cfg.schedule, guidance=self.scale, convention="cond", **wanted,
        )  # fmt: skip
        return {
            "loss_sds": as_loss(views, answer),
            "grad_norm": torch.tensor(answer.norm * len(rgb)),  # threestudio divides by the views after it
            "min_step": float(answer.t2.min()),  # path times of the model
            "max_step": float(answer.t1.max()),
        }

    def told(self, prompt_utils: Any, view: tuple[Tensor, ...], conditions: dict[str, Any]) -> dict[str, Any]:
        """Puts the embeddings of the views' prompts among the conditions; what perpendicular negatives need."""
        name, views = self.cfg.text, len(view[0])
        if not prompt_utils.use_perp_neg:
            text = prompt_utils.get_text_embeddings(*view, self.cfg.view_dependent_prompting)
            conditions[name], conditions[f"null_{name}"] = text.chunk(2)
            return {}
        text, weights = prompt_utils.get_text_embeddings_perp_neg(*view, self.cfg.view_dependent_prompting)
        conditions[name], conditions[f"null_{name}"] = text[:views], text[views : 2 * views]
        negatives = text[2 * views :].unflatten(0, weights.shape)
        return {"negatives": {name: negatives}, "negative_weights": weights}
