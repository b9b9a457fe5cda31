"""What lies in a repository: models, and what is passed over, each named once with the reason."""

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

from serving.models.folders import Folder, Passed, readable, scan, survey
from serving.models.loaded import LoadedModels


@pytest.fixture
def root(small_models: Path, tmp_path: Path) -> Path:
    """A repository of one's own: `rings` and `nearness`."""
    for name in ("rings", "nearness"):
        shutil.copytree(small_models / name, tmp_path / "models" / name)
    return tmp_path / "models"


def named(root: Path) -> dict[str, str]:
    """What is passed over, by its path in the repository."""
    found = [str(each).removeprefix(f"{root}/").split(": ", 1) for each in survey(root)[1]]
    assert len({path for path, _ in found}) == len(found)
    assert not any("\n" in why for _, why in found)
    return dict(found)


def served(root: Path) -> dict[str, str]:
    """The models that load, with their states."""
    shelf = LoadedModels(root, 1)
    asyncio.run(shelf.load_all())
    return {state.name: state.state for state in shelf.states()}


BOTH = {"rings": "READY", "rings.network": "READY", "nearness": "READY"}


def test_a_tidy_repository_has_nothing_to_say(root: Path):
    (root / ".git" / "1").mkdir(parents=True)
    (root / "rings" / ".ipynb_checkpoints").mkdir()
    (root / "rings" / "notes").mkdir()
    (root / "rings" / "labels.txt").write_text("")
    assert named(root) == {}
    assert served(root) == BOTH


def test_a_name_that_is_not_utf8(root: Path):
    os.mkdir(os.fsencode(root) + b"/caf\xe9")  # noqa: PTH102 - latin-1
    shutil.copytree(root / "rings", os.fsdecode(os.fsencode(root) + b"/\xff\xfe"))
    assert named(root) == {"caf\\xe9": "expected a name in UTF-8", "\\xff\\xfe": "expected a name in UTF-8"}
    assert served(root) == BOTH


def test_a_name_with_a_line_break(root: Path):
    shutil.copytree(root / "nearness", root / "near\nready grpc=")
    assert named(root) == {"near\\nready grpc=": "expected a name without control characters"}
    assert served(root) == BOTH


def test_letters_of_any_language_are_served(root: Path):
    shutil.copytree(root / "nearness", root / "nähe-近さ")
    assert named(root) == {}
    assert served(root) == BOTH | {"nähe-近さ": "READY"}


def test_links_that_lead_nowhere(root: Path):
    (root / "gone").symlink_to("/no/such/model")
    (root / "circle").symlink_to("circle")
    (root / "linked").mkdir()
    (root / "linked" / "1").symlink_to("../rings/7")
    (root / "rings" / "2").symlink_to("7")
    (root / "rings" / "1" / "searched.json").symlink_to("nowhere.json")
    nowhere = "expected a file or folder, got a link to {}, which leads nowhere"
    assert named(root) == {
        "gone": nowhere.format("/no/such/model"),
        "circle": nowhere.format("circle"),
        "linked/1": nowhere.format("../rings/7"),
        "rings/2": nowhere.format("7"),
        "rings/1/searched.json": nowhere.format("nowhere.json"),
    }
    assert served(root) == BOTH


def test_links_that_lead_somewhere_are_models(root: Path):
    (root / "near").symlink_to("nearness")
    assert named(root) == {}
    assert served(root) == BOTH | {"near": "READY"}


def test_a_card_that_leads_nowhere_makes_no_plain_network(root: Path):
    (root / "rings" / "card.yaml").unlink()
    (root / "rings" / "card.yaml").symlink_to("/no/such/card.yaml")
    assert named(root) == {}
    assert served(root) == {"rings": "UNAVAILABLE", "nearness": "READY"}


