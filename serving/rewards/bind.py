"""From the text and the arguments of a request to its reward."""

from collections.abc import Mapping, Sequence

from protos.complaint import shorten
from serving.backends import Array
from serving.models.model import RAW, Model, PlainModel
from serving.models.tokenizing import Tokenizing
from serving.rewards import expressions
from serving.rewards.built_in import BuiltInDefinition
from serving.rewards.compound import Compound
from serving.rewards.density import LogDensityDefinition
from serving.rewards.expressions import ExpressionError, Name, Term
from serving.rewards.network import NetworkDefinition, misfit
from serving.rewards.reward import PREFIX, Definition, Reward
from serving.wire import errors
from serving.wire.tensors import Given, Parameter
from steering.targets.rewards import BUILT_IN

SHOWN = 200
"""Characters of a reward's text in an error, which must leave room for what is wrong with it."""


def bind(
    text: str,
    models: Mapping[str, Model],
    event: tuple[int, ...],
    parameters: Mapping[str, Parameter],
    inputs: Mapping[str, Array],
    remotes: Mapping[str, Definition] | None = None,
    tokenizing: Tokenizing | None = None,
) -> Reward:
    """The reward a request names, with its `reward_<argument>` parameters (numbers) and inputs (tensors).

    Args:
        text: a name, or an expression of names (`expressions.parse`). Arguments go to the terms of an expression:
            `reward_<argument>` to the only term that takes it, `reward_<term>_<argument>` to the term of that name, and
            `reward_<name>` to an argument written as `argument=name` inside a call.
        remotes: rewards that are scored elsewhere, by name.
        tokenizing: makes tokens of a text, for rewards whose card has a `prompt`; None where nothing does.

    Raises:
        RequestError: INVALID_ARGUMENT for an unknown reward, a missing, unknown or ill-shaped argument.
    """
    if twice := {*parameters} & {*inputs}:
        raise errors.invalid(f"{min(twice)}: expected a parameter or an input, got both")
    given: dict[str, Given] = {key.removeprefix(PREFIX): value for key, value in parameters.items()}
    given |= {key.removeprefix(PREFIX): value for key, value in inputs.items()}
    known = catalogue(models, event, remotes or {}, tokenizing)
    if text in known:
        return known[text].bind(given)
    if text in models:
        raise _unknown(text, models, event, known)
    try:
        expression = expressions.parse(text)
    except ExpressionError as error:
        raise errors.invalid(f"reward {shorten(text, SHOWN)}: {error}") from None
    terms = expressions.terms(expression)
    for term in terms:
        if term.name not in known:
            raise _unknown(term.name, models, event, known)
    shares = _shared_out(text, terms, known, given)
    rewards = {term: known[term.name].bind(shares[term]) for term in terms}
    return rewards[expression] if isinstance(expression, Term) else Compound(text, expression, rewards)


def _unknown(
    name: str, models: Mapping[str, Model], event: tuple[int, ...], known: Mapping[str, Definition]
) -> errors.RequestError:
    """Says what a served network lacks for a reward, or which rewards there are."""
    model = models.get(name)
    if isinstance(model, PlainModel) and not name.endswith(RAW):
        return errors.invalid(f"reward {name!r}: {misfit(model, event)}")
    return errors.invalid(f"unknown reward {shorten(name, SHOWN)}, expected one of {', '.join(sorted(known))}")


def catalogue(
    models: Mapping[str, Model],
    event: tuple[int, ...],
    remotes: Mapping[str, Definition],
    tokenizing: Tokenizing | None = None,
) -> dict[str, Definition]:
    """Every reward for samples of this shape, by name."""
    density = LogDensityDefinition.of(models, event)
    networks = {name: NetworkDefinition.of(model, event, tokenizing) for name, model in models.items()}
    return (
        dict(remotes)
        | {name: network for name, network in networks.items() if network is not None}
        | {name: BuiltInDefinition(built_in, event) for name, built_in in BUILT_IN.items()}
        | ({density.name: density} if density.models else {})
    )


def _shared_out(
    text: str, terms: Sequence[Term], known: Mapping[str, Definition], given: Mapping[str, Given]
) -> dict[Term, dict[str, Given]]:
    """The arguments of each term."""
    shares: dict[Term, dict[str, Given]] = {}
    referred = set()
    for term in terms:
        shares[term] = {}
        for name, value in term.arguments:
            if isinstance(value, Name):
                referred.add(value.text)
            shares[term][name] = given.get(value.text, value.text) if isinstance(value, Name) else value
    free = {term: [each for each in known[term.name].takes(shares[term]) if each not in shares[term]] for term in terms}
    for key in [each for each in given if each not in referred]:
        takers = [(term, each) for term in terms for each in free[term] if key in (each, f"{term.name}_{each}")]
        if not takers:
            names = ", ".join(PREFIX + each for term in terms for each in free[term]) or "none beside the calls' own"
            raise errors.invalid(f"reward {shorten(text, SHOWN)}: unknown argument {PREFIX + key!r}, expected {names}")
        if len(takers) > 1:
            these = " and ".join(str(term) for term, _ in takers)
            raise errors.invalid(
                f"reward {shorten(text, SHOWN)}: expected {PREFIX + key!r} to be an argument of one term, got {these}: "
                f"send {PREFIX}<term>_<argument>, or put it inside the call"
            )
        ((term, name),) = takers
        if name in shares[term]:
            raise errors.invalid(
                f"reward {shorten(text, SHOWN)}: expected argument {name!r} of {term} once, got it twice"
            )
        shares[term][name] = given[key]
    return shares
