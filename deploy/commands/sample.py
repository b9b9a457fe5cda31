"""`tiltserve sample`: draw samples from a running server, plain or steered."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from deploy.commands.connection import connected
from deploy.commands.values import named, parse_value
from deploy.console import fail

if TYPE_CHECKING:
    from tiltserve import Client, Samples

REWARD = "--reward-"


def split_rewards(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Take every `--reward-NAME VALUE` and `--reward-NAME=VALUE` out: (what is left, {name: value})."""
    rest: list[str] = []
    rewards: dict[str, str] = {}
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--":
            return [*rest, argument, *waiting], rewards
        if not argument.startswith(REWARD):
            rest.append(argument)
            continue
        option, equals, value = argument.partition("=")
        name = option.removeprefix(REWARD)
        if not name:
            fail(f"expected {REWARD}NAME VALUE, got {argument!r}")
        if not equals:
            following = next(waiting, None)
            if following is None or following.startswith("--"):
                fail(f"{option}: expected a value, got {following or 'none'}")
            value = following
        rewards[name.replace("-", "_")] = value
    return rest, rewards


def arguments(rewards: Mapping[str, str]) -> dict[str, Any]:
    """The values of `--reward-NAME` by name: one as it is, several as a vector."""
    import numpy as np

    found: dict[str, Any] = {}
    for name, text in rewards.items():
        values = [parse_value(part) for part in text.split(",")]
        if len(values) > 1 and not all(isinstance(value, int | float) for value in values):
            fail(f"{REWARD}{name.replace('_', '-')}: expected numbers with commas between them, got {text!r}")
        found[name] = values[0] if len(values) == 1 else np.asarray(values, dtype=np.float32)
    return found


class RewardOptions(TyperCommand):
    """A command that takes any `--reward-NAME VALUE` besides its own options; they land in `ctx.meta["rewards"]`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args, ctx.meta["rewards"] = split_rewards(args)
        return super().parse_args(ctx, args)


@connected()
def sample(
    client: "Client",
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The sampler's name, such as digits.")],
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, help="How many to draw.")] = 1,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same bytes. [drawn]")] = None,
    reward: Annotated[
        str | None,
        typer.Option(help="A reward model or a built-in to steer toward, or an expression: 'a(x=1) + 2 * b'."),
    ] = None,
    beta: Annotated[float | None, typer.Option(help="Temperature of the reward: smaller is stronger.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Condition on a reward of at least this instead; takes no beta.")
    ] = None,
    particles: Annotated[int | None, typer.Option(help="Posterior draws for one sample and stage.")] = None,
    posterior: Annotated[
        str | None, typer.Option(help="Where candidates come from: bank, gaussian, mixture, neighbours or rollout.")
    ] = None,
    steering: Annotated[str | None, typer.Option(help="doob, smc, best_of, svdd, ... or none.")] = None,
    solver: Annotated[str | None, typer.Option(help="See `tiltserve solvers`.")] = None,
    steps: Annotated[int | None, typer.Option(help="Intervals of the time grid.")] = None,
    grid: Annotated[str | None, typer.Option(help="uniform, logsnr, karras(5), ... [the solver's own]")] = None,
    eta: Annotated[
        float | None, typer.Option(help="Noise: 0 none, 1 the time-reversed SDE. [the solver's own]")
    ] = None,
    path: Annotated[str | None, typer.Option(help="Sample on another path than the model's own: edm, ...")] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter",
            "--option",
            metavar="NAME=VALUE",
            help="Any other parameter, of the solver or of steering: churn=40, population=128, refresh=false; repeat.",
        ),
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="Say how steering went, stage by stage.")] = False,
    guidance: Annotated[float | None, typer.Option(help="Scale of classifier-free guidance.")] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Of a pipeline: what to draw; repeat for a prompt for each sample.")
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="Of a pipeline: what guidance leads away from.")] = None,
    image: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of a pipeline: a picture to begin with, see --strength.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(metavar="FILE", help="White where the picture is to be drawn anew.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="How much of the picture is drawn anew: 1 all, small hardly any.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="PATH", help=".png for a grid of images, .npz for arrays, or a folder of files."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object instead of a table: all but the samples, which --out takes.")
    ] = False,
) -> None:
    """Draw samples from MODEL, steered toward a reward if one is named; from a pipeline, pictures of a prompt.

    Arguments of the reward are given as --reward-NAME VALUE, such as --reward-label 7; numbers with commas between
    them (--reward-direction 1,0) are sent as a vector.
    """
    _check(out)
    chosen = {
        "seed": seed,
        "beta": beta,
        "threshold": threshold,
        "particles": particles,
        "posterior": posterior,
        "steering": steering,
        "solver": solver,
        "steps": steps,
        "grid": grid,
        "eta": eta,
        "path": path,
        "guidance": guidance,
        "strength": strength,
    } | dict(named("--parameter", text) for text in parameter or [])
    prompts: list[str] | str | None = prompt
    if prompt and len(prompt) > 1:
        if samples not in (1, len(prompt)):
            fail(f"--samples: expected {len(prompt)}, one for each prompt, got {samples}")
        samples = len(prompt)
    if out is not None and out.suffix != ".npz":
        metadata = client.metadata(model)
        if not (metadata.pictures or _is_picture(shape := metadata.event_shape)):
            fail(f"--out: expected a .npz file, or samples of shape [h, w] or [c, h, w], got {out} for {list(shape)}")
    drawn = client.sample(
        model,
        samples,
        prompt=prompts or None,
        negative_prompt=negative_prompt,
        image=_picture("--image", image),
        mask=_picture("--mask", mask),
        reward=reward,
        reward_args=arguments(ctx.meta["rewards"]),
        parameters={name: value for name, value in chosen.items() if value is not None},
        progress=sys.stderr.isatty(),  # a bar for whoever waits
    )
    if out is not None:
        _write(drawn, out)
    if as_json:
        print(json.dumps(_plain(drawn), indent=2))
        return
    _show(drawn, out)
    if report:
        _show_report(drawn)


def _check(out: Path | None) -> None:
    """What can be wrong before the server is asked."""
    if out is not None:
        if out.suffix not in ("", ".png", ".npz") and not out.is_dir():
            fail(f"--out: expected a file ending in .png or .npz, or a folder, got {str(out)!r}")
        if not out.suffix and out.exists() and not out.is_dir():
            fail(f"--out: expected a folder, got {str(out)!r}, which is a file")
        if not out.absolute().parent.is_dir():
            fail(f"--out: expected a file or a folder in an existing folder, got {str(out)!r}")


def _is_picture(shape: tuple[int, ...]) -> bool:
    """Whether samples of this shape are pictures: grey, or red, green and blue."""
    return len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))


def _picture(option: str, file: Path | None) -> Any:
    """A file's picture."""
    if file is None:
        return None
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as opened:
            return opened.copy()
    except UnidentifiedImageError:
        fail(f"{option}: expected a picture, got {str(file)!r}, which is none")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        fail(f"{option}: expected a picture, got {str(file)!r}: {getattr(error, 'strerror', None) or error}")


