"""What `tiltserve_threestudio` needs of threestudio, which is no package: modules of its names with its signatures
(threestudio/utils/base.py, utils/misc.py, prompt processors, the step of a DreamFusion system)."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

REGISTERED: dict[str, type] = {}


class Updateable:
    """Is told of every step before it."""

    def do_update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        for name in self.__dir__():
            if not name.startswith("_") and isinstance(module := getattr(self, name), Updateable):
                module.do_update_step(epoch, global_step, on_load_weights=on_load_weights)
        self.update_step(epoch, global_step, on_load_weights=on_load_weights)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        pass


class BaseObject(Updateable):
    """Configured by a dataclass; no module of torch."""

    @dataclass
    class Config:
        pass

    cfg: Any

    def __init__(self, cfg: dict[str, Any] | None = None, *args: Any, **kwargs: Any) -> None:
        self.cfg = self.Config(**(cfg or {}))
        self.device = torch.device("cpu")
        self.configure(*args, **kwargs)

    def configure(self, *args: Any, **kwargs: Any) -> None:
        pass


def C(value: Any, epoch: int, global_step: int) -> float:
    """A number, or one that goes from the second to the third between steps, the first and the last."""
    if isinstance(value, int | float):
        return value
    first, start, end, last = value
    share = max(min(1.0, (global_step - first) / (last - first)), 0.0)
    return float(start + (end - start) * share)


def register(name: str) -> Any:
    def note(kind: type) -> type:
        REGISTERED[name] = kind
        return kind

    return note


@contextmanager
def installed() -> Iterator[None]:
    """The names can be imported."""
    names = ("threestudio", "threestudio.utils", "threestudio.utils.base", "threestudio.utils.misc")
    made = {name: ModuleType(name) for name in names}
    made["threestudio"].__dict__["register"] = register
    made["threestudio.utils.base"].__dict__["BaseObject"] = BaseObject
    made["threestudio.utils.misc"].__dict__["C"] = C
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(made)
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                del sys.modules[name]
            else:
                sys.modules[name] = old


@dataclass
class Prompts:
    """What a prompt processor gives: embeddings by view, those of the condition first, then the null's."""

    embeddings: Tensor  # [B, tokens, width]
    null: Tensor
    negatives: Tensor | None = None  # [B, 2, tokens, width]
    weights: Tensor | None = None  # [B, 2]

    @property
    def use_perp_neg(self) -> bool:
        return self.negatives is not None

    def get_text_embeddings(
        self, elevation: Tensor, azimuth: Tensor, camera_distances: Tensor, view_dependent_prompting: bool = True
    ) -> Tensor:
        return torch.cat([self.embeddings, self.null])

    def get_text_embeddings_perp_neg(
        self, elevation: Tensor, azimuth: Tensor, camera_distances: Tensor, view_dependent_prompting: bool = True
    ) -> tuple[Tensor, Tensor]:
        assert self.negatives is not None
        assert self.weights is not None
        return torch.cat([self.embeddings, self.null, self.negatives.flatten(0, 1)]), self.weights


class System(torch.nn.Module, Updateable):
    """A scene with its renderer and optimiser, as a lightning module has them: the step is that of DreamFusion."""

    def __init__(self, guidance: Any, prompts: Any, batches: Any) -> None:
        super().__init__()
        self.guidance, self.prompts, self.batches = guidance, prompts, batches
        self.field = torch.nn.Parameter(torch.linspace(-1, 1, 3 * 8 * 8).reshape(1, 8, 8, 3))
        self.optimiser = torch.optim.Adam([self.field], lr=0.05)
        self.global_step = 0

    def render(self, azimuth: Tensor) -> Tensor:
        """[B, 8, 8, 3] of 0..1, another one from each side."""
        return torch.sigmoid(self.field * (1 + 0.1 * azimuth.deg2rad().cos()[:, None, None, None]))

    def step(self) -> dict[str, Any]:
        self.do_update_step(0, self.global_step)
        batch = self.batches(self.global_step)
        said: dict[str, Any] = self.guidance(self.render(batch["azimuth"]), self.prompts, **batch, rgb_as_latents=False)
        loss = sum(value for name, value in said.items() if name.startswith("loss_"))
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.global_step += 1
        return said

    def checkpoint(self) -> dict[str, Any]:
        return {"state_dict": self.state_dict(), "optimiser": self.optimiser.state_dict(), "step": self.global_step}

    def resume(self, saved: dict[str, Any]) -> None:
        self.load_state_dict(saved["state_dict"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.global_step = saved["step"]
