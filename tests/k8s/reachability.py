"""What network policies let through, between pods of one release and others."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Peer:
    """A pod: its labels, and its namespace's name."""

    labels: Labels
    namespace: str


def reaches(policies: list[dict[str, Any]], home: str, source: Peer, target: Peer, port: int) -> bool:
    """Whether a TCP connection is let through: out of the source and into the target. Policies are of one namespace;
    pods of others are behind none."""
    return _lets(policies, home, "egress", source, target, port) and _lets(
        policies, home, "ingress", target, source, port
    )


def _lets(policies: list[dict[str, Any]], home: str, way: str, subject: Peer, other: Peer, port: int) -> bool:
    of_it = [
        policy["spec"]
        for policy in policies
        if subject.namespace == home
        and way.capitalize() in policy["spec"]["policyTypes"]
        and _matches(policy["spec"]["podSelector"], subject.labels)
    ]
    rules = [rule for spec in of_it for rule in spec.get(way, [])]
    return not of_it or any(_ports(rule, port) and _peers(rule, way, home, other) for rule in rules)


def _ports(rule: dict[str, Any], port: int) -> bool:
    ports = rule.get("ports")
    return not ports or any(
        each["protocol"] == "TCP" and each["port"] <= port <= each.get("endPort", each["port"]) for each in ports
    )


def _peers(rule: dict[str, Any], way: str, home: str, other: Peer) -> bool:
    peers = rule.get("from" if way == "ingress" else "to")
    return not peers or any(_is(peer, home, other) for peer in peers)


def _is(peer: dict[str, Any], home: str, other: Peer) -> bool:
    namespaces = peer.get("namespaceSelector")
    if namespaces is None:
        there = other.namespace == home
    else:
        there = _matches(namespaces, {"kubernetes.io/metadata.name": other.namespace})
    return there and _matches(peer.get("podSelector", {}), other.labels)


def _matches(selector: dict[str, Any], labels: Labels) -> bool:
    assert selector.keys() <= {"matchLabels"}, "expected matchLabels alone"
    return all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())
