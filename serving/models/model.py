"""A loaded model: a plain network, or a sampler with its bank, calibration and choice of posterior."""

import copy
import dataclasses
import hashlib
import math
from collections.abc import Collection, Hashable, Mapping, MutableMapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from cachetools import LRUCache

import steering
from protos.card import Card, End, Range, Sample
from serving.backends import Array, triton
from serving.engine.task import Network
from serving.models.adapter import Adapter, Tables
from serving.models.backward import Backward
from serving.models.draws import DrawStore
from serving.models.dynamics import Dynamics
from steering.posteriors import Chosen, Cloud, Gaussian, Local, Neighbours, Union, Variance

RAW = ".network"  # digits.network is the raw network of the sampler digits

REMEMBERED = 256
"""Rewards whose scores on a bank are kept."""
GROWN = 8
"""Targets whose grown banks are kept: some 12,000 samples each."""


@dataclass(frozen=True, eq=False)
class PlainModel:
    """A network without a path: a classifier, a critic, or a sampler's raw network.

    Attributes:
        ranges: allowed values of some inputs, by name.
        sample: how it takes a sample as a reward, None for as it is. score_output: the output that is the reward.
        prompt: which of its inputs take tokens of a text, by the pipeline's names for them, see the card.
        without: numbers that some inputs must not have, by name: they would end the process.
        backward: its vector-Jacobian graph, if it came with one.
    """

    name: str
    version: str
    network: Network
    fingerprint: str
    ranges: Mapping[str, Range] = field(default_factory=dict)
    sample: Sample | None = None
    score_output: str | None = None
    without: Mapping[str, Collection[int]] = field(default_factory=dict)
    backward: Backward | None = None
    prompt: Mapping[str, str] = field(default_factory=dict)

    @property
    def networks(self) -> Sequence[Network]:
        """What of it is in memory."""
        return _networks(self)

    def out_of_range(self, name: str, value: Array) -> str:
        """Why an input's values are refused; empty if they are accepted."""
        for number in self.without.get(name, ()):
            if np.any(value == number):
                return f"expected numbers that can be divided by -1 in {value.dtype}, got {number}"
        return self.ranges[name].fault(value) if name in self.ranges else ""


class Knowledge:
    """What is known of a sampler's law. It is replaced as a whole, so that a request works with one state of it
    throughout.

    Attributes:
        cloud: the bank's samples, None while there are none.
        calibration: V(t), None before it was measured.
        choice: the local posterior that fits the bank, None before it was sought.
        scored: the bank's scores by reward, bounded in number because clients choose the rewards.
        refreshed: banks grown toward rare targets; bounded likewise.
        underway: by target, a future that ends when the request that prepares it is done; only the engine's second
            thread reads it.
        fingerprint: graph, card and backend with bank, calibration and choice; replicas with equal ones give equal
            bytes.
    """

    def __init__(
        self,
        card: Card,
        digest: str,
        cloud: Cloud | None,
        calibration: steering.Calibration | None,
        choice: Chosen | None = None,
    ) -> None:
        self._card, self.cloud = card, cloud
        samples = None if cloud is None else cloud.samples
        self.calibration, self.choice = calibration, choice
        self.scored: MutableMapping[Hashable, torch.Tensor] = LRUCache(REMEMBERED)
        self.refreshed: MutableMapping[Hashable, Union] = LRUCache(GROWN)
        self.underway: dict[Hashable, Future[None]] = {}
        whole = hashlib.sha256(digest.encode())
        whole.update(b"" if samples is None else samples.numpy().tobytes())
        whole.update(repr(calibration).encode())
        if choice is not None:
            whole.update(choice.why.encode())
            parts = () if choice.mixture is None else dataclasses.astuple(choice.mixture.components)
            for part in parts:
                whole.update(part.numpy().tobytes())
        self.fingerprint = whole.hexdigest()[:16]

    def local(self, kind: str | None) -> Local:
        """The local posterior of the given kind, or the card's, or the one that fits the bank. If what it needs is
        missing: neighbours for images that have a bank, else a Gaussian."""
        calibration: Variance | None = self.calibration
        if calibration is None:
            calibration = steering.Uncalibrated(self.cloud.variance if self.cloud is not None else 1.0)
        kind = kind or self._card.posterior
        if self.choice is not None and kind is None:
            return self.choice.local
        if self.choice is not None and self.choice.mixture is not None and kind == "mixture":
            return self.choice.mixture
        image = len(self._card.event_shape) > 1
        if self.cloud is not None and (kind == "neighbours" or (kind != "gaussian" and image)):
            return Neighbours(self.cloud, calibration)
        return Gaussian(calibration)


