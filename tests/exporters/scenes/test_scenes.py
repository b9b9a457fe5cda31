"""The family of the 3-D demo, its renderer, and the training of its denoiser."""

from pathlib import Path

import pytest
import torch

from exporters.network import OnnxNetwork
from exporters.scenes import data, judging, networks, train
from exporters.scenes.__main__ import CARD
from exporters.scenes.family import DENSITY, GRID, KINDS, Field, member, voxels
from exporters.scenes.networks import NO_KIND, SceneDenoiser
from exporters.scenes.render import DISTANCE, FAR, NEAR, SIDE, anywhere, cameras, rays, render
from protos.card import load_card
from steering.plans.predictions import denoise

ROOT = Path(__file__).resolve().parents[3]


def ball(radius: float) -> Field:
    """Solid and red."""
    inside = (voxels().norm(dim=-1) < radius).float()
    return Field(DENSITY * inside, torch.tensor([1.0, 0, 0])[:, None, None, None].expand(3, GRID, GRID, GRID))


def test_a_member_is_a_function_of_split_kind_and_number():
    for kind in KINDS:
        first = member("train", kind, 3)
        assert torch.equal(first.density, member("train", kind, 3).density)
        others = member("train", kind, 4), member("unseen", kind, 3)
        assert all(not torch.equal(first.density, other.density) for other in others)
        assert 0 < float(first.density.mean()) < DENSITY / 4
        assert 0 <= float(first.colour.min()) <= float(first.colour.max()) <= 1
    with pytest.raises(ValueError, match="kind: expected one of chair, mug, got 'spoon'"):
        member("train", "spoon", 0)
    with pytest.raises(ValueError, match="split: expected one of train, unseen, got 'test'"):
        member("test", "mug", 0)


def test_rays_are_those_of_a_camera_that_looks_at_the_middle():
    camera = cameras(torch.tensor([0.0, 90.0, 37.0]), torch.tensor([0.0, 0.0, 30.0]))
    torch.testing.assert_close(camera[:2], torch.tensor([[0.0, 1, 0], [1.0, 0, 0]]))
    torch.testing.assert_close(camera.norm(dim=1), torch.ones(3))
    at = rays(camera, side=8)
    away = (at - DISTANCE * camera[:, None, None]).norm(dim=-1)
    assert NEAR < float(away.min()) < float(away.max()) < FAR
    middle = at.reshape(3, 8, 8, -1, 3)[:, 3:5, 3:5].mean(dim=(1, 2))  # about the ray through the middle
    across = torch.linalg.cross(middle, camera[:, None].expand_as(middle)).norm(dim=-1)
    assert float(across.max()) < 1e-4
    up = at.reshape(3, 8, 8, -1, 3)[:, 0] - at.reshape(3, 8, 8, -1, 3)[:, 7]
    assert bool((up[..., 2] > 0).all())  # the first row is the upper one


