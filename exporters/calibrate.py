"""The calibration curve of an exported model: how wrong its denoised estimate is along the path, on its own samples."""

from torch import Tensor

import steering
from exporters.network import OnnxNetwork
from protos.card import Calibration
from steering.sampling.rows import answered


def calibrate_model(network: OnnxNetwork, samples: Tensor) -> Calibration:
    """Mean over dimensions of E|x_0 - D(x_t)|^2 at times spread over the card's range, through the exported graph.

    Args:
        samples: [K, *event], drawn from the model itself (data would hide the model's own errors).

    Raises:
        ValueError: the model has conditions; one curve would mix their laws.
    """
    card = network.card
    if card.conditions or card.prediction is None:
        raise ValueError(f"model {card.name!r}: expected an unconditional sampler, got conditions {[*card.conditions]}")
    measuring = steering.calibrate(
        samples, network.path, card.prediction, card.preconditioning, card.sigma_data, limit=network.limit
    )
    curve = answered(measuring, lambda rows: network(rows.x, rows.t))
    return Calibration(t=list(curve.t), mse=list(curve.mse))
