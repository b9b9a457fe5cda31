"""A view's gradient depends on nothing but its own numbers: not on its neighbours, the call or the process."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import steering
from steering import Doob, PlanError, SteeringError, distillation, paths, posteriors
from steering.distillation import Distilled, Negatives, Ramp, Settings, Times, schedule
from steering.problems import GaussianMixture
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem

D, SEED = 6, 11
LAW = GaussianMixture.random(D, 3, seed=0)
PATH = paths.vp_cosine()
EXACT = LAW.network(PATH, "eps")
SAMPLES = LAW.sample(300, 9).to(torch.float32)
DIRECTION = torch.randn(D, generator=torch.Generator().manual_seed(3))


def network(x: Tensor, t: Tensor, shift: Tensor | None = None) -> Tensor:
    """The mixture's, moved by a condition."""
    return EXACT(x, t) if shift is None else EXACT(x, t) + shift


def slope(x: Tensor) -> Tensor:
    return (x * DIRECTION).sum(dim=1)


def views(n: int) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(7))


def shifts(n: int) -> Tensor:
    return 0.3 * torch.randn(n, D, generator=torch.Generator().manual_seed(8))


def distilled(x: Tensor, **other: Any) -> Distilled:
    return steering.distill(
        other.pop("network", network), x, path=PATH, prediction="eps", **{"iteration": 40, "seed": SEED, **other}
    )


def tilts() -> dict[str, Doob | None]:
    return {
        "plain": None,
        "bank": Doob(slope, posterior=posteriors.bank(SAMPLES), refresh=False),
        "gaussian": Doob(slope, particles=8, posterior=posteriors.gaussian()),
        "rollout": Doob(slope, particles=4, posterior=posteriors.rollout(2)),
    }


@pytest.mark.parametrize(
    ("mode", "steer"), [("reward_sds", "plain"), *itertools.product(("sds", "cds", "ism"), tilts())]
)
def test_a_view_has_the_same_bits_alone_and_among_others(mode: str, steer: str) -> None:
    other: dict[str, Any] = {"mode": mode, "over": 5}
    if mode == "reward_sds":
        other["reward"] = slope
    elif mode != "ism":
        other["noises"] = 2
    if steer in ("plain", "gaussian"):  # a bank belongs to one law
        other |= {"guidance": 3.0, "null": {"shift": torch.zeros(1, D)}}
    x, shift, method = views(5), shifts(5), tilts()[steer]

    def of(rows: Sequence[int]) -> Distilled:
        index = torch.tensor(rows)
        condition = {"shift": shift[index]} if "guidance" in other else None
        return distilled(x[index], condition=condition, views=rows, steer=method, **other)

    whole = of(range(5))
    assert steer == "bank" or (whole.reward_rows > 0) == (steer != "plain" or mode == "reward_sds")
    for rows in ([3], [4, 1]):
        part = of(rows)
        assert torch.equal(part.gradient, whole.gradient[rows])
        for name in ("loss", "norm", "t1", "t2", "rho1", "rho2"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[rows]), name
    assert len({*whole.t1.tolist()}) == 5, "views look at times of their own"


def test_iterations_and_seeds_differ_and_repeat() -> None:
    x = views(2)
    first = distilled(x, mode="sds").gradient
    assert torch.equal(first, distilled(x, mode="sds").gradient)
    for other in ({"iteration": 41}, {"seed": 12}, {"views": [1, 0]}):
        assert not torch.equal(first, distilled(x, mode="sds", **other).gradient), other


def test_fixed_noise_stays_and_times_go_on() -> None:
    """At the same two times, CDS gives one gradient in all iterations, SDS does not."""
    times = Times(torch.tensor(0.5), torch.tensor(0.4))
    for mode, alike in (("cds", True), ("sds", False)):
        one, other = (distilled(views(2), mode=mode, times=times, iteration=i).gradient for i in (0, 9))
        assert torch.equal(one, other) == alike, mode