def test_a_picture_is_emission_and_absorption():
    """A ball has the outline that geometry says; nothing is white, and half of the light goes through a thin fog."""
    camera = anywhere(2, torch.Generator().manual_seed(0))
    clear = Field(torch.zeros(GRID, GRID, GRID), torch.zeros(3, GRID, GRID, GRID))
    torch.testing.assert_close(render(clear, camera), torch.ones(2, 3, SIDE, SIDE))
    picture = render(ball(0.6), camera)
    covered = (picture[:, 1] < 0).float().mean(dim=(1, 2))
    half = torch.tensor(0.6 / DISTANCE).asin().tan() / torch.tan(torch.deg2rad(torch.tensor(24.0)))
    torch.testing.assert_close(covered, (torch.pi * half**2 / 4).expand(2), rtol=0.15, atol=0)
    assert bool((picture[:, 0] > 0.9).all())  # red on white
    fog = Field(torch.full((GRID, GRID, GRID), 0.3466), torch.zeros(3, GRID, GRID, GRID))  # log 2 over the cube's edge
    seen = render(fog, cameras(torch.tensor([0.0]), torch.tensor([0.0])))[0, :, SIDE // 2, SIDE // 2]
    torch.testing.assert_close(seen, torch.zeros(3), rtol=0, atol=0.06)


def test_many_objects_are_rendered_as_each_alone_and_one_from_many_sides():
    fields = [member("unseen", kind, 0) for kind in KINDS]
    camera = anywhere(2, torch.Generator().manual_seed(1))
    both = render(Field.stacked(fields), camera)
    for i in range(2):
        torch.testing.assert_close(both[i], render(fields[i], camera[i : i + 1])[0])
        torch.testing.assert_close(both[i], render(fields[i], camera)[i])


def test_gradients_of_pictures_are_their_differences():
    generator = torch.Generator().manual_seed(2)
    density = torch.rand(4, 4, 4, generator=generator, dtype=torch.float32).requires_grad_()
    colour = torch.rand(3, 4, 4, 4, generator=generator).requires_grad_()
    camera = anywhere(1, generator)
    direction = torch.randn(1, 3, 6, 6, generator=generator)

    def value(d: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return (render(Field(d, c), camera, side=6) * direction).sum()

    by_density, by_colour = torch.autograd.grad(value(density, colour), [density, colour])
    density, colour = density.detach(), colour.detach()
    step = 1e-2
    for parameter, gradient in ((density, by_density), (colour, by_colour)):
        along = torch.randn(parameter.shape, generator=generator)
        there, back = (
            value(*(each + sign * step * along if each is parameter else each for each in (density, colour)))
            for sign in (1, -1)
        )
        assert float((there - back) / (2 * step)) == pytest.approx(float((gradient * along).sum()), rel=2e-2)


def test_a_chair_looks_along_y_and_a_mug_has_its_handle_at_x():
    chair, mug = member("unseen", "chair", 1), member("unseen", "mug", 1)
    weight = chair.density[GRID // 2 + 4 :].sum(dim=(0, 2))  # above the seat, along y
    assert float(weight[: GRID // 2].sum()) > 10 * float(weight[GRID // 2 :].sum())
    weight = mug.density[GRID // 2 - 2 : GRID // 2 + 2].sum(dim=(0, 1))
    assert float(weight[-6:].sum()) > 10 * float(weight[:4].sum())


def test_distances_to_the_family():
    references = data.unseen("mug", members=6)
    own = references[2].float() / 127.5 - 1
    assert judging.distance(own, references) == judging.Distance(0, 0)
    alone = judging.distance(own, references, leave_out=2)
    squares = [float((own - (each.float() / 127.5 - 1)).square().mean()) for i, each in enumerate(references) if i != 2]
    assert alone.one == pytest.approx(min(squares) ** 0.5)
    assert 0 < alone.each <= alone.one
    mixed = torch.cat([references[0, :6], references[1, 6:]]).float() / 127.5 - 1  # views of two members
    found = judging.distance(mixed, references)
    assert found.each == 0
    assert found.one > 0
    assert judging.floor(references, members=3).one == pytest.approx(
        sum(judging.distance(references[i].float() / 127.5 - 1, references, i).one for i in range(3)) / 3
    )


def test_pictures_are_kept_and_training_goes_on(tmp_path: Path):
    pictures = data.drawn(tmp_path / "pictures.pt", members=12, views=2)
    assert len(pictures) == 48
    assert torch.bincount(pictures.kind).tolist() == [24, 24]
    assert torch.equal(data.drawn(tmp_path / "pictures.pt", members=12, views=2).pixels, pictures.pixels)
    kind, camera = train.told(pictures, torch.arange(48).repeat(40), torch.Generator().manual_seed(0))
    nothing, unseen = kind == NO_KIND, (camera == 0).all(dim=1)
    assert bool(unseen[nothing].all())
    assert float(nothing.float().mean()) == pytest.approx(train.NOTHING, abs=0.03)
    assert float(unseen.float().mean()) == pytest.approx(train.NOTHING + train.NO_CAMERA, abs=0.04)
    first = train.train_denoiser(pictures, tmp_path / "denoiser.pt", steps=2)
    assert torch.load(tmp_path / "denoiser.pt", weights_only=True)["step"] == 2
    again = train.train_denoiser(pictures, tmp_path / "denoiser.pt", steps=2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_an_unknown_camera_is_no_camera():
    """Features of the null camera are all 0, those of opposite ones differ."""
    torch.manual_seed(0)
    network = SceneDenoiser().eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x, t = torch.randn(1, 3, SIDE, SIDE).expand(3, -1, -1, -1), torch.zeros(3)
    camera = cameras(torch.tensor([20.0, 200.0, 0.0]), torch.tensor([20.0, 20.0, 0.0]))
    camera[2] = 0
    with torch.no_grad():
        seen = network(x, t, torch.zeros(3, dtype=torch.int64), camera)
    assert all(float((seen[i] - seen[j]).abs().max()) > 1e-3 for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.fixture(scope="module")
def shipped() -> OnnxNetwork:
    """The model of the demo."""
    folder = ROOT / "deploy" / "scene_models" / "scenes"
    return OnnxNetwork(folder / "1" / "model.onnx", load_card(folder / "card.yaml"), threads=1)


def test_the_shipped_model_is_of_this_recipe(shipped: OnnxNetwork):
    assert shipped.card.calibration is not None
    assert shipped.card.model_copy(update={"calibration": None}) == CARD
    curve = shipped.card.calibration
    assert list(curve.mse) == sorted(curve.mse)
    assert curve.mse[-1] < networks.SIGMA_DATA**2


def test_the_shipped_model_knows_unseen_members_from_their_camera(shipped: OnnxNetwork):
    """Told the camera and the kind, it restores them better than told neither, or a camera on the other side."""
    camera = data.reference_cameras()
    errors: dict[str, list[float]] = {"right": [], "none": [], "opposite": []}
    for kind, name in enumerate(KINDS):
        x0 = data.unseen(name, members=2)[1].float() / 127.5 - 1
        generator = torch.Generator().manual_seed(kind)
        sigma = 4.0  # the picture itself says little of the camera
        x = x0 + sigma * torch.randn(x0.shape, generator=generator)
        t = torch.full((len(x0),), sigma, dtype=torch.float64)
        rule = denoise(shipped.path, sigma, "x0", "edm", networks.SIGMA_DATA)
        told = torch.full((len(x0),), kind)
        around = camera * torch.tensor([-1.0, -1.0, 1.0])
        for asked, cond in (
            ("right", {"kind": told, "camera": camera}),
            ("none", {"kind": torch.full_like(told, NO_KIND), "camera": torch.zeros_like(camera)}),
            ("opposite", {"kind": told, "camera": around}),
        ):
            found = rule(x, shipped(rule.scaled(x), t, **cond))
            errors[asked].append(float((found - x0).square().mean()))
    for right, none, opposite in zip(errors["right"], errors["none"], errors["opposite"], strict=True):
        assert right < 0.8 * none
        assert right < 0.8 * opposite
