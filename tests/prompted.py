"""A conditional sampler whose law is known under any guidance, with prompts of any length."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exporters.export import export_model
from protos.card import Card
from tests.networks import SPREAD, TIMES


class Prompted(nn.Module):
    """The exact E[x_0 | x_t] of N(m, SPREAD^2), m the mean of a prompt's words and an offset, on rectified flow.

    Guidance moves m alone, along a line: it draws N(m_null + w (m - m_null), SPREAD^2).
    """

    def __init__(self, masked: bool = False) -> None:
        super().__init__()
        self.masked = masked

    def forward(self, x: Tensor, t: Tensor, prompt: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            mean = prompt.mean(dim=1) + offset
        else:
            there = mask.to(x.dtype)[:, :, None]
            mean = (prompt * there).sum(dim=1) / there.sum(dim=1) + offset
        alpha, sigma = (1 - t)[:, None], t[:, None]
        gain = alpha * SPREAD**2 / ((alpha * SPREAD) ** 2 + sigma**2)
        return mean + gain * (x - alpha * mean)


CARD: dict[str, Any] = {
    "path": {"kind": "rectified_flow"},
    "prediction": "x0",
    "t_range": [0.001, 0.999],
    "event_shape": [2],
    "output": "x0",
    "conditions": {
        "prompt": {"dtype": "float32", "shape": [-1, 2], "longest": 6, "null": 0.0},
        "offset": {"dtype": "float32", "shape": [2], "null": 0.0},
    },
}


def write(root: Path, name: str = "prompted", *, masked: bool = False, **prompt: object) -> None:
    """A conditional sampler whose prompt has 1 to 6 words; `prompt` adds to the condition's card."""
    card = Card.model_validate({"name": name, **CARD})
    written = card.conditions["prompt"].model_dump(exclude_none=True) | prompt
    if masked:
        written |= {"pad": 9.0, "mask": "mask"}
    conditions = card.model_dump(exclude_none=True)["conditions"] | {"prompt": written}
    card = Card.model_validate({"name": name, **CARD, "conditions": conditions})
    length = 6 if masked else 3
    examples = {"x": torch.randn(4, 2), "t": TIMES, "prompt": torch.randn(4, length, 2), "offset": torch.randn(4, 2)}
    if masked:
        examples["mask"] = torch.ones(4, length, dtype=torch.bool)
    export_model(Prompted(masked), root / name, card, examples=examples, outputs=["x0"], sizes=(1, 5))
