"""`solver=searched`: programs beside a model are loaded with it, chosen by their steps, and run as they do offline."""

import json
import shutil
from pathlib import Path
from typing import Any, get_args

import grpc
import numpy as np
import pytest
import torch

import steering
from protos.digest import sha256
from protos.programs import Step
from serving.backends import LoadError
from serving.backends.ort import OrtNetwork
from serving.models import offline
from serving.models.folders import scan
from serving.models.model import Sampler
from serving.models.repository import load
from serving.requests import job
from serving.wire.errors import RequestError
from serving.wire.kserve import InferRequest
from steering.plans.program import MAX_ORDER, Choice, Integrand, Program, Variable
from tests.serving.conftest import MakeEngine

PROGRAM = Program((0.0, 0.3, 1.0), (Choice("noise", 1), Choice("data", 2, "t", relaxation=(0.01, -0.01))))


def content(graph: Path) -> dict[str, Any]:
    """A plan file with one program of two steps."""
    searched = {
        "rows": PROGRAM.steps,
        "seed": 0,
        "error": 0.1,
        "fixed": {"solver": "ddim", "grid": "logsnr", "error": 0.2},
        "uniform": 0.2,
        "kendall": 0.5,
        "fractions": PROGRAM.fractions,
        "steps": [vars(choice) for choice in PROGRAM.choices],
    }
    return {"format": 1, "model_sha256": sha256(graph), "programs": [searched]}


@pytest.fixture
def root(small_models: Path, tmp_path: Path) -> Path:
    """The rings, with a plan file beside them."""
    shutil.copytree(small_models / "rings", tmp_path / "rings")
    graph = tmp_path / "rings" / "1" / "model.onnx"
    graph.with_name("searched.json").write_text(json.dumps(content(graph)))
    return tmp_path


def opened(root: Path) -> Sampler:
    return offline.open_sampler(root, "rings", threads=1)


def test_the_file_knows_every_choice_that_a_program_can_make() -> None:
    for name, known in (("target", Integrand), ("variable", Variable)):
        assert get_args(Step.model_fields[name].annotation) == get_args(known)
    with pytest.raises(ValueError, match="order"):
        Step(target="data", order=MAX_ORDER + 1, variable="t")
    assert Step(target="data", order=MAX_ORDER, variable="t").order == MAX_ORDER


def test_programs_are_loaded_with_their_model(root: Path) -> None:
    assert opened(root).programs == {2: PROGRAM}


def test_the_fingerprint_covers_the_programs(root: Path) -> None:
    before = opened(root)
    (root / "rings" / "1" / "searched.json").unlink()
    after = opened(root)
    assert not after.programs
    assert before.known.fingerprint != after.known.fingerprint


def test_searched_samples_are_those_of_the_program_offline(root: Path, make_engine: MakeEngine) -> None:
    model = opened(root)
    request = InferRequest("rings", inputs={}, parameters={"solver": "searched", "steps": 2, "samples": 5, "seed": 7})
    answer = make_engine().engine.submit(job.task_for(request, model, {"rings": model})).result(timeout=60)
    assert answer.parameters["network_rows"] == 10
    plan = steering.plan("searched", path=model.path, steps=2, prediction="x0", program=PROGRAM)
    sampler = steering.sample(steering.Problem(plan=plan, event=(2,), dtype=torch.float32), steering.Noise(7, range(5)))
    x, _ = offline.solve(sampler, model)
    assert np.array_equal(answer.outputs["samples"], x.numpy())


def refused(model: Sampler, **parameters: Any) -> str:
    request = InferRequest("rings", inputs={}, parameters={"solver": "searched", **parameters})
    with pytest.raises(RequestError) as caught:
        job.task_for(request, model, {"rings": model})
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    return caught.value.detail


def test_steps_without_a_program_name_those_with_one(root: Path) -> None:
    assert refused(opened(root), steps=7) == "steps: model 'rings' has searched programs for 2 steps, got 7"


def test_a_model_without_programs_says_how_to_make_some(root: Path) -> None:
    (root / "rings" / "1" / "searched.json").unlink()
    assert "`tiltserve search-plan rings` makes some" in refused(opened(root), steps=2)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model_sha256": "0" * 64}, "searched.json: searched for a graph with sha256 000000000000, the graph beside"),
        ({"programs": []}, "searched.json: programs: "),
        ({"pograms": []}, "searched.json: unknown key 'pograms', did you mean 'programs'?"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(root: Path, changes: dict[str, Any], complaint: str) -> None:
    file = root / "rings" / "1" / "searched.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    (folder,) = scan(root)
    with pytest.raises(LoadError) as caught:
        load(folder, lambda graph: OrtNetwork(graph, 1))
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
