"""The choice of a replica, and the directory that it is made from."""

import collections
import random
from dataclasses import replace

import grpc
import pytest

from serving.fleet.directory import Directory, FrontState, ModelState, ReplicaState
from serving.front import router
from serving.front.summary import summaries
from serving.wire.errors import RequestError


def replica(name: str, *models: ModelState, backlog: int = 0, draining: bool = False) -> ReplicaState:
    models = models or (digits(),)
    return ReplicaState(name, f"127.0.0.1:{len(name)}", 1, models, backlog_rows=backlog, draining=draining)


def digits(version="1", state="READY", fingerprint="f", reason="") -> ModelState:
    return ModelState("digits", version, "sampler", state, reason, fingerprint)


def picked(replicas, name="digits", version="", **how) -> collections.Counter[str]:
    rng = random.Random(0)
    index = router.Index.of(replicas)
    return collections.Counter(router.choose(index, name, version, rng=rng, **how).replica.id for _ in range(200))


def refusal(replicas, name="digits", version="", **how) -> RequestError:
    with pytest.raises(RequestError) as caught:
        router.choose(router.Index.of(replicas), name, version, **how)
    return caught.value


def test_equal_replicas_share_the_work():
    assert min(picked([replica("a"), replica("b")]).values()) > 60


def test_the_less_loaded_of_two_is_taken():
    assert picked([replica("a", backlog=100), replica("b", backlog=99)]) == {"b": 200}


def test_the_most_loaded_of_many_is_never_taken():
    counts = picked([replica("a", backlog=10), replica("b", backlog=20), replica("c", backlog=30)])
    assert counts["a"] > counts["b"] > counts["c"] == 0


def test_rows_count_before_they_are_reported():
    replicas = [replica("a"), replica("b", backlog=30)]
    assert picked(replicas, unreported={"a": 31, "b": 0}.__getitem__) == {"b": 200}
    assert picked(replicas, unreported={"a": 29, "b": 0}.__getitem__) == {"a": 200}


def test_only_replicas_of_the_fingerprint():
    replicas = [replica("a", digits(fingerprint="f")), replica("b", digits(fingerprint="g"))]
    assert picked(replicas, fingerprint="g") == {"b": 200}
    assert refusal(replicas, fingerprint="h").code is grpc.StatusCode.UNAVAILABLE


def test_what_a_request_needs_beside_its_model_is_there_too():
    other = replace(digits(fingerprint="o"), name="other")
    newer = replace(other, version="2", fingerprint="p")
    replicas = [replica("a"), replica("b", digits(), other), replica("c", digits(), other, newer)]
    assert {*picked(replicas, beside=[router.Beside("other")])} == {"b", "c"}
    assert picked(replicas, beside=[router.Beside("other", "2")]) == {"c": 200}
    assert picked(replicas, beside=[router.Beside("other", "", "o")]) == {"b": 200}  # "c" would use the newer one
    assert {*picked(replicas, beside=[router.Beside("other", "1", "o")])} == {"b", "c"}
    assert refusal(replicas, beside=[router.Beside("none")]).code is grpc.StatusCode.NOT_FOUND
    assert refusal(replicas, beside=[router.Beside("other", "3")]).code is grpc.StatusCode.NOT_FOUND
    apart = refusal([replica("a"), replica("b", other)], beside=[router.Beside("other")])
    assert apart.code is grpc.StatusCode.UNAVAILABLE
    assert "models 'digits', 'other': no replica that takes requests has all of them" in apart.detail


def test_of_many_the_load_evens_out():
    """Requests of 5 to 1000 rows, reports far behind: a front that counts its own rows keeps ten replicas even."""
    rng = random.Random(1)
    replicas = [replica(f"r{i}") for i in range(10)]
    sent: collections.Counter[str] = collections.Counter()
    index = router.Index.of(replicas)
    for _ in range(4000):
        target = router.choose(index, "digits", unreported=sent.__getitem__, rng=rng)
        assert target.load == sent[target.replica.id]
        sent[target.replica.id] += rng.randint(5, 1000)
    assert max(sent.values()) - min(sent.values()) < 5000  # a random choice: 70,000


def test_excluded_and_draining_replicas_get_nothing():
    replicas = [replica("a"), replica("b"), replica("c", draining=True)]
    assert picked(replicas, exclude={"a"}) == {"b": 200}
    assert refusal(replicas, exclude={"a", "b"}).code is grpc.StatusCode.UNAVAILABLE


def test_the_newest_ready_version_unless_asked():
    replicas = [replica("a", digits("9"), digits("10"), digits("11", "LOADING"))]
    assert router.choose(router.Index.of(replicas), "digits").model.version == "10"
    assert router.choose(router.Index.of(replicas), "digits", "9").model.version == "9"


