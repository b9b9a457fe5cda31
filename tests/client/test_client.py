"""The client before a real server."""

import json
import threading
import time
from typing import Any

import numpy as np
import pytest

from tests.serving.live import MODE, Floats, Live, near, nearness, until
from tiltserve import (
    Client,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Report,
    ResourceExhausted,
    Unavailable,
)

LONG: dict[str, Any] = {"n": 64, "steps": 1000, "seed": 1}


def test_samples_are_those_of_an_unmodified_client(client: Client, served: Live):
    drawn = client.sample("rings", n=5, seed=3, steps=4)
    outputs, parameters = served.infer(samples=5, seed=3, steps=4)
    assert drawn.samples.tobytes() == outputs["samples"].tobytes()
    assert (drawn.seed, drawn.network_rows, drawn.solver) == (3, 20, parameters["solver"])
    assert (drawn.fingerprint, drawn.steering) == (parameters["fingerprint"], "none")
    assert (drawn.rewards, drawn.report, drawn.ess, drawn.log_z, drawn.warnings) == (None, None, None, None, [])
    assert (drawn.model, drawn.version) == ("rings", "1")
    assert 0 < drawn.seconds < 60


def test_samples_are_an_array(client: Client):
    drawn = client.sample("rings", 3, steps=2)
    assert (drawn.shape, drawn.dtype, len(drawn)) == ((3, 2), np.dtype(np.float32), 3)
    assert np.asarray(drawn) is drawn.samples
    np.testing.assert_array_equal(np.stack(list(drawn)), drawn.samples)
    np.testing.assert_array_equal(drawn[1:], drawn.samples[1:])
    assert np.array(drawn, dtype=np.float64).dtype == np.float64
    drawn.samples[0] = 0  # they are the caller's
    assert repr(drawn) == f"<Samples: 3 of shape [2], seed {drawn.seed}, 6 network rows>"


def test_a_seed_is_drawn_before_the_first_try(client: Client):
    first, second = client.sample("rings", steps=2), client.sample("rings", steps=2)
    assert first.seed != second.seed
    assert client.sample("rings", steps=2, seed=first.seed).samples.tobytes() == first.samples.tobytes()


def test_steered_samples_with_their_report(client: Client):
    drawn = client.sample("rings", n=32, reward="nearness", mode=MODE, beta=0.2, steps=8, seed=1)
    assert near(drawn.samples) > 0.95
    assert drawn.rewards is not None
    assert drawn.rewards.shape == (32,)
    assert drawn.ess is not None
    assert drawn.log_z is not None
    said = json.loads(str(drawn.parameters["report"]))
    assert isinstance(drawn.report, Report)
    assert drawn.report.ess == said["ess"]
    assert (drawn.report.methods, drawn.report.distinct) == (said["methods"], 32)
    same = client.sample("rings", n=32, reward="nearness", reward_mode=MODE, beta=0.2, steps=8, seed=1)
    assert same.samples.tobytes() == drawn.samples.tobytes()


def test_a_report_of_no_weight_and_of_a_newer_server():
    assert Report.of('{"ess":[1.5],"log_z":null,"no_hit":3,"new":1}') == Report(ess=[1.5], log_z=-np.inf, no_hit=3)
    assert Report.of("{}").log_z is None


def test_warnings_are_a_list(client: Client):
    drawn = client.sample("rings", 8, reward="nearness", mode=MODE, threshold=-1e-9, steps=4, refresh=False)
    assert any("no sample meets the threshold" in each for each in drawn.warnings)
    assert drawn.report is not None
    assert drawn.report.hits == 0


@pytest.mark.parametrize("label", [1, np.int32(1), [1], np.array([1, 1, 1])])
def test_conditions_by_name(client: Client, label: object):
    expected = client.sample("stripes", 3, seed=1, steps=2, conditions={"label": np.array([1])})
    assert client.sample("stripes", 3, seed=1, steps=2, label=label).samples.tobytes() == expected.samples.tobytes()
    assert client.sample("stripes", 3, seed=1, steps=2, label=2).samples.tobytes() != expected.samples.tobytes()