def test_more_noises_are_averaged() -> None:
    """Two noises are the mean of the first and another; views of one number share theirs."""
    x, times = views(1), Times(torch.tensor(0.5))
    noise = distillation.noises.normal("iteration", SEED, 40, [0], 2, (D,))
    alpha, sigma = float(PATH.alpha(0.5)), float(PATH.sigma(0.5))
    each = [network(alpha * x + sigma * n, torch.full((1,), 0.5)) - n for n in noise]
    got = distilled(x, times=times, noises=2)
    assert float((got.gradient - (each[0] + each[1]) / 2).abs().max()) < 1e-5
    assert got.network_rows == 2
    pair = distilled(x.repeat(2, 1), times=times, views=[5, 5])
    assert torch.equal(pair.gradient[0], pair.gradient[1])


def test_the_loss_averages_over_the_views() -> None:
    """loss = sum |d|^2 / (2 B), gradient = d / B, with the weight inside and the clip before the division."""
    x = views(4)
    plain = distilled(x)
    d = 4 * plain.gradient.double()
    assert float((plain.loss - d.square().sum(1) / 8).abs().max()) < 1e-5
    assert float((plain.norm - d.norm(dim=1) / 4).abs().max()) < 1e-6
    weighted = distilled(x, weighting="sds")
    w = plain.rho1**2 / (1 + plain.rho1**2)
    assert float((weighted.gradient - plain.gradient * w[:, None]).abs().max()) < 1e-6
    fantasia = distilled(x, weighting="fantasia3d")
    assert float((fantasia.gradient - weighted.gradient / (1 + plain.rho1**2).sqrt()[:, None]).abs().max()) < 1e-6
    clipped = distilled(x, clip=Ramp(0.2, 0.6, 80))  # 0.4 at iteration 40
    assert float((clipped.gradient - d.clamp(-0.4, 0.4) / 4).abs().max()) < 1e-6


def test_weighted_noises_of_a_reward() -> None:
    """The weights are softmax(r(D) / beta) over a view's noises."""
    x, times, beta = views(3), Times(torch.tensor(0.5)), 0.4
    noise = distillation.noises.normal("iteration", SEED, 40, range(3), 4, (D,))
    alpha, sigma = float(PATH.alpha(0.5)), float(PATH.sigma(0.5))
    eps = torch.stack([network(alpha * x + sigma * n, torch.full((3,), 0.5)) for n in noise.float()])
    denoised = x + sigma / alpha * (noise - eps)
    weights = torch.softmax(torch.stack([slope(each.float()) for each in denoised]) / beta, 0)
    wanted = (weights[:, :, None] * (eps - noise)).sum(0)
    got = distilled(x, times=times, mode="reward_sds", reward=slope, beta=beta)
    assert float((3 * got.gradient - wanted).abs().max()) < 1e-5
    assert (got.network_rows, got.reward_rows) == (12, 12)


def test_negative_conditions_push_at_right_angles() -> None:
    """null + w (e + sum_k w_k (e_k less its part along e)), e of the condition, e_k of the negatives."""
    x, shift, times = views(2), shifts(2), Times(torch.tensor(0.5))
    away = torch.randn(2, 3, D, generator=torch.Generator().manual_seed(5))
    weights = -torch.rand(2, 3, generator=torch.Generator().manual_seed(6))
    got = distilled(
        x, times=times, condition={"shift": shift}, null={"shift": torch.zeros(1, D)}, guidance=2.5,
        negatives=Negatives({"shift": away}, weights),
    )  # fmt: skip
    along = (away * shift[:, None]).sum(-1, keepdim=True) / shift.square().sum(-1)[:, None, None] * shift[:, None]
    pushed = shift + (weights[:, :, None] * (away - along)).sum(1)
    noise = distillation.noises.normal("iteration", SEED, 40, range(2), 1, (D,))[0]
    state = float(PATH.alpha(0.5)) * x + float(PATH.sigma(0.5)) * noise.float()
    wanted = network(state, torch.full((2,), 0.5)) + 2.5 * pushed - noise
    assert float((2 * got.gradient - wanted).abs().max()) < 1e-5
    assert got.network_rows == 10


