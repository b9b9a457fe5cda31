"""Opens a version of a model, as it was if it was in memory before."""

from collections.abc import Collection

from serving.backends import Backend, LoadError
from serving.backends.costs import Costs
from serving.backends.examination import Findings
from serving.backends.made_up import MadeUp
from serving.backends.opening import Opener
from serving.backends.profiling import measured
from serving.models.draws import DrawStore
from serving.models.folders import Folder
from serving.models.model import Sampler
from serving.models.pipeline import Opened, Recipe
from serving.models.preparing import lacks, learn
from serving.models.repository import opened
from serving.models.trial import Trials
from serving.models.unloaded import Kept, identity
from serving.models.versions import Content, Version, kind_of, raw

REMEMBERED = 256
"""Graphs whose costs and trials are remembered, at least."""


class Loader:
    """Opens versions; what was found out about a graph is remembered.

    Args:
        opener: chooses the backend of a graph.
        trust: names of models that are served even if their rows are not independent.
        keeps: whether versions leave the memory and come back.
        draws: of all models' laws.
    """

    def __init__(self, opener: Opener, trust: Collection[str], draws: DrawStore, *, keeps: bool) -> None:
        self._open, self._trust, self._keeps, self._draws = opener, frozenset(trust), keeps, draws
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
            if isinstance(model, Sampler) and model.known.cloud is not None:
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
            self._costs[graph] = measured(backend, self._open.most, made_up)
        return self._costs[graph]


def close(model: Opened) -> None:
    """Close the backends of a model that nobody uses, if it has some."""
    if not isinstance(model, Recipe):
        for network in model.networks:
            network.backend.close()


def _written(folder: Folder) -> LoadError:
    return LoadError(f"{folder.root}: expected files that nobody writes to while they are loaded: load it again")