def test_a_condition_beside_a_reward(client: Client):
    direction = np.ones((1, 4, 4))
    drawn = client.sample("stripes", 2, steps=2, label=1, guidance=2, reward="linear", direction=direction, scale=3)
    assert drawn.rewards is not None
    np.testing.assert_allclose(drawn.rewards, 3 * drawn.samples.reshape(2, -1).sum(axis=1), rtol=1e-4)
    with pytest.raises(InvalidArgument) as caught:
        client.sample("stripes", 2, steps=2, label=1, reward="2 * linear", direction=direction)
    assert caught.value.message == (
        "label: model 'stripes' has a condition and reward '2 * linear' may take an argument of this name, "
        "expected conditions={'label': ...} or reward_args={'label': ...}"
    )
    client.sample("stripes", 2, steps=2, conditions={"label": 1}, reward="2 * linear", direction=direction)


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({"stpes": 3}, "unknown parameter 'stpes', did you mean 'steps'?"),
        ({"stpes": 3, "reward": "nearness", "mode": 1}, "unknown parameter 'stpes', did you mean 'steps'?"),
        ({"reward": "nearness", "mod": 1}, "unknown keyword 'mod', did you mean 'mode'?"),
        ({"qq": 1}, "unknown keyword 'qq': expected a parameter or a condition (the model has none); a reward's"),
        (
            {"qq": 1, "reward": "nearness", "mode": 1},
            "unknown keyword 'qq': expected a parameter, a condition (the model has none) or an argument of reward "
            "'nearness' (",
        ),
        ({"score": "nearness"}, "score: expected a function of candidates, got str"),
        ({"steps": 0}, "parameter steps: expected greater than or equal to 1, got 0"),
        ({"samples": 3, "n": 3}, "samples: expected n or samples, got 3 and 3"),
        ({"steps": [3]}, "steps: expected a number, a truth value or a text, got list"),
        ({"seed": 2**64}, "seed: expected a number of 64 bits, got 18446744073709551616"),
        ({"x_init": "here"}, "x_init: expected FP32, got object 'here'"),
        ({"mask": [0.5, 1]}, "mask: expected BOOL, got float64 [0.5 1. ]"),
        ({"mask": [[0.5, 1]]}, "mask: expected BOOL, got float64 [1, 2]"),
        ({"steps": [[1, 2], [3]]}, "steps: expected an array, got list: setting an array element with a sequence"),
        ({"qq": [[1, 2], [3]]}, "qq: expected an array, got list: setting an array element with a sequence"),
        ({"n": "a red heart"}, "n: expected a number, got a text; what to draw is prompt="),
        ({"reward": ["nearness"]}, "reward: expected a name or an expression, got list"),
        ({"x_init": {}}, "x_init: expected FP32, got object {}"),
        ({"conditions": {"label": 1}}, "unknown input 'label', expected one of"),
        ({"preview_every": 2}, "preview_every: expected on_preview= beside it, or stream, got none"),
        ({"reward": "nearness"}, "reward 'nearness': expected argument 'reward_mode', got none"),
    ],
)
def test_bad_arguments(client: Client, keywords: dict[str, Any], expected: str):
    with pytest.raises(InvalidArgument) as caught:
        client.sample("rings", **keywords)
    assert caught.value.message.startswith(expected)
    assert isinstance(caught.value, ValueError)


def test_a_reward_among_the_parameters_takes_arguments_too(client: Client):
    drawn = client.sample("rings", 2, steps=2, parameters={"reward": "linear"}, direction=[1, 0])
    np.testing.assert_allclose(drawn.rewards, drawn.samples[:, 0], rtol=1e-5)  # type: ignore[arg-type]


def test_what_a_type_cannot_hold_is_refused(client: Client):
    for label in (1.5, 2**70):
        with pytest.raises(InvalidArgument, match="label: expected"):
            client.sample("stripes", label=label)


def test_numbers_of_numpy_and_none(client: Client):
    plain = client.sample("rings", 2, seed=5, steps=3, eta=1.0, solver="ddim")
    numbers: dict[str, Any] = {"n": np.int64(2), "seed": np.uint32(5), "steps": np.int8(3), "eta": np.float32(1)}
    given = client.sample("rings", **numbers, solver="ddim", beta=None)
    assert given.samples.tobytes() == plain.samples.tobytes()


def test_inputs_and_an_explicit_grid(client: Client):
    x = client.sample("rings", 2, steps=2, seed=1).samples
    grid = [0.9, 0.5, 0.1]
    drawn = client.sample("rings", 2, x_init=x.astype(np.float64), grid=grid, known=x, mask=[True, False])
    np.testing.assert_array_equal(drawn.samples[:, 0], x[:, 0])
    assert drawn.network_rows == 4
    assert client.sample("rings", 2, steps=2, seed=1, grid="uniform").network_rows == 4


def test_other_failures_have_classes_of_their_own(client: Client, served: Live):
    with pytest.raises(NotFound, match=r"NOT_FOUND: unknown model 'rnigs', expected one of .*rings"):
        client.sample("rnigs")
    with pytest.raises(FailedPrecondition, match="nan"):
        client.sample("rings", 2, steps=2, reward="nan")
    with pytest.raises((DeadlineExceeded, ResourceExhausted)):
        client.sample("rings", timeout=0.05, **LONG)
    with pytest.raises(DeadlineExceeded, match="no answer within"):
        client.sample("rings", timeout=1e-9)
    with pytest.raises(ResourceExhausted, match="rows"):
        client.sample("rings", n=4096, steps=1000)
    with pytest.raises(InvalidArgument, match="expected a sampler with an output samples, got nearness with reward"):
        _ = client.metadata("nearness").event_shape
    until(lambda: served.metric("tiltserve_backlog_rows") == 0)


