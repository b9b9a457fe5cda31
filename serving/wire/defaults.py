"""What a request gets where it does not say: a model's own defaults, and what the name of a sampler stands for.

Fronts and replicas complete a request alike, so that fronts count the rows that replicas will take.
"""

from collections.abc import Mapping

from serving.wire import solver_names
from serving.wire.parameters import Parameters
from serving.wire.tensors import Parameter


def completed(
    parameters: Parameters, options: Mapping[str, Parameter], defaults: Mapping[str, Parameter]
) -> tuple[Parameters, dict[str, Parameter]]:
    """The parameters and the solver's options with what a model says by default; what the request said stays known.

    A request that names a solver gets none of the default one's options. One whose solver is not for sampling from
    noise to data (`likelihood`, `reverse`), or is its preset's, gets no default solver, steps and grid; and one on
    another `path`, or from a time, no default grid, which may know its path's own steps alone.

    Args:
        defaults: by name: parameters, and options of the default solver.
    """
    parameters, named = _resolved(parameters)
    left_out: set[str] = set()
    if parameters.likelihood is not None or parameters.reverse:
        left_out = {"solver", "steps", "grid"}
    elif parameters.preset is not None:
        left_out = {"solver"}
    if parameters.path is not None or parameters.start_t is not None or parameters.solver == "searched":
        left_out |= {"grid"}
    said = parameters.model_fields_set | left_out
    if "solver" in said:
        said |= {"eta"}  # the card's is an option of its solver
    whole = parameters.completed(
        {name: each for name, each in defaults.items() if name in Parameters.model_fields and name not in said}
    )
    found = dict(named)
    if "solver" not in said:
        whole, of_card = _resolved(whole, said=False)
        others = {name: each for name, each in defaults.items() if name not in Parameters.model_fields}
        found |= of_card | others
    return whole, found | dict(options)


def _resolved(parameters: Parameters, *, said: bool = True) -> tuple[Parameters, dict[str, Parameter]]:
    """The parameters with our name of their solver, and the options that their own name stands for."""
    known = solver_names.known(parameters.solver)
    if known is None:
        return parameters, {}
    update: dict[str, Parameter] = {"solver": known.solver}
    if known.grid is not None and parameters.grid is None:
        update["grid"] = known.grid
    made = parameters.model_copy(update=update)
    if not said:
        made.model_fields_set.difference_update(update)
    return made, dict(known.options)
