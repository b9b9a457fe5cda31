"""A graph is tried before it is served: it is refused where its rows depend on each other, or served on trust."""

import logging
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from protos.card import Range
from serving.backends import Backend, LoadError
from serving.backends.examination import Findings, find
from serving.backends.made_up import MadeUp
from serving.backends.triton import TritonNetwork
from serving.models.folders import Folder

_log = logging.getLogger(__name__)
MOST = 256
"""The most rows of a call, where nothing else is said."""


@dataclass(frozen=True)
class Tried:
    """What came of it.

    Attributes:
        made_up: inputs that the graph accepts, None where none were found.
        caution: what every answer that rests on the graph must say; empty for nothing.
        left_out: outputs that must not be served.
    """

    made_up: MadeUp | None
    caution: str
    left_out: frozenset[str]


@dataclass(frozen=True)
class Trials:
    """How a model's graph is tried.

    Attributes:
        most: the most rows of a call.
        trusted: serve it even if its rows are not independent, with a warning in every answer.
        known: what was found of graphs before, by their digest and outputs; what is found is added.
    """

    most: int = MOST
    trusted: bool = False
    known: MutableMapping[str, Findings] = field(default_factory=dict)

    def run(
        self,
        folder: Folder,
        backend: Backend,
        digest: str,
        ranges: Mapping[str, Range],
        needed: str | None,
        file: Path | None = None,
    ) -> Tried:
        """Try a graph.

        Args:
            digest: equal for equal graphs and cards.
            ranges: of the graph's inputs by name, as far as they are known.
            needed: the output that samples need; the others may be left out. None: all are needed.
            file: of the graph; None for the folder's own.

        Raises:
            LoadError: its rows are not independent, or it draws noise.
        """

        def examined(outputs: Sequence[str]) -> Findings:
            key = f"{digest} {' '.join(outputs)}"
            if key not in self.known:
                self.known[key] = find(file or folder.graph, backend, ranges, outputs, self.most)
            return self.known[key]

        served = [each.name for each in backend.outputs]
        findings, faults = examined(served), dict[str, str]()
        if findings.fault and not self.trusted and needed is not None and len(served) > 1:
            findings = examined([needed])  # the others are the raw network's
            faults = {name: fault for name in served if name != needed and (fault := examined([name]).fault)}
        where = f"network {folder.name!r}" if isinstance(backend, TritonNetwork) else file or folder.graph
        if findings.fault and not self.trusted:
            raise LoadError(f"{where}: {findings.fault} (--trust {folder.name} serves it all the same)")
        if caution := _caution(folder.name, findings):
            _log.warning("%s", caution)
        for name, fault in faults.items():
            _log.warning("%s: output %r is not served: %s", where, name, fault)
        return Tried(findings.made_up, caution, frozenset(faults))


def _caution(name: str, findings: Findings) -> str:
    if findings.doubt:
        return f"network {name!r}: {findings.doubt}"
    return f"network {name!r} is served on trust: {findings.fault}" if findings.fault else ""
