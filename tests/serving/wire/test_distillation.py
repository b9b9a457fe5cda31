"""Requests for gradients are read within bounds, and their rows are counted without the models."""

import time
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf.message import Message

import steering
from protos.tiltserve.v1 import distillation_pb2 as pb
from serving.wire import distillation
from serving.wire.distillation import MODES, Session, Settings
from serving.wire.errors import RequestError
from serving.wire.tensors import tensor, value
from steering.distillation import PRESETS, modes

X = np.zeros((2, 3), np.float32)


def refused(data: bytes | Message) -> str:
    with pytest.raises(RequestError) as caught:
        distillation.decoded(distillation.read(data if isinstance(data, bytes) else data.SerializeToString()))
    assert "\n" not in caught.value.detail
    return caught.value.detail


def request(**fields: Any) -> pb.GradientRequest:
    return pb.GradientRequest(**{"model": "m", "input": tensor(X), **fields})


def test_tensors_stay_in_the_message():
    wanted = distillation.read(request(conditions={"c": tensor(X)}, iteration=1).SerializeToString())
    (sent,) = wanted.request.inputs
    assert (sent.name, sent.shape, isinstance(sent.raw, memoryview)) == ("c", (2, 3), True)
    assert wanted.input is not None
    assert (wanted.views, wanted.input.datatype) == (2, "FP32")


def test_every_field_arrives():
    settings = distillation.read(request(
        mode="cds", iteration=7, seed=5, first_view=2, noise="iteration", weighting="sds", guidance=3.0,
        convention="cond", clip=2.0, rescale=0.5, noises=4, stride=100.0, over=8,
        schedule=pb.Schedule(
            preset="refine", c0=1.0, c1=2.0, i_end=3, shape="linear", gap=4.0, perturb=5.0, smin=6.0, smax=7.0,
            unit="rho", scale=0.5, narrowed=True,
        ),
    ).SerializeToString()).settings()  # fmt: skip
    plain = Settings(iteration=7).model_dump()
    said = settings.model_dump()
    assert not [name for name in plain if said[name] == plain[name] and name != "iteration"]
    assert not [name for name, each in said["schedule"].items() if each is None]
    assert settings.scale == 4.0


def test_what_the_wire_names_is_what_steering_has():
    assert {*MODES} == {*modes.MODES}
    names = Settings.model_json_schema()["$defs"]["Schedule"]["properties"]["preset"]["anyOf"][0]["enum"]
    assert {*names} == {*PRESETS}
    for mode in MODES:
        wanted = modes.MODES[mode].noise
        assert Settings.model_validate({"mode": mode, "iteration": 0}).fixed_noise == (wanted == "fixed")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("noises", [1, 3])
def test_rows_are_those_that_steering_counts(mode: str, guidance: float, noises: int):
    if mode == "ism" and noises > 1:
        return
    noises += mode == "reward_sds"
    plan = steering.distillation.prior(steering.paths.vp_cosine(), "eps")
    condition, null = {"c": torch.zeros(5, 1)}, {"c": torch.zeros(1, 1)}
    problem = steering.Problem(plan=plan, event=(2,), condition=condition, null=null, guidance=guidance)
    kinds = steering.distillation.Settings(mode=mode, noises=noises)
    _, second = steering.distillation.times_of(problem, kinds, 9, 0, range(5))
    settings = Settings.model_validate({"mode": mode, "iteration": 9, "guidance": guidance, "noises": noises})
    for negatives in (0, 2) if guidance != 1 else (0,):
        exact = steering.distillation.network_rows(problem, kinds, second.rho, negatives)
        counted = distillation.rows(settings, 5, negatives=negatives)
        assert counted >= exact
        assert mode == "ism" or counted == exact
    assert mode != "ism" or counted <= exact * 6


def test_what_looks_ahead_of_an_inversion_is_not_guided():
    settings = Settings(mode="ism", iteration=0, guidance=3.0)
    rows = distillation.rows(settings, 5, rollout_rows=48, inversions=20)
    assert rows == (20 + 5) * (1 + 48) + 5 * (2 + 2 * 48)


