"""Which room may import which: every import of the six parts is read from the source and held against one table.

A room is the first two parts of a module's name: `serving.engine.task` is in the room `serving.engine`, and
`protos/card.py` is a room of its own. Imports inside functions count like those at a file's top. What is new and
fits no arrow below is in the wrong room, or the table is to be changed in review.
"""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("protos", "tiltserve", "steering", "exporters", "serving", "deploy")

STEERING = (
    {"errors", "formulas"},
    {"numerics"},
    {"paths"},
    {"plans"},
    {"sampling"},
    {"solvers"},
    {"targets"},
    {"posteriors"},
    {"methods"},
    {"dynamics"},
    {"baselines", "distillation", "flow", "problems", "search"},
    {"diagnostics"},
)
"""Floors of `steering`, the lowest first: a room imports rooms of lower floors, and nothing else of ours."""

CLIENT = (
    {"errors"},
    {"address", "tensors"},
    {"pictures"},
    {"answers"},
    {"latents", "listings", "progress"},
    {"names", "steps"},
    {"operations"},
    {"distillation", "pipelines", "solving"},
    {"aio", "client"},
    {"losses"},
)
"""Floors of `tiltserve`, as those of `steering`. Of ours it has the generated code besides, and nothing else."""

ARROWS: dict[str, set[str]] = {
    "protos.complaint": set(),
    "protos.weights": {"protos.complaint"},
    "protos.digest": {"protos.weights"},
    "protos.strict": set(),
    "protos.pipeline": {"protos.strict"},
    "protos.dynamics": {"protos.strict"},
    "protos.card": {"protos.complaint", "protos.dynamics", "protos.pipeline", "protos.strict"},
    "protos.programs": {"protos.complaint", "protos.strict"},
    "protos.ranges": set(),
    "protos.tiltserve": set(),
    "exporters.network": {"steering", "protos"},
    "exporters.config": {"exporters.network", "protos"},
    "exporters.bank": {"exporters.network", "steering", "protos"},
    "exporters.calibrate": {"exporters.network", "steering", "protos"},
    "exporters.parity": {"exporters.network", "steering", "protos"},
    "exporters.vjp": {"exporters.parity"},
    "exporters.dynamics": {"exporters.export", "exporters.parity", "steering", "protos"},
    "exporters.training": set(),
    "exporters.export": {
        "exporters.config", "exporters.network", "exporters.parity", "exporters.vjp", "steering", "protos",
    },
    "exporters.diffusers": {
        "exporters.bank", "exporters.calibrate", "exporters.export", "exporters.network", "exporters.parity",
        "steering", "protos",
    },
    "exporters.digits": {
        "exporters.bank", "exporters.calibrate", "exporters.export", "exporters.network", "exporters.training",
        "steering", "protos",
    },
    "exporters.emoji": {"exporters.diffusers", "exporters.export", "exporters.training", "protos"},
    "exporters.gallery": {
        "exporters.digits", "exporters.dynamics", "exporters.export", "exporters.network", "exporters.training",
        "steering", "protos",
    },
    "exporters.scenes": {
        "exporters.bank", "exporters.calibrate", "exporters.export", "exporters.network", "exporters.training",
        "protos",
    },
    "serving.supervised": set(),
    "serving.log_levels": set(),
    "serving.labels": set(),
    "serving.metrics_page": {"serving.access"},
    "serving.wire": {"protos"},
    "serving.access": {"serving.wire", "protos"},
    "serving.watching": set(),
    "serving.fleet": {"serving.access", "serving.wire", "protos"},
    "serving.backends": {"serving.access", "serving.wire", "protos"},
    "serving.engine": {"serving.backends", "serving.labels", "steering", "protos"},
    "serving.models": {"serving.engine", "serving.backends", "serving.fleet", "serving.wire", "steering", "protos"},
    "serving.pipelines": {"serving.models", "serving.engine", "serving.backends", "serving.wire", "steering", "protos"},
    "serving.rewards": {
        "serving.pipelines", "serving.models", "serving.engine", "serving.backends", "serving.access", "serving.wire",
        "serving.supervised", "serving.watching", "steering", "protos",
    },
    "serving.requests": {
        "serving.rewards", "serving.pipelines", "serving.models", "serving.engine", "serving.backends", "serving.wire",
        "steering", "protos",
    },
    "serving.replica": {
        "serving.requests", "serving.rewards", "serving.models", "serving.engine", "serving.backends", "serving.fleet",
        "serving.access", "serving.wire", "serving.supervised", "serving.log_levels", "serving.labels",
        "serving.metrics_page", "serving.watching", "steering", "protos",
    },
    "serving.front": {
        "serving.access", "serving.fleet", "serving.wire", "serving.supervised", "serving.log_levels",
        "serving.labels", "serving.metrics_page", "serving.watching", "protos",
    },
    "deploy.cores": set(),
    "deploy.settings": {"deploy.cores", "protos"},
    "deploy.scratch": {"deploy.settings"},
    "deploy.private_dashboard": {"deploy.settings"},
    "deploy.cluster": {"deploy.private_dashboard", "deploy.scratch"},
    "deploy.console": set(),
    "deploy.pages": set(),
    "deploy.monitoring": {"serving"},
    "deploy.pictures": set(),
    "deploy.process": set(),
    "deploy.modules": {"protos"},
    "deploy.diagnosis": {"serving", "steering"},
    "deploy.diagnosis_plots": {"deploy.diagnosis"},
    "deploy.private_port": {"deploy.settings", "serving"},
    "deploy.access": {"deploy.settings", "serving"},
    "deploy.wiring": {"deploy.settings", "serving"},
    "deploy.stores": {"deploy.settings", "serving"},
    "deploy.scaling": set(),
    "deploy.locks": set(),
    "deploy.log_lines": set(),
    "deploy.rays_lines": {"serving"},
    "deploy.directories": {"deploy.access", "deploy.settings", "deploy.wiring", "serving"},
    "deploy.fronts": {"deploy.access", "deploy.directories", "deploy.settings", "deploy.wiring", "serving"},
    "deploy.parts": {"deploy.access", "deploy.fronts", "deploy.settings", "deploy.wiring", "serving"},
    "deploy.front_deployment": {"deploy.fronts", "deploy.private_port", "deploy.settings", "serving"},
    "deploy.replica_deployment": {
        "deploy.access", "deploy.directories", "deploy.private_port", "deploy.scaling",
        "deploy.settings", "deploy.stores", "deploy.wiring", "serving",
    },
    "deploy.http": {"serving", "tiltserve"},
    "deploy.http_deployment": {"deploy.access", "deploy.http", "deploy.private_port", "deploy.settings", "serving"},
    "deploy.deployments": {
        "deploy.directories", "deploy.front_deployment", "deploy.http_deployment", "deploy.replica_deployment",
        "deploy.scaling", "deploy.settings", "serving",
    },
    "deploy.app": {"deploy.deployments", "deploy.settings"},
    "deploy.application": {
        "deploy.access", "deploy.cluster", "deploy.cores", "deploy.deployments", "deploy.directories",
        "deploy.log_lines",
        "deploy.private_port", "deploy.rays_lines",
        "deploy.scratch", "deploy.settings", "deploy.stores", "serving", "protos",
    },
    "deploy.commands": {
        "deploy.application", "deploy.cluster", "deploy.console", "deploy.diagnosis", "deploy.diagnosis_plots",
        "deploy.modules", "deploy.pages", "deploy.parts", "deploy.pictures", "deploy.settings", "exporters", "serving",
        "steering", "tiltserve", "protos",
    },
    "deploy.cli": {"deploy.commands", "deploy.console"},
    "deploy.__main__": {"deploy.cli"},
    "deploy.demo": {"deploy.pictures", "deploy.process", "steering", "tiltserve"},
    "deploy.demo_text": {"deploy.pictures", "deploy.process", "exporters", "steering", "tiltserve"},
    "steering": {"steering"},
    "tiltserve": {"tiltserve"},
}  # fmt: skip
"""Room -> rooms it may import; a part's name stands for all of its rooms."""

