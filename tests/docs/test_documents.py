"""The documents hold: their links, paths, commands, Python and cards are those of this checkout."""

import functools
import importlib
import importlib.util
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

import steering
from deploy.cli import app
from deploy.commands.sample import split_rewards
from protos.card import Card, Condition, DynamicThreshold, Inputs, Range, Sample, load_card
from tests.serving.live import Live, running

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = "benchmarks|client|deploy|docs|examples|exporters|k8s|protos|serving|steering|tests|tiltserve"
# a document may name a file of a part that it is about without the part's own name
PARTS = [ROOT, ROOT / "serving", ROOT / "steering", ROOT / "deploy"]
PATH = re.compile(rf"(?:(?:{FOLDERS})/[\w.*/-]*|[\w.*-]+(?:/[\w.*-]+)*/(?:[\w.*-]+\.(?:py|yaml|md|json|proto))?)")
ADDRESS = "127.0.0.1:8001"

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:(?<=\n\n)|\A)(?: {4}.*\n?|\n(?= {4}))+", re.MULTILINE)
SPAN = re.compile(r"`((?:[^`\n]|\n(?!\n))+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")

of_every_document = pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))


def fenced(file: Path, language: str) -> list[str]:
    """The fenced blocks in a language."""
    return [body for name, body in FENCE.findall(file.read_text()) if name == language]


def blocks(file: Path) -> list[str]:
    """Fenced blocks of no language or a shell, and indented ones."""
    text = file.read_text()
    plain = [body for name, body in FENCE.findall(text) if name in ("", "bash", "sh", "yaml")]
    return plain + [textwrap.dedent(found) for found in INDENTED.findall(FENCE.sub("\n", text))]


def spans(file: Path) -> list[str]:
    """What stands in backticks in running text, each on one line."""
    prose = INDENTED.sub("\n", FENCE.sub("\n", file.read_text()))
    return [" ".join(found.split()) for found in SPAN.findall(prose)]


def anchors(file: Path) -> set[str]:
    """The anchors that GitHub gives the headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("\n", file.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@of_every_document
def test_links_resolve(file: Path) -> None:
    wrong = []
    for link in LINK.findall(FENCE.sub("\n", file.read_text())):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert not wrong


def exists(path: str) -> bool:
    """Whether a path or pattern names something of the checkout."""
    return any(next(part.glob(path.rstrip("/")), None) for part in PARTS)


@of_every_document
def test_paths_exist(file: Path) -> None:
    commands = (word for line in command_lines(file) for word in words(line) if re.match(rf"(?:{FOLDERS})/", word))
    wrong = [path for path in (*spans(file), *commands) if PATH.fullmatch(path) and not exists(path)]
    assert not wrong


@pytest.mark.parametrize("path", ["tests/serving/no_such_test.py", "engine/no_such_file.py", "serving/no_such_room/"])
def test_a_wrong_path_is_noticed(path: str) -> None:
    assert PATH.fullmatch(path)
    assert not exists(path)


def words(line: str) -> list[str]:
    """A command line's words, without its comment; none of what no shell would take."""
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return []


def command_lines(file: Path) -> list[str]:
    """All lines of blocks, and all spans."""
    return [line.strip() for block in blocks(file) for line in block.splitlines() if line.strip()] + spans(file)


@functools.cache
def command_line() -> Any:
    """`tiltserve` as click sees it."""
    return typer.main.get_command(app)


@functools.cache
def benchmark(name: str) -> Any:
    """The command that `python -m benchmarks.<name>` runs."""
    runner = typer.Typer()
    runner.command()(importlib.import_module(f"benchmarks.{name}").main)
    return typer.main.get_command(runner)


@functools.cache
def benchmarks() -> frozenset[str]:
    return frozenset(file.stem for file in (ROOT / "benchmarks").glob("*.py") if not file.stem.startswith("_"))


def check_options(command: Any, arguments: list[str]) -> None:
    """Raises click's error where an option is unknown, lacks its value or has a wrong one, or is repeated in vain."""
    context = command.context_class(command, info_name=command.name)
    values, _, given = command.make_parser(context).parse_args(list(arguments))
    for parameter in set(given):
        if parameter.param_type_name != "option" or not parameter.expose_value:  # such as help, which would be printed
            continue
        assert parameter.multiple or given.count(parameter) == 1, f"{parameter.opts[-1]} is taken once, came twice"
        parameter.process_value(context, values[parameter.name])


def check_benchmark(arguments: list[str]) -> None:
    """Raises if no benchmark has that name, or it does not take the options."""
    if arguments:
        assert arguments[0] in benchmarks(), f"no benchmark {arguments[0]!r}"
        check_options(benchmark(arguments[0]), arguments[1:])


def check_tiltserve(arguments: list[str]) -> None:
    """Raises if `tiltserve` does not take these arguments; arguments that are missing are not asked for."""
    if not arguments or arguments[0].startswith("-"):
        return check_options(command_line(), arguments)
    name, *rest = arguments
    assert name in command_line().commands, f"no sub-command {name!r}"
    if name == "bench":
        return check_benchmark(rest)
    return check_options(command_line().commands[name], split_rewards(rest)[0] if name == "sample" else rest)


@functools.cache
def targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def check_make(arguments: list[str]) -> None:
    """Raises if the Makefile has no such target, or `make bench` no such benchmark with these options."""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            assert name in targets(), f"no target {name!r}"
        elif name == "ARGS" and arguments[0] == "bench":
            check_benchmark(shlex.split(value))


@functools.cache
def all_options() -> frozenset[str]:
    """Every option of every command and benchmark."""
    commands = [*command_line().commands.values(), *map(benchmark, benchmarks())]
    return frozenset(
        option
        for command in commands
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts, "--help")
    )


