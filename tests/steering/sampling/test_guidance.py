"""Classifier-free guidance against laws where it is known: where it acts, what it drops, how it is rescaled."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

import steering
from steering import baselines, paths
from steering.errors import UnsuitableError
from steering.numerics.noise import Noise
from steering.sampling.guidance import extrapolated, inside
from steering.sampling.rows import Rows, answered
from steering.sampling.sampler import Problem, sample
from tests.networks import SPREAD
from tests.prompted import Prompted

PATH = paths.rectified_flow()
NETWORK = Prompted()
W = 3.0


def compiled(steps: int = 20, solver: str = "ddim", **other: Any) -> steering.Plan:
    return steering.plan(solver, path=PATH, steps=steps, prediction="x0", **other)


def words(*rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


PROMPT = words([[2.0, 1.0], [0.0, 3.0]])
"""[1, 2, 2], of mean (1, 2)."""
OFFSET = torch.tensor([[0.5, 0.0]], dtype=torch.float64)
NULLS = {"prompt": torch.zeros(1, 2, 2, dtype=torch.float64), "offset": torch.zeros(1, 2, dtype=torch.float64)}


def drawn(n: int = 400, plan: steering.Plan | None = None, **given: Any) -> tuple[Tensor, steering.Report]:
    settings: dict[str, Any] = {"condition": {"prompt": PROMPT, "offset": OFFSET}, "null": NULLS, "guidance": W}
    return steering.run(
        plan or compiled(), NETWORK, (n, 2), seed=1, dtype=torch.float64, report=True, **{**settings, **given}
    )


def mean(x: Tensor) -> list[float]:
    return x.mean(dim=0).tolist()


def close(*wanted: float) -> Any:
    return pytest.approx(wanted, abs=5 * SPREAD / math.sqrt(400))


def test_guidance_moves_the_mean_along_the_line_from_the_null():
    x, report = drawn()
    assert mean(x) == close(W * 1.5, W * 2.0)
    assert report.network_rows == 400 * 20 * 2


def test_a_negative_prompt_is_what_guidance_leads_away_from():
    other = {**NULLS, "prompt": words([[-1.0, 0.0], [-1.0, 0.0]])}
    assert mean(drawn(null=other)[0]) == close(-1 + W * (1.5 + 1), W * 2.0)


def test_null_rows_may_have_another_shape_and_be_each_samples_own():
    """Five words against two, and nulls that differ by sample: the rows are asked apart, and counted alike."""
    where = torch.linspace(-1, 1, 400, dtype=torch.float64)
    null = torch.stack([where, torch.zeros_like(where)], dim=1)[:, None].expand(400, 5, 2)
    calls: list[tuple[int, ...]] = []

    def network(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        calls.append(tuple(condition["prompt"].shape[1:]))
        return NETWORK(x, t, **condition)

    settings: dict[str, Any] = {"condition": {"prompt": PROMPT, "offset": OFFSET}, "guidance": W, "tile": None}
    x, report = steering.run(
        compiled(), network, (400, 2), seed=1, dtype=torch.float64, report=True,
        null={"prompt": null, "offset": OFFSET * 0}, **settings,
    )  # fmt: skip
    assert Counter(calls) == {(2, 2): 20, (5, 2): 20}
    assert report.network_rows == 400 * 20 * 2
    plain, _ = drawn()
    torch.testing.assert_close(x - plain, torch.stack([where * (1 - W), 0 * where], dim=1), rtol=0, atol=0.02)
    # the same samples from a smaller run, and drawn in other groups
    some, _ = steering.run(
        compiled(), network, (7, 2), seed=1, dtype=torch.float64, report=True,
        null={"prompt": null[:7], "offset": OFFSET * 0}, **settings,
    )  # fmt: skip
    torch.testing.assert_close(some, x[:7], rtol=0, atol=1e-12)


def test_a_condition_that_is_kept_is_in_the_null_rows_too():
    """m_null + w (m - m_null): what is kept counts once, what is dropped w times."""
    null = {"prompt": NULLS["prompt"]}
    assert mean(drawn(null=null, keep=["offset"])[0]) == close(0.5 + W * 1.0, W * 2.0)
    assert mean(drawn(null={"offset": NULLS["offset"]}, keep=["prompt"])[0]) == close(1 + W * 0.5, 2.0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"keep": ["style"]}, r"keep: expected some of \['offset', 'prompt'\], got 'style'"),
        ({"keep": ["offset"]}, r"expected null tensors for \['prompt'\], got \['offset', 'prompt'\]"),
        ({"keep": ["offset", "prompt"], "null": {}}, "expected a condition that is dropped, got keep"),
        ({"null": {"prompt": NULLS["prompt"]}}, r"expected null tensors for \['offset', 'prompt'\], got \['prompt'\]"),
        ({"null": {**NULLS, "offset": torch.zeros(3, 2)}}, r"condition 'null offset': expected shape \[400, ...\]"),
        ({"guidance_interval": (1.0, -1.0)}, "guidance_interval: expected two log-SNRs, the lower first"),
        ({"guidance_rescale": 1.5}, "guidance_rescale: expected a number in 0..1, got 1.5"),
    ],
)
def test_what_is_refused(given: dict[str, Any], expected: str):
    with pytest.raises(ValueError, match=expected):
        drawn(**given)


# An interval (Kynkäänniemi et al. 2024).


@pytest.mark.parametrize("bounds", [(0.3, 0.7), (None, 0.5), (0.5, None), (0.5, 0.5001), (0.9995, None)])
def test_outside_of_its_interval_guidance_asks_no_null_rows(bounds: tuple[float | None, float | None]):
    """Against the recursion of DDIM itself, with the exact D of either mean."""
    plan = compiled()
    low, high = bounds
    interval = steering.units.interval(low, high, "t", PATH)
    x, report = drawn(16, plan, guidance_interval=interval)
    acts = [(low is None or s.t >= low - 1e-9) and (high is None or s.t <= high + 1e-9) for s in plan.stages]
    assert report.network_rows == 16 * (20 + sum(acts))
    y = Noise(1, range(16)).normal(2**32 - 1, 0, (2,), torch.float64) * plan.nodes[0].sigma
    for stage, acting in zip(plan.stages, acts, strict=True):
        s, t = stage.update.at, stage.update.to
        m = torch.tensor([1.5, 2.0], dtype=torch.float64) * (W if acting else 1)
        gain = s.alpha * SPREAD**2 / ((s.alpha * SPREAD) ** 2 + s.sigma**2)
        denoised = m + gain * (y - s.alpha * m)
        y = t.sigma / s.sigma * y + (t.alpha - s.alpha * t.sigma / s.sigma) * denoised
    torch.testing.assert_close(x, y, rtol=0, atol=1e-10)


def test_an_interval_of_everything_or_nothing_is_guidance_or_none():
    everywhere, nowhere = (-math.inf, math.inf), steering.units.interval(2000.0, None, "rho", PATH)
    whole, report = drawn(16, guidance_interval=everywhere)
    assert torch.equal(whole, drawn(16)[0])
    plain, none = drawn(16, guidance_interval=nowhere)
    assert torch.equal(plain, drawn(16, guidance=1.0)[0])
    assert (report.network_rows, none.network_rows) == (640, 320)


def test_the_ends_of_an_interval_are_inside_whatever_they_are_given_in():
    plan = compiled(10)
    first, last = plan.nodes[3], plan.nodes[6]
    for unit, low, high in (
        ("t", last.t, first.t),
        ("sigma", last.sigma, first.sigma),
        ("rho", last.rho, first.rho),
        ("logsnr", first.log_snr, last.log_snr),
    ):
        interval = steering.units.interval(low, high, unit, PATH)
        acts = inside(interval, torch.tensor([node.log_snr for node in plan.nodes], dtype=torch.float64))
        assert acts.tolist() == [3 <= i <= 6 for i in range(11)], unit


def test_samples_of_their_own_times_are_guided_one_by_one():
    """A solver of adaptive steps asks rows at many times at once: those inside have null rows, the others none."""
    plan = compiled(4, "rk45", rtol=1e-5)
    interval = steering.units.interval(0.3, 0.7, "t", PATH)
    problem = Problem(
        plan=plan, event=(2,), dtype=torch.float64, guidance=W, guidance_interval=interval,
        condition={"prompt": PROMPT.expand(9, 2, 2), "offset": OFFSET.expand(9, 2)}, null=NULLS,
    )  # fmt: skip
    asked = Counter[bool]()
    mixed = []

    def answer(rows: Rows) -> Tensor:
        conditional = rows.condition["offset"][:, 0] != 0
        asked.update(conditional.tolist())
        mixed.append(0 < int((~conditional).sum()) < int(conditional.sum()))
        acts = (rows.t >= 0.3 - 1e-6) & (rows.t <= 0.7 + 1e-6)
        assert int((conditional & acts).sum()) == int((~conditional).sum())
        return NETWORK(rows.x, rows.t, **rows.condition)

    x, report = answered(sample(problem, Noise(0, range(9))), answer)
    assert any(mixed)
    assert asked[True] > asked[False] > 0
    assert report.network_rows == asked.total()
    for i in (0, 5):  # alone, the same
        one, _ = answered(sample(problem.rows(torch.tensor([i])), Noise(0, [i])), answer)
        torch.testing.assert_close(one, x[i : i + 1], rtol=0, atol=1e-9)


# Rescaling (Lin et al. 2023, section 3.4).


def test_rescaled_outputs_have_the_conditional_ones_deviation():
    generator = torch.Generator().manual_seed(0)
    conditional, null = (torch.randn(5, 3, 4, 4, generator=generator) for _ in range(2))
    guided = extrapolated(conditional, null, 7.5)
    for phi in (0.0, 0.7, 1.0):
        found = extrapolated(conditional, null, 7.5, phi)
        for i in range(5):  # as diffusers' rescale_noise_cfg
            ratio = conditional[i].std() / guided[i].std()
            wanted = phi * (guided[i] * ratio) + (1 - phi) * guided[i]
            torch.testing.assert_close(found[i], wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(extrapolated(conditional, null, 7.5, 1.0).std((1, 2, 3)), conditional.std((1, 2, 3)))


def test_rescaling_has_the_same_bits_in_any_batch_and_survives_constants():
    generator = torch.Generator().manual_seed(0)
    conditional, null = (torch.randn(37, 50, generator=generator) for _ in range(2))
    whole = extrapolated(conditional, null, 4.0, 0.7)
    for n in (1, 2, 15, 17):
        assert torch.equal(extrapolated(conditional[:n], null[:n], 4.0, 0.7), whole[:n])
    flat = torch.ones(2, 50)
    assert torch.equal(extrapolated(flat, flat, 4.0, 1.0), flat)
    one = torch.randn(3, 1, generator=generator)
    assert bool(extrapolated(one, -one, 4.0, 1.0).isfinite().all())


def test_rescaling_acts_on_the_networks_output():
    """One step: D = the network's output, whose deviation over the event is then that of the conditional one."""
    seen = []

    def network(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        seen.append(NETWORK(x, t, **condition))
        return seen[-1]

    plan = compiled(1)
    x, _ = steering.run(
        plan, network, (6, 2), seed=1, dtype=torch.float64, report=True, guidance=W, guidance_rescale=0.4, tile=None,
        condition={"prompt": PROMPT, "offset": OFFSET}, null=NULLS,
    )  # fmt: skip
    conditional, null = seen[0][:6], seen[0][6:]
    denoised = extrapolated(conditional, null, W, 0.4)
    s, t = plan.nodes
    start = Noise(1, range(6)).normal(2**32 - 1, 0, (2,), torch.float64) * s.sigma
    wanted = t.sigma / s.sigma * start + (t.alpha - s.alpha * t.sigma / s.sigma) * denoised
    torch.testing.assert_close(x, wanted, rtol=0, atol=1e-12)


def test_methods_that_take_gradients_keep_to_the_interval_and_refuse_rescaling():
    reward = baselines.Dps(lambda x: x[:, 0])
    interval = steering.units.interval(0.3, 0.7, "t", PATH)
    _, inner = drawn(4, steer=reward, guidance_interval=interval)
    _, everywhere = drawn(4, steer=reward)
    acts = sum(0.3 <= stage.t <= 0.7 for stage in compiled().stages)
    assert inner.network_rows == 4 * (20 + acts)
    assert everywhere.gradient_rows - inner.gradient_rows == 4 * (20 - acts)
    with pytest.raises(UnsuitableError, match="guidance_rescale: expected 0 beside a method that takes gradients"):
        drawn(4, steer=reward, guidance_rescale=0.5)


def test_populations_share_a_null():
    plan = compiled(8, eta=1.0)
    smc = steering.Smc(lambda x: x[:, 0], population=4, keep=2)
    null = {"prompt": torch.arange(4.0, dtype=torch.float64)[:, None, None].expand(4, 1, 2), "offset": NULLS["offset"]}
    with pytest.raises(UnsuitableError, match="null_prompt: expected the same for all samples of a population"):
        drawn(4, plan, steer=smc, null=null)
    halves = {**null, "prompt": null["prompt"][[0, 0, 3, 3]]}
    x, _ = drawn(4, plan, steer=smc, null=halves)
    first, _ = drawn(2, plan, steer=smc, null={**halves, "prompt": halves["prompt"][:2]})
    torch.testing.assert_close(x[:2], first, rtol=0, atol=1e-12)