def test_the_shortest_strides_are_counted_too():
    """From the noisiest step down, an inversion by strides of 10 takes a hundred rows of a view."""
    plan = steering.distillation.prior(steering.paths.vp_cosine(), "eps")
    problem = steering.Problem(plan=plan, event=(2,))
    times = steering.distillation.Schedule(c0=980, c1=980, gap=1, perturb=0, smin=0, smax=999)
    kinds = steering.distillation.Settings(mode="ism", times=times, stride=10.0)
    _, second = steering.distillation.times_of(problem, kinds, 0, 0, range(3))
    exact = steering.distillation.network_rows(problem, kinds, second.rho)
    assert 3 * 97 < exact <= distillation.rows(Settings(mode="ism", iteration=0, stride=10.0), 3)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xff\xff", "expected a protocol buffer message, got 2 bytes that do not parse"),
        (request().SerializeToString() + b"\xf8\x07\x01", "GradientRequest: unknown field 127, expected one of 1, 2,"),
        (request(schedule=pb.Schedule.FromString(b"\xf8\x07\x01")), "Schedule: unknown field 127"),
        (request(model="m" * 2000), "expected names of at most"),
        (request(models=[pb.WeightedModel(model="a")] * 9, model=""), "models: expected at most 8, got 9"),
        (request(models=[pb.WeightedModel(weight=np.nan)], model=""), "models: expected weights of a size up to"),
        (request(reward_arguments={str(k): value(1.0) for k in range(1100)}), "reward_arguments: expected at most"),
        (request(conditions={str(k): tensor(X[:0]) for k in range(1100)}), "conditions: expected at most 1024, got"),
        (request(prompt=["x"] * 5000), "prompt: expected at most 4096, got 5000"),
        (request(prompt=["x" * 2**17]), "texts of at most 65536"),
        (request(input=None), "input: expected FP32 or FP16"),
        (b"\x0a\x01m" + b"\x2a\x04\x12\x02\x01\x01", "input 'input': expected 4 bytes for FP32 [1, 1], got 0"),
    ],
)  # fmt: skip
def test_bounds_and_what_is_no_request(data: Any, text: str):
    assert text in refused(data)


def test_small_fields_without_end_are_refused_at_once():
    start = time.thread_time()
    text = refused(b"\x62\x00" * 2**22)
    assert "expected a request of at most 8192 fields" in text
    assert time.thread_time() - start < 5


def test_a_version_is_chosen_for_the_first_model():
    one = request(iteration=1, conditions={"c": tensor(X)})
    several = request(model="", models=[pb.WeightedModel(model="a", weight=2.0), pb.WeightedModel(model="b")])
    for sent in (one, several):
        changed = distillation.with_version(sent.SerializeToString(), "3")
        models = [(each.model, each.version, each.weight) for each in distillation.read(changed).models]
        wanted = [("m", "3", 1.0)] if sent is one else [("a", "3", 2.0), ("b", "", 1.0)]
        assert models == wanted
        back = pb.GradientRequest.FromString(changed)
        (back.models[0] if sent is several else back).version = ""
        assert back == sent


def test_a_session_merges_what_is_common():
    session = Session()
    common = pb.GradientRequest(model="m", mode="cds", conditions={"a": tensor(X)}, schedule=pb.Schedule(c0=5.0))
    assert session.request(pb.SessionRequest(common=common).SerializeToString()) == ()
    one = pb.GradientRequest(
        mode="sds", iteration=4, input=tensor(X), conditions={"b": tensor(X)}, schedule=pb.Schedule(c1=6.0)
    )
    pieces = session.request(pb.SessionRequest(gradient=one).SerializeToString())
    wanted = distillation.read(b"".join(pieces))
    assert (wanted.request.model, wanted.settings().mode) == ("m", "sds")
    assert (wanted.settings().schedule.c0, wanted.settings().schedule.c1) == (5.0, 6.0)
    assert sorted(each.name for each in wanted.request.inputs) == ["a", "b"]
    for wrong in (b"", b"\x08\x01", b"\xff", pb.SessionRequest(gradient=one).SerializeToString() * 2):
        with pytest.raises(RequestError):
            session.request(wrong)