for _part, _floors, _also in (("steering", STEERING, set[str]()), ("tiltserve", CLIENT, {"protos.tiltserve"})):
    _lower = set(_also)
    for _floor in _floors:
        ARROWS |= {f"{_part}.{name}": set(_lower) for name in _floor}
        _lower |= {f"{_part}.{name}" for name in _floor}

HEAVY = {"torch", "onnx", "onnxruntime", "onnxscript"}
FOREIGN: dict[str, set[str]] = {
    "protos": {*HEAVY - {"onnx"}, "ray"},
    "protos.card": {"onnx"},
    "protos.complaint": {"onnx"},
    "protos.programs": {"onnx"},
    "steering": {"onnx", "onnxruntime", "onnxscript", "grpc", "tritonclient", "ray", "prometheus_client", "pydantic"},
    "exporters": {"grpc", "ray", "prometheus_client"},
    "serving.wire": {*HEAVY, "ray"},
    "serving.access": {*HEAVY, "ray"},
    "serving.watching": {*HEAVY, "ray"},
    "serving.fleet": HEAVY,
    "serving.front": {*HEAVY, "ray"},
    "serving.backends": {"ray"},
    "serving.engine": {"ray", "grpc", "tritonclient", "onnx", "onnxruntime"},
    "serving.models": {"ray"},
    "serving.rewards": {"ray"},
    "serving.pipelines": {"ray"},
    "serving.requests": {"ray"},
    "serving.replica": {"ray"},
}
"""Part or room -> third-party packages it may not import."""