def test_nobody_there():
    with Client("127.0.0.1:1", retries=1) as client:
        start = time.monotonic()
        with pytest.raises(Unavailable, match="Connection refused"):
            client.sample("rings")
        assert time.monotonic() - start < 5
        assert not client.ready()


def test_infer_and_score(client: Client):
    x = np.random.default_rng(0).standard_normal((4, 2))
    scores = client.score("nearness", x, mode=MODE)
    np.testing.assert_allclose(scores, nearness(x.astype(np.float32)), rtol=1e-4)
    answer = client.infer("nearness", {"x": x.astype(np.float32), "mode": np.full(4, MODE)})
    assert [*answer] == ["reward"]
    np.testing.assert_array_equal(answer["reward"], scores)
    modes = np.arange(4)
    each = [client.score("nearness", x[i : i + 1], mode=i)[0] for i in modes]
    np.testing.assert_allclose(client.score("nearness", x, mode=modes), each, rtol=1e-6)
    with pytest.raises(NotFound, match="unknown model 'linear', expected a served network"):
        client.score("linear", x)
    with pytest.raises(InvalidArgument, match=r"x: expected samples for an input of 'nearness' \(x FP32"):
        client.score("nearness", x[0, 0], mode=1)
    with pytest.raises(InvalidArgument, match="x"):
        client.infer("nearness", {"x": x, "mode": np.full(4, MODE)})  # as it is: float64


def test_what_is_served(client: Client):
    models = {each.name: each for each in client.models()}
    assert {"rings", "rings.network", "stripes", "nearness"} <= {*models}
    assert (models["rings"].kind, models["rings"].state, models["rings"].versions) == ("sampler", "READY", ["1"])
    (replica,) = client.fleet().replicas
    assert replica.pid > 0
    assert replica.fingerprints.keys() >= {"rings"}
    metadata = client.metadata("stripes")
    assert metadata.event_shape == (1, 4, 4)
    assert metadata.input("label") is not None
    assert client.ready()
    assert client.ready("rings")
    assert not client.ready("rnigs")


def test_likelihoods(client: Client):
    x = client.sample("rings", 4, steps=8, seed=1).samples
    judged = client.likelihood("rings", x, steps=8, probes=8, seed=1)
    assert judged.log_likelihood.shape == judged.standard_error.shape == (4,)
    assert judged.network_rows > 0
    np.testing.assert_array_equal(
        client.likelihood("rings", x[:2], steps=8, probes=8, seed=1).log_likelihood, judged.log_likelihood[:2]
    )
    with pytest.raises(InvalidArgument, match="solver: expected none beside likelihood"):
        client.likelihood("rings", x, solver="heun")


def test_a_function_as_reward(client: Client):
    rows: list[int] = []

    def score(x: Floats) -> Floats:
        rows.append(len(x))
        return nearness(x)

    drawn = client.sample("rings", 32, score=score, beta=0.2, steps=8, seed=1)
    assert near(drawn.samples) > 0.95
    assert drawn.rewards is not None
    np.testing.assert_allclose(drawn.rewards, nearness(drawn.samples), rtol=1e-6)
    assert sum(rows) == drawn.reward_rows + drawn.setup_reward_rows
    both = client.sample(
        "rings", 8, score=score, reward=f"client + nearness(mode={MODE})", beta=0.4, steps=4, posterior="gaussian"
    )
    assert "-client+" in both.fingerprint


def test_a_function_that_fails(client: Client, served: Live):
    def breaks(x: Floats) -> Floats:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        client.sample("rings", 4, score=breaks, steps=4)
    with pytest.raises(InvalidArgument, match=r"score: expected scores of shape \[\d+\], got \[\d+, 2\]"):
        client.sample("rings", 4, score=lambda x: x, steps=4)
    with pytest.raises(FailedPrecondition, match="expected finite scores or -inf, got nan"):
        client.sample("rings", 4, score=lambda x: np.full(len(x), np.nan), steps=4)
    with pytest.raises(NotFound):
        client.sample("rnigs", 4, score=nearness)
    until(lambda: served.metric("tiltserve_backlog_rows") == 0)


def test_threads_share_a_client(client: Client):
    drawn: dict[int, bytes] = {}

    def draw(seed: int) -> None:
        drawn[seed] = client.sample("rings", 2, seed=seed, steps=4).samples.tobytes()

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert drawn == {seed: client.sample("rings", 2, seed=seed, steps=4).samples.tobytes() for seed in range(8)}


def test_a_closed_client_says_so(served: Live):
    client = Client(served.address)
    client.close()
    with pytest.raises(Exception, match="closed"):
        client.sample("rings")