@pytest.mark.parametrize("came", ["a folder", "a link that leads nowhere", "no such file"])
def test_a_graph_that_is_no_file(root: Path, came: str):
    """It is named once, as a model that cannot be loaded."""
    graph = root / "rings" / "1" / "model.onnx"
    graph.unlink()
    if came == "a folder":
        graph.mkdir()
    elif came != "no such file":
        graph.symlink_to("/no/such/graph")
    assert named(root) == {}
    shelf = LoadedModels(root, 1)
    asyncio.run(shelf.load_all())
    reasons = {state.name: state.reason for state in shelf.states()}
    assert reasons == {"rings": f"{graph}: expected an ONNX graph, got {came}", "nearness": ""}


def test_version_folders_that_are_no_numbers(root: Path):
    for name in ("v1", "V2", "1.0", "latest"):
        shutil.copytree(root / "nearness" / "1", root / "nearness" / name)
    shutil.copytree(root / "nearness" / "1", root / "other" / "v1")
    number = "expected a number as the name of a version's folder"
    names = ("nearness/v1", "nearness/V2", "nearness/1.0", "nearness/latest", "other/v1")
    assert named(root) == dict.fromkeys(names, number)
    assert served(root) == BOTH


def test_files_where_folders_are_expected(root: Path):
    (root / "digits").write_text("")
    (root / "near").mkdir()
    (root / "near" / "1").write_text("")
    assert named(root) == {
        "digits": "expected a folder NAME/VERSION/model.onnx, got a file",
        "near/1": "expected a folder of a version, got a file",
    }
    assert served(root) == BOTH


def test_folders_without_versions(root: Path):
    (root / "lost+found").mkdir()
    (root / "notes").mkdir()
    (root / "notes" / "todo.txt").write_text("")
    reason = "expected a version's folder such as 1, got none"
    assert named(root) == {"lost+found": reason, "notes": reason}
    assert [each.empty for each in survey(root)[1]] == [True, False]


def test_a_card_by_another_name(root: Path):
    shutil.copy(root / "rings" / "card.yaml", root / "rings" / "card.yml")
    (root / "nearness" / "Card.yaml").write_text("")
    reason = "expected the name card.yaml: this file is not read"
    assert named(root) == {"rings/card.yml": reason, "nearness/Card.yaml": reason}
    assert served(root) == BOTH


def test_a_folder_that_would_hide_a_samplers_raw_network(root: Path):
    shutil.copytree(root / "nearness", root / "rings.network")
    shutil.copytree(root / "nearness", root / "nearness.network")
    assert named(root) == {"rings.network": "expected another name, 'rings.network' is rings's raw network"}
    shelf = LoadedModels(root, 1)
    asyncio.run(shelf.load_all())
    assert {state.name for state in shelf.states()} == {*BOTH, "nearness.network"}
    raw = shelf.models["rings.network"].network
    assert [each.name for each in raw.backend.inputs] == ["x", "t"]


@pytest.mark.parametrize(
    ("config", "versions", "file", "why"),
    [
        ("", "10", "model.onnx", ""),
        ('name: "other" backend: "onnxruntime" no_such_field: 7', "10", "model.onnx", ""),
        ("version_policy { latest { num_versions: 1 } }", "10", "model.onnx", ""),
        ("version_policy: { specific: { versions: [9] } }", "9", "model.onnx", ""),
        ("version_policy: { specific: { versions: [9, 1, 4] } }", "1 9", "model.onnx", "of version 4, got 1, 9, 10"),
        ("version_policy { all { } }", "1 9 10", "model.onnx", ""),
        ("version_policy { latest { num_versions: 2 } }", "9 10", "model.onnx", ""),
        ('default_model_filename: "net.onnx" version_policy { specific { versions: 9 } }', "9", "net.onnx", ""),
        ('default_model_filename: "net.onnx"', "10", "model.onnx", "expected a file in 10, got 'net.onnx'"),
        ('default_model_filename: "../9/net.onnx"', "10", "model.onnx", "expected a file in 10, got '../9/net.onnx'"),
        ("version_policy { specific {", "10", "model.onnx", "expected Triton's configuration: this file is not read"),
    ],
)
def test_what_config_pbtxt_says(root: Path, config: str, versions: str, file: str, why: str):
    model = root / "nearness"
    for name in ("9", "10"):
        shutil.copytree(model / "1", model / name)
    (model / "9" / "model.onnx").rename(model / "9" / "net.onnx")
    shutil.copy(model / "9" / "net.onnx", model / "9" / "model.onnx")
    (model / "config.pbtxt").write_text(config)
    found = [each for each in scan(root) if each.name == "nearness"]
    assert found == [Folder("nearness", version, model, file) for version in versions.split()]
    assert all(each.graph == model / each.version / file for each in found)
    said = named(root).get("nearness/config.pbtxt", "")
    assert why in said
    assert bool(said) == bool(why)
    assert served(root) == BOTH


