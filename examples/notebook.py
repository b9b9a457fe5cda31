"""The mathematics alone, without a server: sample a mixture, steer it, compare with the exact tilted law.

.venv/bin/python examples/notebook.py
"""

import torch

import steering
from steering.problems import GaussianMixture, energy_distance

model = GaussianMixture.random(dimension=8, components=5, seed=0)
path = steering.paths.vp_cosine()
plan = steering.plan("dpmpp_2m", path=path, steps=20, prediction="x0")
direction = torch.full((8,), 0.7, dtype=torch.float64)


def reward(x: torch.Tensor) -> torch.Tensor:
    """Any function of a batch of samples, [B, 8] -> [B]; its gradient is never asked for."""
    return x @ direction.to(x.dtype)


samples, report = steering.run(
    plan, model.network(path), shape=(1024, 8), seed=0, steer=steering.Doob(reward, beta=1.0), report=True
)
assert report.rewards is not None  # there are none without a reward
exact = model.tilted(direction, beta=1.0)
print("network rows per sample:", report.network_rows / 1024, " reward rows per sample:", report.reward_rows / 1024)
print("rows spent once on the bank and its calibration:", report.setup_rows)
print(
    f"mean reward: {float(report.rewards.mean()):.3f}, exact {float((exact.sample(10_000, 1) @ direction).mean()):.3f}"
)
print(f"energy distance to the exact tilted law: {energy_distance(samples, exact.sample(4096, 2)):.4f}")
print(f"unsteered: {energy_distance(model.sample(1024, 3), exact.sample(4096, 2)):.4f}")
