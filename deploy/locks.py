"""Writes the lock files of the images: what fronts and replicas import, of what `requirements.lock` pins.

python -m deploy.locks            # after `make lock`
python -m deploy.locks --check    # exit code 1 where the files are not what it would write
"""

import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
RUNTIME, FRONT = ROOT / "requirements.runtime.lock", ROOT / "requirements.front.lock"
OURS = "tiltserve-client"
TRACES = "opentelemetry-exporter-otlp-proto-grpc"
"""Of the extra `otlp`: images are made once, for those who send traces too."""
STORES = "obstore"
"""Of the extra `stores`, for replicas alone; it needs nothing that they have not."""
OF_A_FRONT = (
    "cachetools", "grpcio", "grpcio-health-checking", "grpcio-reflection", "ml-dtypes", "numpy", "opentelemetry-sdk",
    TRACES, "prometheus-client", "protobuf", "psutil", "pydantic", "PyJWT[crypto]", "pyyaml", "rich",
    "tritonclient[grpc]", "typer",
)  # fmt: skip
"""What `tiltserve front`, `tiltserve directory` and the commands of a client import."""
_HEAD = "# {what}, pinned as in requirements.lock. Written by `python -m deploy.locks`.\n"


def main() -> int:
    """Write the files, or compare them; the exit code."""
    wrong = [path for path, text in locks().items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in wrong:
            print(f"{path.name}: expected what python -m deploy.locks writes, got something else", file=sys.stderr)
        return 1 if wrong else 0
    for path, text in locks().items():
        path.write_text(text)
    return 0


def locks() -> dict[Path, str]:
    """The text of each file."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        direct = tomllib.load(file)["project"]["dependencies"]
    runtime = [each for each in direct if not each.startswith(OURS)] + ["tritonclient[grpc]", TRACES]
    return {
        RUNTIME: _HEAD.format(what="What a replica imports, and Ray") + _lines(_closure(runtime) | {STORES}),
        FRONT: _HEAD.format(what="What a front or a directory imports, and a client") + _lines(_closure(OF_A_FRONT)),
    }


def pinned(path: Path) -> dict[str, str]:
    """The lines of a lock file by normal name."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return {_normal(line.partition("==")[0]): line for line in lines if line and not line.startswith("#")}


def _lines(names: set[str]) -> str:
    found = pinned(LOCK)
    return "".join(f"{found[name]}\n" for name in found if name in names)


def _closure(needed: Iterable[str]) -> set[str]:
    """Names of all distributions that requirements bring, as far as requirements.lock has them: what it lacks is of
    another platform, or of another build of torch."""
    from packaging.requirements import Requirement  # of the environment that is frozen

    known, done = pinned(LOCK), set[tuple[str, str]]()
    waiting = [Requirement(each) for each in needed]
    while waiting:
        each = waiting.pop()
        name = _normal(each.name)
        for extra in ("", *each.extras):
            if name not in known or (name, extra) in done:
                continue
            done.add((name, extra))
            try:
                more = [Requirement(line) for line in requires(each.name) or ()]
            except PackageNotFoundError:
                raise SystemExit(f"error: expected {each.name} to be installed, as requirements.lock says") from None
            waiting += [one for one in more if one.marker is None or one.marker.evaluate({"extra": extra})]
    return {name for name, _ in done}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip().partition("[")[0]).lower()


if __name__ == "__main__":
    sys.exit(main())