def test_numbers_that_are_none_are_counted() -> None:
    """One view that went wrong does not end an optimisation, nor touch the others."""

    def wild(x: Tensor, t: Tensor) -> Tensor:
        out = network(x, t)
        out[x[:, 0] > 20, 2] = torch.nan
        return out

    x = views(3)
    x[1, 0] = 1000.0
    got, plain = distilled(x, network=wild), distilled(x)
    assert got.nonfinite == 1
    assert float(got.gradient[1, 2]) == 0
    assert torch.equal(got.gradient[[0, 2]], plain.gradient[[0, 2]])
    half = distilled(x, dtype=torch.float16, network=lambda x, t: network(x.float(), t.float()).half() * 60000)
    assert bool(half.gradient.isfinite().all())


def test_a_bank_is_drawn_once_and_tilts() -> None:
    """Its rows are counted apart, and the tilted gradient goes toward the reward."""
    steer, x = Doob(slope, beta=0.3, particles=8, posterior=posteriors.gaussian()), views(4)
    first = distilled(x, steer=steer)
    again = distilled(x, steer=steer)
    assert first.setup_rows > 0
    assert again.setup_rows == 0
    assert torch.equal(first.gradient, again.gradient)
    assert first.reward_rows == 4 * 8
    assert first.ess.shape == (1, 4)
    toward = ((distilled(x).gradient - first.gradient) * DIRECTION).sum(dim=1)
    assert bool((toward > 0).all()), "down the tilted gradient is up the reward"


def test_summed_priors() -> None:
    x = views(2)
    one, other = distilled(x), distilled(x, network=lambda x, t: 0 * x)
    both = distillation.summed([(0.25, one), (2.0, other)])
    assert float((both.gradient - (0.25 * one.gradient + 2 * other.gradient)).abs().max()) < 1e-6
    assert both.network_rows == 4
    with pytest.raises(PlanError, match="weights"):
        distillation.summed([(float("nan"), one)])


def test_rows_are_known_before_they_are_asked() -> None:
    """`network_rows` is what a gradient will take."""
    x, shift = views(3), shifts(3)
    for mode in ("sds", "cds", "ism"):
        for guidance in (1.0, 4.0):
            problem = Problem(
                plan=distillation.prior(PATH, "eps"), event=(D,), condition={"shift": shift}, guidance=guidance,
                null={"shift": torch.zeros(1, D)},
            )  # fmt: skip
            settings = Settings(mode=mode, times=schedule("coarse"))
            _, second = distillation.times_of(problem, settings, 900, SEED, range(3))
            got = steering.solve(distillation.gradient(problem, x, settings, iteration=900, seed=SEED), network)
            assert got.network_rows == distillation.network_rows(problem, settings, second.rho), (mode, guidance)
            assert mode != "ism" or got.network_rows > 9, "some views take several steps of inversion"


def test_all_views_are_asked_at_once() -> None:
    """Of a call of the network for every level, also with steering at times of its own in every view."""
    asked: list[Rows] = []
    problem = Problem(plan=distillation.prior(PATH, "eps"), event=(D,))
    steer = Doob(slope, particles=4, posterior=posteriors.gaussian().calibrated(posteriors.calibration.Uncalibrated()))
    asking = distillation.gradient(problem, views(5), Settings(mode="cds"), iteration=1, seed=0, steer=steer)
    try:
        rows = next(asking)
        while True:
            asked.append(rows)
            rows = asking.send(network(rows.x, rows.t) if rows.kind == "network" else slope(rows.x))
    except StopIteration:
        pass
    assert [(rows.kind, len(rows)) for rows in asked] == [("network", 5), ("reward", 20)] * 2


