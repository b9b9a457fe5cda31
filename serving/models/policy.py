"""Which versions of a model are served: Triton's `version_policy`."""

from collections.abc import Collection, Sequence
from typing import TypeAlias

from tritonclient.grpc import model_config_pb2

Policy: TypeAlias = model_config_pb2.ModelVersionPolicy


def order(version: str) -> tuple[int, str]:
    """Sort key of versions that are numbers: 2 < 10."""
    return int(version), version


def served(policy: Policy, there: Collection[str]) -> tuple[list[str], str]:
    """The versions to serve, oldest first, of those whose folders are there; and what is wrong with the policy, empty
    for nothing.

    `latest` serves the newest `num_versions` (1 where it says none, as where there is no policy), `all` every one, and
    `specific` those that it names.
    """
    versions = sorted(there, key=order)
    if policy.HasField("all"):
        return versions, ""
    if policy.HasField("specific"):
        wanted = {*policy.specific.versions}
        missing = sorted(wanted - {int(each) for each in versions})
        return [each for each in versions if int(each) in wanted], _missing(missing, wanted, versions)
    return versions[-max(1, policy.latest.num_versions) :], ""


def _missing(missing: Sequence[int], wanted: Collection[int], versions: Sequence[str]) -> str:
    if wanted and not missing:
        return ""
    said = ", ".join(map(str, missing)) or "none"
    return f"version_policy: expected a folder of version {said}, got {', '.join(versions)}"
