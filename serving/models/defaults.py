"""Whether a card's defaults are a request that would be taken."""

from typing import Any

from protos.card import Defaults
from serving.models.model import Sampler
from serving.wire import solver_names
from serving.wire.parameters import Parameters


def merged(first: Defaults, then: Defaults | None) -> Defaults:
    """What a pipeline says, and then its sampler, but no options of another solver than the pipeline's."""
    if then is None:
        return first
    options = {**((then.options or {}) if first.solver is None else {}), **(first.options or {})}
    said = then.model_dump(exclude_none=True) | first.model_dump(exclude_none=True)
    return Defaults.model_validate({**said, "options": options or None})


def fault(model: Sampler, said: Defaults | None) -> str:
    """Why a request that says nothing would be refused for these defaults; empty where it would not."""
    usual = Parameters()
    if said is None:
        return ""
    if said.guidance not in (None, 1) and not model.card.conditions:
        return f"defaults.guidance: expected none, or 1, without conditions, got {said.guidance:g}"
    name = said.solver or usual.solver
    named = solver_names.known(name)
    options: dict[str, Any] = dict(said.options or {}) if named is None else {**named.options, **(said.options or {})}
    solver = name if named is None else named.solver
    if solver == "searched":  # its programs say what they can do
        return ""
    try:
        model.plan(
            solver, said.steps or usual.steps, grid=said.grid or (None if named is None else named.grid), **options
        )
    except ValueError as error:
        return f"defaults: {error}"
    return ""