class Sampler:
    """A network with a card, from which samples are drawn; `known` has what steering needs.

    Attributes:
        adapter: between steering's rows and the graph.
        limit: bounds of the denoised estimate, None for none.
        programs: searched solver programs by number of steps.
        ranges: allowed values of some inputs of the network, by name.
        draws: those of its laws under conditions; where it is loaded, the replica's.
        lasting: whether its rows are evaluated here alone: a network on another server may change without a word.
        backward: its network's vector-Jacobian graph, if it came with one.
        own: the sampler as it was loaded; another one where this is of samples of another size.
    """

    def __init__(
        self,
        name: str,
        version: str,
        card: Card,
        path: steering.Path,
        network: Network,
        digest: str,
        programs: Mapping[int, steering.Program] | None = None,
        ranges: Mapping[str, Range] | None = None,
    ) -> None:
        self.name, self.version, self.card, self.path, self.network = name, version, card, path, network
        self.digest, self.programs = digest, programs or {}
        self.ranges: Mapping[str, Range] = {**(ranges or {}), **card.conditions}
        self.adapter = Adapter.of(card, path, network.backend.inputs, network.backend.outputs)
        self.draws = DrawStore()
        self.lasting = not elsewhere(network)
        self.backward: Backward | None = None
        self.limit = steering.limits.build(**card.limit)
        self.own = self
        self.learn(None, None)

    @property
    def networks(self) -> Sequence[Network]:
        """What of it is in memory."""
        return _networks(self)

    def referring(self, tables: Tables, made_by: Collection[PlainModel] = ()) -> "Sampler":
        """This sampler, for rows whose conditions refer to these tables, which these networks make."""
        other = copy.copy(self)
        other.lasting = self.lasting and not any(elsewhere(each.network) for each in made_by)
        other.adapter = self.adapter.referring(tables)
        return other

    @property
    def other_size(self) -> bool:
        """Whether it is of samples of another size than the sampler that was loaded."""
        return self.card.event_shape != self.own.card.event_shape

    def sized(self, event: tuple[int, ...], conditions: Mapping[str, tuple[int, ...]] | None = None) -> "Sampler":
        """This sampler of samples of another height and width, which its graph must leave free.

        It has a law of its own, of which no bank is known; V(t), a mean over dimensions, is taken to be the same. What
        goes through the vector-Jacobian graph, whose lengths are fixed, is not to be had.

        Args:
            conditions: shapes of those that change with it, by name.
        """
        spatial = conditions or {}
        given = {
            name: each.model_copy(update={"shape": spatial[name]}) if name in spatial else each
            for name, each in self.card.conditions.items()
        }
        other = copy.copy(self)
        other.own = self.own
        other.card = self.card.model_copy(update={"event_shape": event, "conditions": given})
        other.ranges = {**self.ranges, **given}
        other.adapter = dataclasses.replace(self.adapter, card=other.card)
        other.network = self.network.at(event, math.prod(event) / math.prod(self.card.event_shape))
        other.digest = hashlib.sha256(f"{self.digest} {event}".encode()).hexdigest()
        other.backward = None
        other.learn(None, self.known.calibration)
        return other

    def plan(
        self, solver: str, steps: int, path: steering.Path | None = None, *, end: End | None = None, **other: Any
    ) -> steering.Plan:
        """A plan for this network, on its own path or rescheduled onto another; raises `PlanError`.

        Args:
            end: what it leaves; None for what the card says, or D on discrete paths: below its first step such a
                network knows no level, and the noise there shows (.029 on Stable Diffusion's betas). An explicit grid,
                a searched program and a plan in reverse say themselves where they end.
        """
        assert self.card.prediction is not None
        if end is None and not (other.get("reverse") or other.get("program") or _explicit(other.get("grid"))):
            end = self.card.end or ("denoise" if isinstance(self.path, steering.paths.VPDiscrete) else None)
        return steering.plan(
            solver, path=path or self.path, trained=self.path, steps=steps, prediction=self.card.prediction,
            preconditioning=self.card.preconditioning, sigma_data=self.card.sigma_data,
            limit=self.limit, end=end, **other,
        )  # fmt: skip

    def learn(
        self, samples: torch.Tensor | None, calibration: steering.Calibration | None, *, choose: bool = False
    ) -> None:
        """Store a bank's samples [K, *event] and a calibration, where they are not None.

        Args:
            choose: also find the local posterior that fits them, if both are there; this takes up to some seconds.
        """
        # one cloud for the bank and its local posterior: what both multiply by is then one matrix, whose products are
        # shared within a request and between requests
        cloud, choice = None if samples is None else Cloud(samples), None
        if choose and cloud is not None and calibration is not None and not self.card.conditions:
            choice = Chosen.of(cloud, self.path, calibration)
        self.known = Knowledge(self.card, self.digest, cloud, calibration, choice)


def _explicit(grid: object) -> bool:
    return grid is not None and not isinstance(grid, str)


def elsewhere(network: Network) -> bool:
    """Whether it runs on another server."""
    return network.backend.kind.startswith(f"{triton.KIND} ")


def _networks(model: "PlainModel | Sampler") -> Sequence[Network]:
    return [model.network] if model.backward is None else [model.network, model.backward.network]


Model = PlainModel | Sampler | Dynamics
