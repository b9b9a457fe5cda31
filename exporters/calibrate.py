"""The calibration curve of an exported model: how wrong its denoised estimate is along the path, on its own samples."""

from collections.abc import Mapping

from torch import Tensor

import steering
from exporters.network import OnnxNetwork
from protos.card import Calibration
from steering.sampling.rows import answered


def calibrate_model(
    network: OnnxNetwork, samples: Tensor, condition: Mapping[str, Tensor] | None = None
) -> Calibration:
    """Mean over dimensions of E|x_0 - D(x_t)|^2 at times spread over the card's range, through the exported graph.

    Args:
        samples: [K, *event], drawn from the model itself (data would hide the model's own errors).
        condition: by name [K, ...], what each sample was drawn under: the curve is then the mean over these conditions.

    Raises:
        ValueError: a model with conditions and none given, or another number of them than samples; or no sampler.
    """
    card = network.card
    told = condition or {}
    if card.prediction is None:
        raise ValueError(f"model {card.name!r}: expected a sampler, got a plain network")
    if sorted(card.conditions) != sorted(told):
        raise ValueError(f"model {card.name!r}: expected conditions {[*card.conditions]}, got {[*told]}")
    if any(len(each) != len(samples) for each in told.values()):
        raise ValueError(f"model {card.name!r}: expected a condition of each of {len(samples)} samples, got others")
    measuring = steering.calibrate(
        samples, network.path, card.prediction, card.preconditioning, card.sigma_data, limit=network.limit
    )
    curve = answered(
        measuring, lambda rows: network(rows.x, rows.t, **{name: each[: len(rows.x)] for name, each in told.items()})
    )
    return Calibration(t=list(curve.t), mse=list(curve.mse))