def versions(replicas, **how) -> collections.Counter[str]:
    rng, index = random.Random(0), router.Index.of(replicas)
    return collections.Counter(router.choose(index, "digits", rng=rng, **how).model.version for _ in range(400))


def test_a_new_version_gets_the_share_of_its_replicas():
    old = [replica(name, digits("1")) for name in "abc"]
    both = replica("d", digits("1"), digits("2"))
    assert 60 < versions([*old, both])["2"] < 140
    assert versions([replica(name, digits("1"), digits("2")) for name in "abcd"]) == {"2": 400}
    # one that was tried has no share
    assert versions([old[0], both], exclude={"a"}) == {"2": 400}


def test_what_is_cold_gets_nothing_while_something_is_warm():
    """A new version that still lacks its bank, or a replica that has just started."""
    cold = replace(digits("2"), cold=True)
    upgraded = replica("a", digits("1"), cold)
    target = router.choose(router.Index.of([upgraded]), "digits")
    assert (target.model.version, target.pinned) == ("1", True)
    assert router.choose(router.Index.of([upgraded]), "digits", "2").model.version == "2"
    assert versions([replica("a", digits("1")), replica("b", cold)]) == {"1": 400}
    assert picked([replica("a", cold), replica("b", cold)]).keys() == {"a", "b"}
    warm = router.choose(router.Index.of([replica("a", digits("1"), digits("2"))]), "digits")
    assert (warm.model.version, warm.pinned) == ("2", False)
    assert refusal([upgraded], fingerprint="other").code is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("replicas", "name", "version", "code", "text"),
    [
        ([], "digits", "", "UNAVAILABLE", "model 'digits': no replica is up"),
        ([replica("a")], "dogs", "", "NOT_FOUND", "unknown model 'dogs', expected one of digits"),
        ([replica("a")], "digits", "2", "NOT_FOUND", "model 'digits': unknown version '2', expected one of 1"),
        ([replica("a", digits(state="LOADING"))], "digits", "", "UNAVAILABLE", "model 'digits' is loading"),
        (
            [replica("a", digits(state="UNAVAILABLE", reason="truncated file"))],
            "digits",
            "",
            "UNAVAILABLE",
            "model 'digits' is unavailable: truncated file",
        ),
    ],
)
def test_refusals_say_why(replicas, name, version, code, text):
    error = refusal(replicas, name, version)
    assert (error.code.name, error.detail) == (code, text)


def test_a_long_refusal_fits_into_a_header():
    assert len(refusal([replica("a")], "x" * 100_000).detail) == 1000


def test_an_index_lists_models_in_order_and_says_what_is_ready():
    other = ModelState("cats", "1", "network", "LOADING")
    index = router.Index.of([replica("a", digits("10"), digits("9"), other), replica("b", digits("9"))])
    assert list(index.models) == ["cats", "digits"]
    assert [state.version for state in index.models["digits"].states] == ["9", "9", "10"]
    assert index.any_ready
    assert not router.Index.of([replica("a", other), replica("b", draining=True)]).any_ready


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_replica_lives_three_seconds_after_its_last_beat():
    clock = Clock()
    directory = Directory(clock=clock)
    directory.beat(replica("a"))
    clock.now += 2
    directory.beat(replica("b"))
    assert [each.id for each in directory.listing().replicas] == ["a", "b"]
    clock.now += 1
    assert [each.id for each in directory.listing().replicas] == ["b"]
    directory.beat(replica("b", backlog=7))
    assert [each.backlog_rows for each in directory.listing().replicas] == [7]
    directory.leave("b")
    directory.leave("b")
    assert directory.listing().replicas == []


def test_fronts_are_listed_while_they_announce_themselves():
    clock = Clock()
    directory = Directory(clock=clock)
    directory.announce_front("127.0.0.1:1", "127.0.0.1:2")
    assert directory.fronts() == [FrontState("127.0.0.1:1", "127.0.0.1:2")]
    clock.now += 3
    assert directory.fronts() == []


def test_replicas_that_differ_are_named():
    two, four = (
        ReplicaState(name, "x:1", 1, (digits(fingerprint=name),), threads=t) for name, t in (("a", 2), ("b", 4))
    )
    (told,) = summaries(router.Index.of([two, four]), "digits")
    assert told.reason == (
        "2 fingerprints on 2 replicas, whose answers differ in bytes:  CPU with 2 threads,  CPU with 4 threads"
    )
    cold = ReplicaState("b", "x:1", 1, (replace(digits(fingerprint="g"), cold=True),))
    for others in ([], [cold], [replace(two, id="b")]):
        assert summaries(router.Index.of([two, *others]), "digits")[0].unequal == ""
