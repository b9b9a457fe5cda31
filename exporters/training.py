"""A training run of a demo model: weights, their moving average and the optimiser, resumed from a checkpoint."""

import copy
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)

log = logging.getLogger(__name__)


class Training(Generic[Net]):
    """A network that AdamW fits, with the moving average of its weights.

    Args:
        network: trained in place.
        groups: what the optimiser takes, all of the network's parameters when absent. A group's `times` multiplies the
            learning rate.
        peak: learning rate that the optimiser begins with.
        checkpoint: written every `kept` batches and at the end, and resumed from when present.
        steps: batches in all.
        told: batches between two log lines.
        smoothing: share of the newest batch in the loss that is logged.
        most: largest share that the average keeps of itself at a batch.

    Attributes:
        first: batches done before.
    """

    def __init__(
        self,
        network: Net,
        checkpoint: Path,
        *,
        peak: float,
        steps: int,
        kept: int,
        groups: Iterable[dict[str, Any]] | None = None,
        told: int = 50,
        smoothing: float = 0.01,
        most: float = 0.999,
    ) -> None:
        self.network, self._checkpoint = network, checkpoint
        self._average = copy.deepcopy(network).requires_grad_(False)
        self._optimiser = torch.optim.AdamW(
            network.parameters() if groups is None else groups,
            lr=peak, betas=(0.9, 0.99), weight_decay=0.01, fused=True,
        )  # fmt: skip
        self._steps, self._kept, self._told, self._smoothing, self._most = steps, kept, told, smoothing, most
        self.first, self._loss = 0, 0.0
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True)
            network.load_state_dict(state["network"])
            self._average.load_state_dict(state["average"])
            self._optimiser.load_state_dict(state["optimiser"])
            self.first = state["step"]

    def learn(self, step: int, loss: Tensor, rate: float) -> None:
        """Go down the gradient of batch `step`'s loss (a scalar), by this learning rate; log and write what is due."""
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for group in self._optimiser.param_groups:
            group["lr"] = group.get("times", 1.0) * rate
        self._optimiser.step()
        decay = min(self._most, (1 + step) / (10 + step))
        with torch.no_grad():  # else each batch would lengthen a history that nobody differentiates
            torch._foreach_lerp_(list(self._average.parameters()), list(self.network.parameters()), 1 - decay)
        value = loss.item()
        self._loss += self._smoothing * (value - self._loss) if step > self.first else value
        if (step + 1) % self._told == 0:
            log.info("%s step %d/%d loss %.4f", self._checkpoint.stem, step + 1, self._steps, self._loss)
        if (step + 1) % self._kept == 0 or step + 1 == self._steps:
            self._write(step + 1)

    def averaged(self) -> Net:
        """The network with the averaged weights, for evaluation."""
        return self._average.eval()

    def _write(self, step: int) -> None:
        """Write the checkpoint whole or not at all."""
        state = {"network": self.network.state_dict(), "average": self._average.state_dict()}
        new = self._checkpoint.with_suffix(".new")
        torch.save(state | {"optimiser": self._optimiser.state_dict(), "step": step}, new)
        new.replace(self._checkpoint)