NULL = {"shift": torch.zeros(1, D)}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"mode": "vsd"}, "trained on the fly"),
    ({"mode": "sdss"}, r"unknown mode 'sdss' \(did you mean 'sds'\?\)"),
    ({"noise": "none"}, "unknown noise"),
    ({"mode": "ism", "noise": "fixed"}, "draws none"),
    ({"mode": "ism", "noises": 2}, "noises: expected 1..1"),
    ({"noises": 65}, "noises: expected 1..64"),
    ({"mode": "reward_sds"}, "expected a reward"),
    ({"reward": slope}, "expected no reward"),
    ({"weighting": "sjc"}, "unknown weighting"),
    ({"clip": -1.0}, "clip: expected"),
    ({"rescale": 1.5}, "rescale: expected"),
    ({"times": "fine"}, "unknown schedule 'fine'"),
    ({"times": Times(torch.tensor(0.5)), "mode": "cds"}, "t2: expected a time below t1"),
    ({"times": Times(torch.tensor(0.5), torch.tensor(0.5)), "mode": "cds"}, "t2: expected a time below t1"),
    ({"times": Times(torch.tensor([0.5, 0.6]), torch.tensor(0.4))}, "one for each of 3 views"),
    ({"times": Times(torch.tensor([0.5, 1.5, 0.7]))}, r"t1: expected a time in 0.001..0.9946, .* got 1.5 in view 1"),
    ({"times": Times(torch.tensor(torch.nan))}, "finite times"),
    ({"iteration": -1}, "iteration: expected"),
    ({"iteration": 1.0}, "iteration: expected"),
    ({"seed": -1}, "seed: expected"),
    ({"views": [0, 1]}, "views: expected 3 numbers"),
    ({"over": 0}, "over: expected"),
    ({"steer": []}, "one method for each of 3 views"),
    ({"steer": [Doob(slope)]}, "one for each of 3 views, got 1"),
    ({"steer": steering.Smc(slope)}, "got Smc"),
    ({"guidance": 2.0}, "guidance"),
    ({"negatives": Negatives({"shift": torch.zeros(3, 1, D)}, torch.ones(3, 1))}, "negatives: expected"),
    ({"condition": {"shift": torch.zeros(2, D)}}, "condition 'shift'"),
    ({"prediction": "eqs"}, "unknown prediction"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "told"), WRONG)
def test_what_is_wrong_is_said_in_a_line(wrong: dict[str, Any], told: str) -> None:
    arguments = {"path": PATH, "prediction": "eps", "iteration": 0, "seed": SEED, **wrong}
    with pytest.raises(ValueError, match=told) as error:
        steering.distill(network, views(3), **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("x", [torch.zeros(0, D), torch.full((2, D), torch.nan), torch.zeros(2, D, dtype=torch.int64)])
def test_views_that_are_none(x: Tensor) -> None:
    with pytest.raises(PlanError, match="views: expected"):
        distilled(x)


def test_a_network_of_the_wrong_shape_and_a_failing_reward() -> None:
    with pytest.raises(steering.NetworkError, match=r"expected output of shape \[3, 6\], got \[3, 5\]"):
        distilled(views(3), network=lambda x, t: x[:, :5], tile=None)
    with pytest.raises(SteeringError, match="reward"):
        distilled(views(3), steer=Doob(lambda x: x[:, 0] * torch.nan, posterior=posteriors.gaussian()))


def test_plans_of_other_kinds_are_refused() -> None:
    for plan in (
        steering.plan("ddim", path=PATH, steps=2, prediction="eps", eta=1.0),
        steering.plan("ddim", path=paths.edm(sigma_min=0.01, sigma_max=9.0), trained=PATH, steps=2, prediction="eps"),
        steering.plan("consistency", path=PATH, steps=2, prediction="x0"),
    ):
        problem = Problem(plan=plan, event=(D,))
        with pytest.raises(PlanError, match="plan: expected"):
            next(distillation.gradient(problem, views(1), Settings(), iteration=0, seed=0))


def test_advice() -> None:
    """One noise for SDS, and levels far above the data's width for CDS."""
    assert "noise" in distilled(views(1), noise="fixed").warnings[0]
    assert not distilled(views(1)).warnings
    assert "rho" in distilled(views(1), mode="cds", iteration=0, deviation=0.1).warnings[0]
    assert not distilled(views(1), mode="cds", iteration=2900, deviation=1.0).warnings
