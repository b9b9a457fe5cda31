"""The gallery's recipes, and the models of it that ship."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from exporters.gallery import __main__ as command
from exporters.gallery import ecg, reduction, stable_sdes, vowels
from exporters.gallery.fitting import fitted, rate
from exporters.gallery.recipe import at_least, at_most
from exporters.gallery.table import RECIPES
from protos.card import load_card

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "deploy" / "gallery_models"


def test_every_recipe_s_models_ship_and_no_others():
    models = [name for recipe in RECIPES.values() for name in recipe.models]
    assert len({*models}) == len(models)
    assert sorted(models) == sorted(each.name for each in SHIPPED.iterdir() if each.is_dir())
    for name in models:
        assert load_card(SHIPPED / name / "card.yaml").name == name


def test_every_recipe_is_on_the_page():
    page = (ROOT / "docs" / "gallery.md").read_text()
    for recipe in RECIPES.values():
        assert f"| `{recipe.name}` |" in page
        assert all(f"`{name}`" in page for name in recipe.models)


@pytest.mark.parametrize("name", ["stable", "stations", "chromatograph", "couple"])
def test_what_ships_is_what_it_says(name: str):
    """The others take longer: `make gallery-check`."""
    figures = RECIPES[name].check(SHIPPED)
    assert figures
    assert not [str(figure) for figure in figures if not figure.holds]


def test_a_recipe_builds_what_its_check_holds(tmp_path: Path):
    RECIPES["stations"].build(tmp_path, 1.0)
    assert all(figure.holds for figure in RECIPES["stations"].check(tmp_path))


def test_the_command_says_what_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    app = typer.Typer()
    app.command()(command.main)
    figures = [at_most("error", 2.0, 1.0), at_least("rate", 2.0, 1.0)]
    wrong = replace(RECIPES["stations"], check=lambda repository: figures)
    monkeypatch.setitem(RECIPES, "stations", wrong)
    told = CliRunner().invoke(app, ["stations", "--check", "--out", str(tmp_path)])
    assert told.exit_code == 1
    assert "error: 2 (at most 1, FAILED)" in told.output
    assert "rate: 2 (at least 1)" in told.output
    assert CliRunner().invoke(app, ["nothing"]).exit_code == 2


def test_a_figure_that_is_not_a_number_does_not_hold():
    assert not at_most("error", float("nan"), 1.0).holds
    assert not at_least("share", float("nan"), 0.0).holds


def test_training_goes_up_then_down_and_learns():
    rates = [rate(step, 100, 5, 1.0) for step in range(100)]
    assert max(rates) == rates[4] == 1.0
    assert rates[-1] < 0.02
    torch.manual_seed(0)
    line = fitted(
        torch.nn.Linear(1, 1),
        lambda net, generator: ((net(x := torch.randn(32, 1, generator=generator)) - 2 * x - 1) ** 2).mean(),
        steps=300, peak=0.1, name="line",
    )  # fmt: skip
    assert not line.training
    torch.testing.assert_close(line(torch.tensor([[3.0]])), torch.tensor([[7.0]]), atol=1e-2, rtol=0)


def test_a_series_is_straight_between_its_frames():
    utterances = [(torch.arange(20.0)[:, None].expand(20, 12) ** 2, 3), (torch.ones(7, 12), 0)]
    series = vowels.irregular(utterances, dropped=0.5, seed=0)
    assert series.speakers.tolist() == [3, 0]
    at = series.times[:, 4]
    torch.testing.assert_close(vowels.straight(series.times, series.values, at), series.values[:, 4])
    late = vowels.straight(series.times, series.values, torch.ones(2))
    torch.testing.assert_close(late, torch.stack([torch.full((12,), 361.0), torch.ones(12)]))
    some, other = series.values[0, 3], series.values[0, 4]
    middle = (series.times[:1, 3] + series.times[:1, 4]) / 2
    found = vowels.straight(series.times[:1], series.values[:1], middle)[0]
    torch.testing.assert_close(found, (some + other) / 2)


def test_an_untrained_network_of_each_form_names_speakers_at_random():
    """The training's own integration runs, and its loss has gradients everywhere."""
    series = vowels.some_series(8)
    for form in stable_sdes.FORMS:
        torch.manual_seed(0)
        network = stable_sdes.Classifier(form)
        network(series, torch.randn(stable_sdes.NODES, 8, stable_sdes.STATE)).square().sum().backward()
        assert all(each.grad is not None and each.grad.isfinite().all() for each in network.parameters())


def test_records_of_one_dipole_and_their_twelve_leads():
    leads, kind = ecg.records(32, torch.Generator().manual_seed(0))
    assert {*kind.tolist()} == {0, 1, 2}
    assert ecg.outside(leads) < 1e-12
    assert ecg.outside(leads + torch.randn(leads.shape, generator=torch.Generator().manual_seed(1))) > 0.1
    lead = dict(zip(ecg.TWELVE, ecg.Twelve()(leads).unbind(1), strict=True))
    assert torch.equal(lead["III"], lead["II"] - lead["I"])
    torch.testing.assert_close(lead["aVR"] + lead["aVL"] + lead["aVF"], torch.zeros(32, ecg.LENGTH), atol=1e-5, rtol=0)


def test_interpolation_points_give_back_what_the_basis_spans():
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(40, 6, generator=generator, dtype=torch.float64))
    points = reduction.interpolation_points(basis)
    assert len({*points.tolist()}) == 6
    vector = basis @ torch.randn(6, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(basis @ torch.linalg.solve(basis[points], vector[points]), vector)
