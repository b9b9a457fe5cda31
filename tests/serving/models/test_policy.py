"""Triton's version policy, for any versions."""

from hypothesis import given
from hypothesis import strategies as st

from serving.models.policy import Policy, order, served

VERSIONS = st.lists(st.integers(0, 30).map(str) | st.sampled_from(["007", "01", "00"]), min_size=1, unique=True)


@given(VERSIONS, st.integers(0, 40))
def test_latest_serves_the_newest(there: list[str], count: int):
    found, fault = served(Policy(latest=Policy.Latest(num_versions=count)), there)
    assert not fault
    assert len(found) == min(len(there), max(1, count))
    assert found == sorted(found, key=order)
    assert all(order(each) < order(one) for each in set(there) - set(found) for one in found)


@given(VERSIONS)
def test_without_a_policy_the_newest_is_served_and_with_all_everyone(there: list[str]):
    assert served(Policy(), there) == ([max(there, key=order)], "")
    assert served(Policy(all=Policy.All()), there) == (sorted(there, key=order), "")


@given(VERSIONS, st.lists(st.integers(-2, 40), max_size=8))
def test_specific_serves_those_that_are_there_and_names_the_others(there: list[str], wanted: list[int]):
    found, fault = served(Policy(specific=Policy.Specific(versions=wanted)), there)
    assert found == [each for each in sorted(there, key=order) if int(each) in wanted]
    missing = set(wanted) - {int(each) for each in there}
    assert bool(fault) == bool(missing or not wanted)
    if missing:
        assert f"of version {', '.join(map(str, sorted(missing)))}, got " in fault
