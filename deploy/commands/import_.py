"""`tiltserve import`: a folder of Hugging Face's diffusers becomes folders of a model repository."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.console import fail

if TYPE_CHECKING:
    from exporters.diffusers.source import Source
    from exporters.diffusers.writing import Import, Wishes


def import_(
    source: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="A pipeline's or a model's folder, or one .safetensors file of all."),
    ],
    target: Annotated[
        Path, typer.Argument(metavar="MODELS/NAME", help="Where to; parts are called NAME.unet and so on.")
    ],
    scheduler: Annotated[
        Path | None, typer.Option(metavar="FILE", help="scheduler_config.json to use instead of the folder's.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="H[xW]", help="Of pictures, in pixels. [as the folder says]")
    ] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Of a prompt that T5 reads. [the pipeline's]")] = None,
    tiny: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="An AutoencoderTiny for previews and rewards.")
    ] = None,
    free_size: Annotated[
        bool, typer.Option("--free-size", help="Leave height and width open: requests may ask for other ones.")
    ] = False,
    vjp: Annotated[
        bool, typer.Option("--vjp", help="Also write vector-Jacobian graphs, for methods that steer by gradients.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(metavar="PART", help="unet, text, decoder, encoder or tiny; without the card.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Of one file: a folder with the configurations of its kind.")
    ] = None,
    bank: Annotated[int, typer.Option(metavar="SAMPLES", min=0, help="Draw a bank, for steering.")] = 0,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Measure the denoiser's error, for steering.")] = False,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read .bin weights too, which may run code: only what you trust.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Write anew what is already there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")] = False,
) -> None:
    """Import a diffusers folder: its networks as ONNX graphs, its scheduler and parts as cards.

    Nothing is downloaded and no code of the folder runs. Every graph is compared with torch at mixed times and batch
    sizes; where one differs, or anything is missing, nothing is written.
    """
    _quiet()
    from exporters.diffusers.source import FolderError
    from exporters.diffusers.writing import Wishes
    from exporters.export import ExportError
    from exporters.parity import ParityError

    wishes = Wishes(
        size=None if size is None else _size(size),
        only=frozenset(only or ()),
        tiny=tiny,
        tokens=tokens,
        allow_pickle=allow_pickle,
        bank=bank,
        calibrate=calibrate,
        replace=replace,
        free_size=free_size,
        vjp=vjp,
    )
    name = target.resolve().name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        fail(f"MODELS/NAME: expected a name of letters, digits, '.', '_' and '-', got {name!r}")
    if bank == 1:
        fail("--bank: expected 0 or 2 samples at least, got 1")
    try:
        with _opened(source, scheduler, config) as found:
            _import(found, target.resolve().parent, name, wishes, dry_run)
    except (FolderError, ExportError) as error:
        fail(str(error))
    except ParityError as error:
        fail(str(error), code=1)


def _quiet() -> None:
    """Both libraries without their own progress and remarks; one line where they are not installed."""
    try:
        import diffusers
        import transformers
    except ImportError as error:
        fail(f"tiltserve import: expected diffusers and transformers (pip install 'tiltserve[import]'), got: {error}")
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


@contextlib.contextmanager
def _opened(source: Path, scheduler: Path | None, config: Path | None) -> "Iterator[Source]":
    """The folder as it was read; one file becomes a folder for as long as it is needed."""
    from exporters.diffusers.source import read, unpacked

    if source.is_file():
        with unpacked(source, config) as folder:
            yield read(folder, scheduler)
    else:
        yield read(source, scheduler)


def _import(source: "Source", repository: Path, name: str, wishes: "Wishes", dry_run: bool) -> None:
    from exporters.diffusers.writing import prepare

    plan = prepare(source, name, wishes)
    for note in plan.notes:
        print("note:", note)
    if dry_run:
        for job in plan.jobs:
            print(f"would write {repository / job.name}: {job.what}, {_short(job.parameters)} parameters")
        if plan.pipeline is not None:
            print(f"would write {repository / name}: the pipeline's card and tokenizers")
        return
    _write(plan, repository)
    if plan.pipeline is not None:
        print(f"imported {source.pipeline} to {repository / name}")


def _write(plan: "Import", repository: Path) -> None:
    """Write with a line for each folder, and what is at work below them where there is a terminal."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from exporters.diffusers.writing import Written

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:

        class Shown:
            task = progress.add_task("", total=None)

            def begin(self, name: str) -> None:
                progress.reset(self.task, description=f"{name}: exporting and comparing")

            def done(self, written: Written) -> None:
                line = f"exported {written.name}: {written.what}, {_short(written.parameters)} parameters"
                progress.console.print(
                    f"{line}; worst error against torch {written.error:.1e}, {written.seconds:.0f} s",
                    markup=False, highlight=False, soft_wrap=True,
                )  # fmt: skip

        plan.write(repository, Shown())


def _size(text: str) -> tuple[int, ...]:
    found = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text)
    if found is None:
        fail(f"--size: expected a number or HEIGHTxWIDTH, got {text!r}")
    return tuple(int(each) for each in found.groups() if each is not None)


def _short(count: int) -> str:
    for unit, name in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if count >= unit:
            return f"{count / unit:.3g}{name}"
    return str(count)
