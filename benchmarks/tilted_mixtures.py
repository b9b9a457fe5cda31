"""How close steering comes to the exact tilted law on random Gaussian mixtures: energy distance, mean reward, rows.

    make bench ARGS=tilted_mixtures

Each line is a dimension and a posterior; distances are to samples of the closed-form tilted law, beside the floor (an
exact sample of the same size) and the unsteered value. DPM-Solver++(2M), 20 network rows and 32 particles per sample.
"""

from typing import Annotated

import torch
import typer

import steering
from steering.problems import GaussianMixture, energy_distance

STEPS, PARTICLES, SIZE = 20, 32, 1024


def main(
    dimensions: Annotated[list[int], typer.Option("--dimension")] = [2, 8, 32],  # noqa: B006
    seed: int = 0,
    strength: float = 2.0,
) -> None:
    """Print the table."""
    print(f"seed {seed}, {SIZE} samples, {STEPS} network rows per sample, linear reward of length {strength:g}")
    print("   d posterior     distance   floor  unsteered   reward    exact  reward rows")
    for d in dimensions:
        mixture = GaussianMixture.random(d, 5, seed=seed + d)
        path = steering.paths.vp_cosine()
        plan = steering.plan("dpmpp_2m", path=path, steps=STEPS, prediction="x0")
        direction = torch.randn(d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
        direction = direction * strength / direction.norm()
        tilted = mixture.tilted(direction)
        exact = tilted.sample(4 * SIZE, 1)
        floor = abs(energy_distance(tilted.sample(SIZE, 2), exact))
        unsteered = energy_distance(mixture.sample(SIZE, 3), exact)
        bank = mixture.sample(4096, 4).float()

        def reward(x: torch.Tensor, direction: torch.Tensor = direction) -> torch.Tensor:
            return x @ direction.to(x.dtype)

        posteriors = {"bank": steering.posteriors.bank(bank), "gaussian": steering.posteriors.gaussian()}
        for name, posterior in posteriors.items():
            steer = steering.Doob(reward, particles=PARTICLES, posterior=posterior)
            x, report = steering.run(plan, mixture.network(path), (SIZE, d), seed, steer, report=True, tile=None)
            assert report.rewards is not None
            distance, mean = energy_distance(x, exact), float(report.rewards.mean())
            print(
                f"{d:4} {name:12} {distance:9.4f} {floor:7.4f} {unsteered:10.4f} {mean:8.3f} "
                f"{float((exact @ direction).mean()):8.3f} {report.reward_rows / SIZE:11.0f}",
                flush=True,
            )


if __name__ == "__main__":
    typer.run(main)