def test_a_file_name_that_some_versions_lack(root: Path):
    model = root / "nearness"
    shutil.copytree(model / "1", model / "2")
    (model / "2" / "model.onnx").rename(model / "2" / "net.onnx")
    (model / "config.pbtxt").write_text('default_model_filename: "net.onnx" version_policy { all { } }')
    found = [each.graph for each in scan(root) if each.name == "nearness"]
    assert found == [model / "1" / "model.onnx", model / "2" / "net.onnx"]
    assert "expected a file in 1, got 'net.onnx'" in named(root)["nearness/config.pbtxt"]


def test_a_version_policy_that_names_no_folder(root: Path):
    (root / "nearness" / "config.pbtxt").write_text("version_policy { specific { versions: 3 } }")
    assert named(root) == {"nearness/config.pbtxt": "version_policy: expected a folder of version 3, got 1"}
    assert served(root) == {"rings": "READY", "rings.network": "READY"}


def test_the_configuration_that_the_exporter_writes_is_read(small_models: Path):
    assert survey(small_models)[1] == []


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("place", ["lost+found", "rings/1"])
def test_folders_that_cannot_be_read(root: Path, place: str):
    (root / place).mkdir(exist_ok=True)
    (root / place).chmod(0)
    try:
        states = served(root)
        told = named(root)
    finally:
        (root / place).chmod(0o700)
    if place == "lost+found":
        assert told == {place: "expected a readable folder, got: Permission denied"}
        assert states == BOTH
    else:
        assert states == {"rings": "UNAVAILABLE", "nearness": "READY"}


def test_texts_are_one_line_of_utf8():
    assert readable("caf\udce9 \n\t\x1b[31m größe") == "caf\\xe9 \\n\\t\\x1b[31m größe"
    assert str(Passed(Path("/m/\udcff"), "a\nb")) == "/m/\\xff: a\\nb"
    assert sys.getfilesystemencoding() == "utf-8"


def test_the_reason_of_a_model_can_be_sent(root: Path):
    """Names of files travel in replies, as UTF-8."""
    (root / "rings" / "1" / "model.onnx").unlink()
    where = root.rename(os.fsdecode(os.fsencode(root.parent) + b"/m\xff"))
    shelf = LoadedModels(where, 1)
    asyncio.run(shelf.load_all())
    for state in shelf.states():
        state.reason.encode()


def test_an_unreadable_model_among_networks(root: Path, monkeypatch: pytest.MonkeyPatch):
    """As root sees no unreadable file: the error that others would get."""

    def denied(self: Folder) -> Path:
        if self.name == "rings":
            raise PermissionError(13, "Permission denied", str(self.root / "1"))
        return self.root / self.version / "model.onnx"

    monkeypatch.setattr(Folder, "graph", property(denied))
    shelf = LoadedModels(root, 1)
    asyncio.run(shelf.load_all())
    states = {state.name: (state.state, state.reason) for state in shelf.states()}
    assert states["rings"] == ("UNAVAILABLE", f"{root}/rings/1: expected to read it, got: Permission denied")
    assert states["nearness"][0] == "READY"
