"""The client's own wheel: what is in it, what it needs, and that it draws samples where nothing else is installed."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import numpy as np
import pytest

from tests.serving.live import Live
from tiltserve import Client

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("client", "tiltserve", "protos", "steering", "exporters", "serving", "deploy")
INSTALLED = {
    "google", "grpc", "ml_dtypes", "numpy", "packaging", "rapidjson", "tritonclient", "typing_extensions", "urllib3",
}  # fmt: skip
"""What pip installs for it, by the names that are imported."""

DRAW = """
import sys
sys.path[:] = [each for each in sys.path if "site-packages" not in each] + sys.argv[1:3]
class Others:
    def find_spec(self, name, path, target=None):
        first = name.partition(".")[0]
        if first not in {*sys.stdlib_module_names, "tiltserve", "protos", *sys.argv[4].split(",")}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Others())
from tiltserve import Client
import tiltserve
assert tiltserve.__file__.startswith(sys.argv[1]), tiltserve.__file__
with Client(sys.argv[3]) as client:
    print(client.sample("rings", 2, seed=1, steps=2, progress=True).samples.tolist())
print(*sorted({"torch", "ray", "onnx", "onnxruntime", "pydantic", "steering", "serving"} & {*sys.modules}))
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels by the name of their distribution, built from a copy: building leaves traces beside the sources."""
    copy, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("wheels")
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "models", "build"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, copy)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*build, "-w", str(out), "./client", "."], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {file.name.split("-")[0]: file for file in out.glob("*.whl")}


def files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def needs(wheel: Path) -> set[str]:
    """The distributions it depends on, without extras' own."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith("METADATA"))
        said = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or []
    return {re.split(r"[ <>=\[;]", each)[0] for each in said if "extra ==" not in each}


def test_what_is_in_them(wheels: dict[str, Path]):
    client, server = files(wheels["tiltserve_client"]), files(wheels["tiltserve"])
    expected = {str(file.relative_to(ROOT)) for file in (ROOT / "tiltserve").glob("*.py")} | {"tiltserve/py.typed"}
    assert {name for name in client if name.startswith("tiltserve/")} == expected
    generated = (
        file for file in (ROOT / "protos" / "tiltserve").rglob("*") if file.suffix in (".py", ".pyi", ".proto")
    )
    assert {name for name in client if name not in expected} == {str(file.relative_to(ROOT)) for file in generated}
    assert not client & server
    assert {"protos/card.py", "deploy/cli.py", "serving/front/server.py", "steering/__init__.py"} <= server


def test_what_they_need(wheels: dict[str, Path]):
    assert needs(wheels["tiltserve_client"]) == {"numpy", "tritonclient"}
    assert {"tiltserve-client", "torch", "ray"} <= needs(wheels["tiltserve"])
    here, there = (tomllib.loads((ROOT / name / "pyproject.toml").read_text())["project"] for name in (".", "client"))
    assert here["version"] == there["version"]
    assert f"tiltserve-client=={there['version']}" in here["dependencies"]


def test_it_draws_samples_with_nothing_else(wheels: dict[str, Path], served: Live, client: Client, tmp_path: Path):
    with zipfile.ZipFile(wheels["tiltserve_client"]) as archive:
        archive.extractall(tmp_path)
    others = str(Path(np.__file__).parents[1])
    command = [sys.executable, "-I", "-S", "-c", DRAW, str(tmp_path), others, served.address, ",".join(INSTALLED)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    samples, heavy = done.stdout.splitlines()
    assert samples == str(client.sample("rings", 2, seed=1, steps=2).samples.tolist())
    assert heavy == ""
