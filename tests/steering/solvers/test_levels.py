"""Noise levels of one's own: a path's scalars have the same bits for a few samples as for many."""

import pytest
import torch

from steering.paths import Path
from steering.solvers.levels import NoiseLevel


@pytest.mark.parametrize("rows", [1, 3, 6])
def test_a_few_times_read_as_they_do_among_many(path: Path, rows: int):
    """Vectorised functions may round the last elements of a tensor by other instructions: softplus and pow do."""
    g = torch.Generator().manual_seed(0)
    times = path.t_min + (path.t_max - path.t_min) * torch.rand(2000, generator=g, dtype=torch.float64)
    log_snr = path.log_snr(times)
    for scalar, at in (
        (path.alpha, times),
        (path.sigma, times),
        (path.alpha_dot, times),
        (path.sigma_dot, times),
        (path.log_snr, times),
        (path.time_of_log_snr, log_snr),
        (lambda x: NoiseLevel(x).alpha, log_snr),
        (lambda x: NoiseLevel(x).sigma, log_snr),
    ):
        whole = scalar(at)
        assert torch.equal(torch.cat([scalar(part.clone()) for part in at.split(rows)]), whole)


def test_levels_are_those_of_a_variance_preserving_path():
    level = NoiseLevel(torch.linspace(-12, 12, 49, dtype=torch.float64))
    torch.testing.assert_close(level.alpha**2 + level.sigma**2, torch.ones(49, dtype=torch.float64), rtol=1e-14, atol=0)
    torch.testing.assert_close(torch.log(level.alpha / level.sigma), level.log_snr, rtol=1e-13, atol=1e-14)