def _write(drawn: "Samples", out: Path) -> None:
    import numpy as np

    if out.suffix != ".npz":
        from deploy.pictures import grid, write_files

        try:
            if out.suffix != ".png":
                write_files(drawn.images, out, f"{drawn.model}-{drawn.seed}")
            elif drawn.dtype == np.float32 and (len(drawn.shape) == 3 or drawn.shape[1] == 1):
                grid(drawn.samples).save(out)
            else:
                grid(drawn.images, scale=1, gap=min(1, len(drawn) - 1)).save(out)
        except (ValueError, OSError) as error:
            fail(f"--out: {error}")
    else:
        arrays = {"samples": drawn.samples, "parameters": np.array(json.dumps(drawn.parameters))}
        if drawn.rewards is not None:
            arrays["rewards"] = drawn.rewards
        with out.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # the stub takes every keyword for allow_pickle


def _plain(drawn: "Samples") -> dict[str, Any]:
    """All but the samples, as JSON has it."""
    return {
        **{name: value for name, value in drawn.parameters.items() if name not in ("warnings", "report")},
        "model": drawn.model,
        "version": drawn.version,
        "shape": list(drawn.shape),
        "rewards": None if drawn.rewards is None else drawn.rewards.tolist(),
        "warnings": drawn.warnings,
        "report": json.loads(str(drawn.parameters["report"])) if drawn.report else None,
        "seconds": drawn.seconds,
    }


def _show(drawn: "Samples", out: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("samples", f"{len(drawn)} of shape {list(drawn.shape[1:])}")
    if drawn.rewards is not None:
        table.add_row("mean reward", f"{drawn.rewards.mean():.4g}")
    for name, value in sorted(drawn.parameters.items()):
        if value != "" and name not in ("warnings", "report"):
            table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    for warning in drawn.warnings:
        table.add_row("warning", warning)
    table.add_row("seconds", f"{drawn.seconds:.2f}")
    if out is not None:
        table.add_row("written to", str(out))
    Console(highlight=False, markup=False).print(table)


def _show_report(drawn: "Samples") -> None:
    from rich.console import Console
    from rich.table import Table

    report = drawn.report
    if report is None:
        fail("--report: expected a steered request, got plain samples", code=1)
    table = Table(show_header=False, box=None, pad_edge=False)
    for choice in report.choices:
        table.add_row("chosen", choice)
    if report.methods:
        table.add_row("corrections", ", ".join(f"{share:.1%} {name}" for name, share in report.methods.items()))
    table.add_row("no candidate had weight", f"{report.no_hit} times")
    if report.log_z is not None:
        table.add_row("log Z", f"{report.log_z:.4g}")
    for share, what in ((report.distinct, "distinct samples"), (report.hits, "share at the threshold")):
        if share is not None:
            table.add_row(what, f"{share:.4g}")
    sizes = (report.ess, "effective candidates by stage"), (report.population_ess, "effective chains by stage")
    for each, what in sizes:
        if each:
            table.add_row(what, " ".join(f"{size:.3g}" for size in each))
    Console(highlight=False, markup=False).print(table)
