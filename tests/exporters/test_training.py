"""A training run."""

import torch

from exporters.training import Training


def test_the_averaged_network_has_no_history(tmp_path):
    """It can be exported, and batches leave nothing behind in memory."""
    training = Training(torch.nn.Linear(2, 2), tmp_path / "weights.pt", peak=1e-3, steps=3, kept=3)
    for step in range(3):
        training.learn(step, training.network(torch.ones(4, 2)).square().mean(), 1e-3)
    assert all(each.grad_fn is None and each.is_leaf for each in training.averaged().parameters())