def check(line: str) -> bool:
    """Checks a command of ours, and says whether it is one."""
    first, *rest = words(line) or [""]
    if first in ("tiltserve", ".venv/bin/tiltserve"):
        check_tiltserve(rest)
    elif first == "make":
        check_make(rest)
    elif first in benchmarks() and rest:
        check_benchmark([first, *rest])
    elif first == "python" and rest[:1] == ["-m"]:
        assert importlib.util.find_spec(rest[1]), f"no module {rest[1]!r}"
    elif first.startswith("--"):
        named = [word.partition("=")[0] for word in (first, *rest) if re.match(r"--\w", word)]
        unknown = [name for name in named if name not in all_options() and not name.startswith("--reward-")]
        assert not unknown, f"no command has {unknown}"
    else:
        return False
    return True


def complaints(lines: list[str]) -> Iterator[str]:
    """A line for each command that is wrong."""
    for line in lines:
        try:
            check(line)
        except Exception as error:
            yield f"{line}: {getattr(error, 'message', error)}"


@of_every_document
def test_commands_exist_and_take_their_options(file: Path) -> None:
    assert not list(complaints(command_lines(file)))


@pytest.mark.parametrize(
    "line",
    [
        "tiltserve smaple digits",
        "tiltserve sample digits --stps 3",
        "tiltserve sample digits --steps many",
        "make smaple",
        'make bench ARGS="no_such_benchmark"',
        'make bench ARGS="short_among_long --clients 1 --clients 4"',
        "scaling --replica-count 2",
        "python -m tests.no_such_module",
        "--no-such-option",
    ],
)
def test_a_wrong_command_is_noticed(line: str) -> None:
    assert list(complaints([line]))


def test_the_commands_of_the_documents_are_found() -> None:
    lines = [line for file in DOCUMENTS for line in command_lines(file)]
    for start in ("make bench", ".venv/bin/tiltserve", "tiltserve", "make demo", "soak --minutes", "--"):
        assert any(line.startswith(start) and check(line) for line in lines), start


def of_client(block: str) -> bool:
    """Whether a Python block needs a server."""
    return "tritonclient" in block or "client." in block


def run(file: Path, sources: list[str], names: dict[str, Any]) -> None:
    """Runs a document's blocks one after another in one namespace."""
    for number, source in enumerate(sources, 1):
        exec(compile(source, f"{file.name}, block {number}", "exec"), names)


NOTEBOOK = [file for file in DOCUMENTS if any(not of_client(block) for block in fenced(file, "python"))]
CLIENT = [file for file in DOCUMENTS if any(of_client(block) for block in fenced(file, "python"))]


def test_python_is_found_in_the_documents() -> None:
    assert {ROOT / "README.md", ROOT / "docs/steering.md"} <= {*NOTEBOOK} & {*CLIENT}


@pytest.mark.parametrize("file", NOTEBOOK, ids=lambda file: str(file.relative_to(ROOT)))
def test_python_of_a_notebook_runs(file: Path) -> None:
    path = steering.paths.vp_cosine()
    names: dict[str, Any] = {
        "torch": torch,
        "steering": steering,
        "network": lambda x, t: x * path.alpha(t)[:, None],  # E[x0 | x_t] of standard normal data
        "reward": lambda x: x[:, 0],
        "trained": path,
        "plan": steering.plan("dpmpp_2m", path=path, steps=20, prediction="x0"),
    }
    # 64 samples in place of 1024 show the same; one thread, since two wait for each other on a busy machine
    sources = [block.replace("(1024, 8)", "(64, 8)") for block in fenced(file, "python") if not of_client(block)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run(file, sources, names)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def gallery() -> Iterator[Live]:
    with running(ROOT / "deploy" / "gallery_models") as live:
        yield live


@pytest.mark.e2e
@pytest.mark.parametrize("file", CLIENT, ids=lambda file: str(file.relative_to(ROOT)))
def test_python_of_a_client_runs(file: Path, request: pytest.FixtureRequest) -> None:
    """On the server that the document starts."""
    triton = pytest.importorskip("tritonclient.grpc")
    gallery = "--models deploy/gallery_models" in file.read_text()
    address = request.getfixturevalue("gallery").address if gallery else request.getfixturevalue("demo_server").grpc
    with triton.InferenceServerClient(address) as client:
        sources = [block.replace(ADDRESS, address) for block in fenced(file, "python") if of_client(block)]
        run(file, sources, {"triton": triton, "client": client})


def cards(file: Path) -> Iterator[str]:
    """The model cards in blocks, as YAML; what stands left of a card is no part of it."""
    for block in [*blocks(file), *fenced(file, "yaml")]:
        lines = block.splitlines()
        for number, line in enumerate(lines):
            if (column := line.find("format: 1")) >= 0:
                yield "\n".join(below[column:] for below in lines[number:])


def test_cards_load(tmp_path: Path) -> None:
    found = [(file, text) for file in DOCUMENTS for text in cards(file)]
    assert found
    for _, text in found:
        (tmp_path / "card.yaml").write_text(text)
        assert load_card(tmp_path / "card.yaml").name


def test_every_key_of_a_card_is_described() -> None:
    said = " ".join(spans(ROOT / "docs/cards.md"))
    for model in (Card, Inputs, Condition, Range, DynamicThreshold, Sample):
        missing = [name for name in model.model_fields if not re.search(rf"\b{name}\b", said)]
        assert not missing, model.__name__


def test_every_kind_of_path_is_named() -> None:
    said = " ".join(spans(ROOT / "docs/cards.md"))
    assert not [kind for kind in steering.paths.KINDS if kind not in said]
