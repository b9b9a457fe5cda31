"""A graph is refused when it is not the module, and when it lets rows influence each other."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from exporters.export import export_model
from exporters.network import open_session
from exporters.parity import ParityError, check, probe, row_errors
from protos.card import Card

CARD = Card(name="toy", path={"kind": "vp_cosine"}, prediction="eps", t_range=(0.001, 0.999), event_shape=(3,))
EXAMPLES = {"x": torch.randn(4, 3), "t": torch.linspace(0.1, 0.9, 4)}


class Toy(nn.Module):
    """(x [B, 3], t [B]) -> [B, 3], each row from its own time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden = nn.Linear(4, 16)
        self.out = nn.Linear(16, 3)

    def times(self, t: Tensor) -> Tensor:
        return t

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.out(torch.tanh(self.hidden(torch.cat([x, 3 * self.times(t)[:, None]], dim=1))))


class FirstTime(Toy):
    def times(self, t: Tensor) -> Tensor:
        return t[:1].expand_as(t)


class MeanTime(Toy):
    def times(self, t: Tensor) -> Tensor:
        return t.mean().expand_as(t)


class BatchNormalised(Toy):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        y = super().forward(x, t)
        return y - y.mean(dim=0)


def test_own_times_pass(tmp_path: Path):
    report = export_model(Toy(), tmp_path / "toy", CARD, examples=EXAMPLES, outputs=["output"])
    assert report.sizes == (1, 2, 3, 8, 17)
    assert report.rows == 31
    assert report.error["output"] < 1e-5
    assert report.mixing < 1e-5


def test_one_time_for_all_rows_is_refused_with_rows_and_times(tmp_path: Path):
    with pytest.raises(ParityError) as refusal:
        export_model(FirstTime(), tmp_path / "toy", CARD, examples=EXAMPLES, outputs=["output"])
    text = str(refusal.value)
    assert re.fullmatch(
        r"output 'output' of a row depends on the other rows of its batch "
        r"\(is 't' used as one time for all of them\?\): "
        r"worst error [\d.e-]+ at batch size 2, expected at most 0\.0001; row 1 \(t=0\.\d+\)",
        text,
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("network", [MeanTime, BatchNormalised])
def test_rows_that_mix_are_refused(tmp_path: Path, network: type[Toy]):
    with pytest.raises(ParityError, match="depends on the other rows"):
        export_model(network(), tmp_path / "toy", CARD, examples=EXAMPLES, outputs=["output"])
    assert list(tmp_path.iterdir()) == []


def test_a_graph_of_other_weights_is_refused(tmp_path: Path):
    export_model(network := Toy(), tmp_path / "toy", CARD, examples=EXAMPLES, outputs=["output"])
    session = open_session(tmp_path / "toy" / "1" / "model.onnx", threads=1)
    with torch.no_grad():
        network.out.bias[2] += 0.25
    with pytest.raises(ParityError, match=r"differs from the module's: worst error 0\.\d+ at batch size 1.*row 0 \(t="):
        check(network, session, probe(EXAMPLES, CARD), time="t")


def test_the_probe_draws_mixed_times_in_the_cards_range():
    draw = probe({**EXAMPLES, "label": torch.tensor([3, 5, 5, 7])}, CARD)
    feeds = draw(17, torch.Generator().manual_seed(0))
    assert list(feeds) == ["x", "t", "label"]
    assert feeds["x"].shape == (17, 3)
    assert len(feeds["t"].unique()) == 17
    assert 0.001 <= float(feeds["t"].min()) < 0.1 < 0.9 < float(feeds["t"].max()) <= 0.999
    assert set(feeds["label"].tolist()) <= {3, 5, 7}


def test_the_probe_speaks_the_graphs_own_time():
    card = CARD.model_copy(update={"inputs": CARD.inputs.model_copy(update={"time": "1000*t"})})
    feeds = probe(EXAMPLES, card)(17, torch.Generator().manual_seed(0))
    assert 900 < float(feeds["t"].max()) <= 999


def test_row_errors_of_the_unusual():
    inf, nan = np.inf, np.nan
    got = np.array([[1.0, -inf], [1.0, nan], [0.0, 3.0], [inf, 0.0]])
    expected = np.array([[1.0, -inf], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    assert row_errors(got, expected).tolist()[::2] == [0.0, 1.0]
    assert (row_errors(got, expected)[1::2] > 1e300).all()
