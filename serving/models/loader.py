"""Opens a version of a model, as it was if it was in memory before."""

import math
import time
from collections.abc import Collection

from serving.backends import Backend, LoadError
from serving.backends.costs import GUESSED_ROW_S, Costs
from serving.backends.examination import Findings
from serving.backends.made_up import MadeUp
from serving.backends.opening import Opener
from serving.backends.profiling import measured
from serving.models.artifacts import Artifacts, BusyError, bank_key, costs_key
from serving.models.draws import DrawStore
from serving.models.folders import Folder
from serving.models.model import Sampler
from serving.models.pipeline import Opened, Recipe
from serving.models.preparing import lacks, learn
from serving.models.repository import opened
from serving.models.trial import Trials
from serving.models.unloaded import Kept, identity
from serving.models.versions import Content, Version, kind_of, raw

_LOOK_S = 0.2
"""Seconds between two looks for costs that somebody else measures."""
REMEMBERED = 256
"""Graphs whose costs and trials are remembered, at least."""


class Loader:
    """Opens versions; what was found out about a graph is remembered.

    Args:
        opener: chooses the backend of a graph.
        trust: names of models that are served even if their rows are not independent.
        keeps: whether versions leave the memory and come back.
        draws: of all models' laws.
        artifacts: where banks, calibrations and costs are that somebody made before; None for nowhere.
    """

    def __init__(
        self,
        opener: Opener,
        trust: Collection[str],
        draws: DrawStore,
        *,
        keeps: bool,
        artifacts: Artifacts | None = None,
    ) -> None:
        self._open, self._trust, self._keeps, self._draws = opener, frozenset(trust), keeps, draws
        self._artifacts = artifacts
        self._costs: dict[str, Costs] = {}
        self._findings: dict[str, Findings] = {}

    def open(self, version: Version) -> Opened:
        """Give a version its content. Takes seconds, for a thread.

        Raises:
            LoadError, OSError: what is wrong with its files.
        """
        model = self._first(version) if version.content is None else self._again(version)
        version.kind = kind_of(model)
        version.content = Content(model, raw(model))
        return model

    def forget(self, held: int) -> None:
        """Forget the graphs that were opened first; so many are held now."""
        for known in (self._costs, self._findings):
            while len(known) > max(REMEMBERED, 4 * held):
                known.pop(next(iter(known)))

    def _first(self, version: Version) -> Opened:
        folder = version.folder
        stamp = folder.stamp
        try:
            model = self._opened(folder)
        except Exception as error:
            if folder.stamp != stamp:
                raise _written(folder) from error
            raise
        try:
            if isinstance(model, Sampler):
                made = None
                if self._artifacts is not None and lacks(model):
                    made = self._artifacts.prepared(model, bank_key(model))
                if made is not None:
                    learn(model, made.samples, made.calibration)
                elif model.known.cloud is not None:
                    learn(model, model.known.cloud.samples, model.known.calibration)
            bank = (folder.bank_digest,) if isinstance(model, Sampler) else ()
            version.identity, version.lacking = (identity(model), *bank), lacks(model)
            if self._keeps:
                version.kept = Kept(model)
            if folder.stamp != stamp:
                raise _written(folder)
        except BaseException:
            close(model)
            raise
        version.stamp = stamp
        return model

    def _again(self, version: Version) -> Opened:
        model = self._opened(version.folder)
        assert version.kept is not None  # else it would not have left
        if not version.kept.fits(model):
            close(model)
            raise LoadError(f"{version.folder.root}: expected the files it was loaded from, got others")
        version.kept.restore(model)
        return model

    def _opened(self, folder: Folder) -> Opened:
        trials = Trials(self._open.most, trusted=folder.name in self._trust, known=self._findings)
        model = opened(folder, self._open, self._measure, trials)
        if isinstance(model, Sampler):
            model.draws = self._draws
        return model

    def _measure(self, backend: Backend, graph: str, made_up: MadeUp | None) -> Costs:
        """Costs of calls, measured when a graph is first loaded."""
        if graph not in self._costs:
            self._costs[graph] = self._shared(backend, graph, made_up)
        return self._costs[graph]

    def _shared(self, backend: Backend, graph: str, made_up: MadeUp | None) -> Costs:
        """Costs that somebody measured on such a machine; measured here where nobody did, or does now."""
        most, artifacts = self._open.most, self._artifacts
        if artifacts is None:
            return measured(backend, most, made_up)
        while True:
            found = artifacts.costs(graph, most)
            if found is not None and {*found.sizes} <= {*backend.sizes(most)}:
                return found
            try:
                lease = artifacts.lease(f"{costs_key(graph, most)}.costs")
                break
            except BusyError:
                time.sleep(_LOOK_S)
        try:
            costs = measured(backend, most, made_up)
            if not math.isclose(costs.row_s, GUESSED_ROW_S):  # else there was nothing to measure
                artifacts.keep_costs(graph, most, costs)
        finally:
            if lease is not None:
                lease.leave()
        return costs


def close(model: Opened) -> None:
    """Close the backends of a model that nobody uses, if it has some."""
    if not isinstance(model, Recipe):
        for network in model.networks:
            network.backend.close()


def _written(folder: Folder) -> LoadError:
    return LoadError(f"{folder.root}: expected files that nobody writes to while they are loaded: load it again")
