"""Pickle runs code when it is read: nothing that comes over a network, and no bank, is read as one."""

import ast
from pathlib import Path

import numpy as np
import pytest

from serving.backends import LoadError
from serving.models.repository import _load_bank
from tests.test_layers import PARTS, ROOT

OURS = {"serving/models/unloaded.py"}
"""Files that read a pickle: one that this process wrote itself, into a file that has no name."""
READERS = ("pickle", "cloudpickle", "dill", "joblib", "shelve")


def unsafe(tree: ast.AST) -> list[str]:
    """Calls that would read a pickle, and imports of what does."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
            found += [name for name in names if name.split(".")[0] in READERS]
        elif isinstance(node, ast.Call):
            said = {each.arg: ast.unparse(each.value) for each in node.keywords}
            name = ast.unparse(node.func)
            bad = {
                "torch.load": said.get("weights_only") != "True",
                "np.load": said.get("allow_pickle", "False") != "False",
            }
            found += [ast.unparse(node)] if bad.get(name) else []
    return found


def test_no_part_reads_a_pickle_of_others() -> None:
    files = [path for part in PARTS for path in (ROOT / part).rglob("*.py")]
    found = {str(path.relative_to(ROOT)) for path in files if unsafe(ast.parse(path.read_text()))}
    assert found == OURS


@pytest.mark.parametrize(
    "text",
    ["import pickle", "from joblib import load", "torch.load(f)", "np.load(f, allow_pickle=True)"],
)
def test_what_would_read_one_is_found(text: str) -> None:
    assert unsafe(ast.parse(text))
    assert not unsafe(ast.parse("torch.load(f, weights_only=True); np.load(f); np.load(f, allow_pickle=False)"))


class Payload:
    """Says so when it is read."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code ran')",)


def test_a_bank_with_code_in_it_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bank.npz"
    np.savez(file, x=np.array([Payload()], object))
    with pytest.raises(LoadError, match=r"bank\.npz"):
        _load_bank(file, (2,), None)
