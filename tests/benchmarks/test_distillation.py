"""The benchmark of distillation compares what it says it compares."""

from dataclasses import replace

import torch
from torch import Tensor

from benchmarks._distillation import formulas, scenes, voxels
from benchmarks._distillation.priors import Answer, Wish
from steering.distillation import Settings, schedule


def test_formulas() -> None:
    assert formulas.table() < 1e-12


def test_voxels_are_refined() -> None:
    """In a few iterations already, toward the object that they began at; and the same way again."""
    setting, row = voxels.SETTINGS[0], replace(voxels.ROWS[3], iterations=25)
    prior = voxels.offline(setting)
    before = voxels.optimised(prior, setting, replace(row, iterations=2), 0)
    after = voxels.optimised(prior, setting, row, 0)
    assert after.error < 0.7 * before.error
    assert after.rows == 25 * voxels.VIEWS * 3
    assert torch.equal(after.voxels, voxels.optimised(prior, setting, row, 0).voxels)


def test_a_scene_goes_down_the_gradient() -> None:
    """Toward white pictures, if that is what a prior asks for."""

    def prior(x: Tensor, condition: dict[str, Tensor], wish: Wish, iteration: int, seed: int) -> Answer:
        assert condition["camera"].shape == (2, 3)
        return Answer((x.detach() - 1) / len(x), len(x), 0)

    settings = Settings(times=schedule("coarse"))
    references = torch.full((2, 12, 3, 32, 32), 255, dtype=torch.uint8)
    run = scenes.Run("mug", 0, lambda i, views: Wish(settings), views=2)
    before, after = (scenes.optimised(prior, replace(run, iterations=n), references) for n in (0, 4))  # type: ignore[arg-type]
    assert after.one < before.one
    assert after.rows == 8
