"""What a keyword is taken for, and that the client's lists are the server's."""

import pytest

import steering
from serving.wire.parameters import EVERYWHERE, Parameters
from serving.wire.solving import Solving
from steering.dynamics import Status
from steering.targets.rewards import BUILT_IN
from tiltserve import InvalidArgument, names, solving
from tiltserve.listings import Metadata, Tensor

MODEL = Metadata("m", ["1"], "", [Tensor("label", "INT64", (-1,)), Tensor("null_label", "INT64", (-1,))], [])


def test_the_lists_are_those_of_the_server():
    options = {name for solver in steering.solvers.values() for name in solver.options}
    assert {*Parameters.model_fields, *options, *EVERYWHERE} == names.PARAMETERS | names.STREAMED
    assert {name: (*each.arguments,) for name, each in BUILT_IN.items()} == dict(names.BUILT_IN)


def test_the_lists_of_requests_for_trajectories_are_those_of_the_server():
    assert {*Solving.model_fields, *EVERYWHERE} == solving.PARAMETERS
    assert [each.name.lower() for each in Status] == [*solving.STATUSES]


@pytest.mark.parametrize(
    ("name", "reward", "arguments", "expected"),
    [
        ("label", None, set(), "condition"),
        ("null_label", None, set(), "condition"),
        ("label", "linear", {"direction"}, "condition"),
        ("label", "client", set(), "condition"),
        ("direction", "linear", {"direction"}, "argument"),
        ("scale", "a service", None, "argument"),
        ("stpes", None, set(), "parameter"),
        ("stpes", "linear", {"direction"}, "parameter"),
    ],
)
def test_kinds(name: str, reward: str | None, arguments: set[str] | None, expected: str):
    assert names.kind(name, MODEL, reward, arguments) == expected


@pytest.mark.parametrize("arguments", [{"label"}, None])
def test_what_may_be_both_is_refused(arguments: set[str] | None):
    with pytest.raises(InvalidArgument, match=r"conditions=\{'label': ...\} or reward_args=\{'label': ...\}"):
        names.kind("label", MODEL, "classifier", arguments)