ONLY = {
    "tiltserve": {"google", "grpc", "numpy", "tritonclient"},
    "tiltserve.progress": {"rich"},
    "tiltserve.pictures": {"PIL"},
    "tiltserve.answers": {"PIL"},
    "tiltserve.losses": {"torch"},
}
"""Part or room -> the third-party packages that it may import: what a client has to install."""


@dataclass(frozen=True)
class Import:
    """One import of one name.

    Attributes:
        module: the importing module.
        name: what is imported: a module of ours in full, of others as written.
        where: "file:line".
    """

    module: str
    name: str
    where: str

    def __str__(self) -> str:
        return f"{self.where}: {self.module} -> {self.name}"


@cache
def modules() -> dict[str, Path]:
    """Every module of the six parts by its dotted name."""
    files = (path for part in PARTS for path in (ROOT / part).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def names(node: ast.AST, module: str, known: Iterable[str]) -> Iterator[str]:
    """What an import statement names; nothing for other nodes."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = module.rsplit(".", node.level)[0] if node.level else ""
        origin = ".".join(filter(None, (base, node.module)))
        for alias in node.names:
            whole = f"{origin}.{alias.name}"
            yield whole if whole in known else origin


def read(module: str, path: Path, known: Iterable[str]) -> list[Import]:
    """The imports of one file."""
    tree = ast.parse(path.read_text(), str(path))
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    inside = f"{module}.__init__" if path.name == "__init__.py" else module
    return [
        Import(module, name, f"{shown}:{getattr(node, 'lineno', 0)}")
        for node in ast.walk(tree)
        for name in names(node, inside, known)
    ]


@cache
def imports() -> list[Import]:
    return [each for module, path in modules().items() for each in read(module, path, modules())]


def part(name: str) -> str:
    return name.split(".")[0]


def room(name: str) -> str:
    return ".".join(name.split(".")[:2])


def against_table(found: Iterable[Import]) -> list[str]:
    """The imports that no arrow allows."""
    return [
        f"{each} (the table has no arrow {room(each.module)} -> {room(each.name)})"
        for each in found
        if part(each.name) in PARTS
        and room(each.module) != room(each.name)
        and not {room(each.name), part(each.name)} & ARROWS.get(room(each.module), set())
    ]


def circle(arrows: Mapping[str, Iterable[str]]) -> list[str]:
    """The nodes along one circle, the first again at its end; empty if there is none."""
    done: set[str] = set()
    trail: list[str] = []

    def walk(node: str) -> list[str]:
        if node in trail:
            return [*trail[trail.index(node) :], node]
        if node in done:
            return []
        trail.append(node)
        for other in arrows.get(node, ()):
            if found := walk(other):
                return found
        done.add(trail.pop())
        return []

    return next((found for node in arrows if (found := walk(node))), [])


@pytest.mark.parametrize("name", sorted(ARROWS))
def test_arrows(name: str) -> None:
    wrong = against_table(each for each in imports() if room(each.module) == name)
    assert not wrong, "\n".join(wrong)


def test_every_room_is_in_the_table() -> None:
    """A new room says what it may import; a room that is gone leaves the table."""
    rooms = {room(module) for module in modules()} - set(PARTS) | {"steering", "tiltserve"}
    assert rooms == set(ARROWS), f"in one only: {sorted(rooms ^ set(ARROWS))}"


def test_no_circles_between_rooms() -> None:
    arrows: dict[str, set[str]] = {room(module): set() for module in modules()}
    for each in imports():
        if part(each.name) in PARTS and room(each.name) != room(each.module):
            arrows[room(each.module)].add(room(each.name))
    assert not circle(arrows), " -> ".join(circle(arrows))


def test_no_circles_between_modules() -> None:
    arrows: dict[str, set[str]] = {module: set() for module in modules()}
    for each in imports():
        if each.name in arrows and each.name != each.module:
            arrows[each.module].add(each.name)
    assert not circle(arrows), " -> ".join(circle(arrows))


def test_third_parties() -> None:
    wrong = [
        f"{each} ({owner} may not import {part(each.name)})"
        for each in imports()
        for owner in {part(each.module), room(each.module)} & set(FOREIGN)
        if part(each.name) in FOREIGN[owner]
    ]
    assert not wrong, "\n".join(wrong)


def test_the_client_needs_little() -> None:
    """Another package may be imported only where it may be missing."""
    may = {"tiltserve", "protos", *sys.stdlib_module_names, *ONLY["tiltserve"]}
    wrong = [
        f"{each} (tiltserve may import {', '.join(sorted(ONLY['tiltserve']))})"
        for each in imports()
        if part(each.module) == "tiltserve" and part(each.name) not in may | ONLY.get(room(each.module), set())
    ]
    assert not wrong, "\n".join(wrong)


def test_the_front_runs_without_torch() -> None:
    """Nor does anything it imports bring torch in: a front is small and starts in about a second."""
    shown = (
        "import serving.front.server, sys; print(*{'torch', 'steering', 'onnx', 'onnxruntime', 'ray'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not done.stdout.strip(), f"serving.front.server imports {done.stdout.strip()}"


def test_a_wrong_arrow_is_named_with_its_line(tmp_path: Path) -> None:
    """Also inside a function, and by a relative import."""
    file = tmp_path / "queue.py"
    file.write_text(
        "import math\n\n\ndef late():\n    from serving.front import server\n    from ..front import router\n"
    )
    known = {*modules(), "serving.engine.queue"}
    why = "(the table has no arrow serving.engine -> serving.front)"
    assert against_table(read("serving.engine.queue", file, known)) == [
        f"{file}:5: serving.engine.queue -> serving.front.server {why}",
        f"{file}:6: serving.engine.queue -> serving.front.router {why}",
    ]


def test_circles_are_found() -> None:
    assert circle({"a": ["b"], "b": ["c", "d"], "c": [], "d": ["b"]}) == ["b", "d", "b"]
    assert not circle({"a": ["b", "c"], "b": ["c"], "c": []})
