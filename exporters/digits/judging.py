"""How well the digit networks do: accuracy on held-out images, and how sure the judge is of generated ones."""

from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from exporters.digits.data import Digits
from exporters.digits.networks import DIGITS
from exporters.digits.train import log_probabilities

SURE = 0.9


@dataclass(frozen=True)
class Reading:
    """What a classifier makes of a set of images.

    Attributes:
        sure: share read with confidence above 0.9.
        shares: share read as each digit, 0 to 9.
    """

    images: int
    sure: float
    mean_confidence: float
    shares: list[float]

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def read(network: nn.Module, images: Float[Tensor, "n 1 28 28"]) -> Reading:
    """Read images in [-1, 1] with a trained classifier."""
    probabilities = _probabilities(network, images)
    confidence, label = probabilities.max(dim=1)
    shares = torch.bincount(label, minlength=DIGITS).double() / len(images)
    return Reading(
        len(images), (confidence > SURE).double().mean().item(), confidence.double().mean().item(), shares.tolist()
    )


def accuracy(network: nn.Module, digits: Digits) -> float:
    """Share of images whose label is read."""
    return (_probabilities(network, digits.images).argmax(dim=1) == digits.labels).double().mean().item()


def _probabilities(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([log_probabilities(network, rows) for rows in images.split(256)]).exp()
