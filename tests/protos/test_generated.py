"""The generated code that is checked in is what `make protos` makes of the .proto files."""

from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).parents[2]


def test_generated_code_is_up_to_date(tmp_path: Path) -> None:
    sources = sorted(file.relative_to(ROOT) for file in (ROOT / "protos").rglob("*.proto"))
    assert sources
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    assert protoc.main(["protoc", f"-I{ROOT}", f"-I{well_known}", *outputs, *map(str, sources)]) == 0
    made = {file.relative_to(tmp_path): file.read_text() for file in tmp_path.rglob("*_pb2*")}
    there = {
        file.relative_to(ROOT): file.read_text()
        for file in (ROOT / "protos").rglob("*_pb2*.py*")
        if file.suffix != ".pyc"
    }
    assert there == made, "run `make protos` and commit what it writes"
