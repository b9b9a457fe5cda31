"""Networks that samples are drawn from: each class's module as `(x [n, *event], t [n], *conditions) -> [n, ...]`.

`t` is what the scheduler calls a timestep, whatever a class makes of it. What is constant is baked in: positions of
Flux's tokens, sizes of PixArt's pictures, the embedding of the guidance scale.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from exporters.diffusers.source import FolderError, Part
from protos.card import Condition
from protos.complaint import shorten

TOKENS = 77
"""Tokens of a prompt where no tokenizer says."""
MASK, MASKED = "mask", "masked_image_latents"
"""Conditions of networks that fill in: what is to be drawn anew, and latents of the picture without it."""
_EXAMPLES = 4
_FLUX_SIDE, _FLUX_PATCH = 128, 2
"""Latents of Flux, whose configuration does not say: 1024 pixels."""


@dataclass(frozen=True)
class Network:
    """A sampler's network, ready for export.

    Attributes:
        module: takes x, t and the conditions, in this order.
        event: the shape of one sample.
        conditions: by the graph's input.
        examples: of x and t and of every condition, by name, [n, ...].
        learned_variance: the output is twice as long, its second half a variance.
        guidance_input: the condition that takes the guidance scale itself.
        sizes: the condition that takes height and width as SDXL wants them.
        notes: what there is to say, one line each.
    """

    module: nn.Module
    event: tuple[int, ...]
    conditions: dict[str, Condition]
    examples: dict[str, Tensor]
    learned_variance: bool = False
    guidance_input: str | None = None
    sizes: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """What a class is told beside its module.

    Attributes:
        size: height and width of latents, None for the configuration's.
        tokens: of an encoded prompt.
        pixels: how many pixels of a picture, along one side, are one of the latents.
        boundary: sigma_min and sigma_data of a consistency model, None for other networks.
    """

    size: tuple[int, int] | None = None
    tokens: int = TOKENS
    pixels: int = 8
    boundary: tuple[float, float] | None = None


@dataclass
class Inputs:
    """Conditions and their examples as they are found."""

    conditions: dict[str, Condition] = field(default_factory=dict)
    examples: dict[str, Tensor] = field(default_factory=dict)

    def floats(self, name: str, *shape: int, null: Any = None, keep: bool = False) -> None:
        self.conditions[name] = Condition(dtype="float32", shape=shape, null=null, guidance="keep" if keep else None)
        self.examples[name] = torch.randn(_EXAMPLES, *shape, generator=torch.Generator().manual_seed(len(name)))

    def labels(self, name: str, count: int, null: int | None = None) -> None:
        self.conditions[name] = Condition(dtype="int64", null=null, min=0, max=count - 1)
        self.examples[name] = torch.arange(_EXAMPLES) * (count - 1) // (_EXAMPLES - 1)

    def mask(self, name: str, length: int) -> None:
        """1 for tokens that count."""
        self.conditions[name] = Condition(dtype="float32", shape=(length,), min=0, max=1)
        counts = torch.arange(length)[None] < torch.arange(1, _EXAMPLES + 1)[:, None] * max(1, length // _EXAMPLES)
        self.examples[name] = counts.to(torch.float32)


def build(part: Part, load: Callable[[Part], Any], asked: Asked) -> Network:
    """The network of a part by its class, one of CLASSES.

    Args:
        load: reads the part's weights; only where the class is known.

    Raises:
        FolderError: a kind of the class that cannot be served; one line.
    """
    return CLASSES[part.kind](part, load, asked)


class _Plain(nn.Module):
    """A network that takes x and t by position, and one condition at most."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, *given: Tensor) -> Tensor:
        output: Tensor = self.network(x, t, *given, return_dict=False)[0]
        return output


class _Consistency(_Plain):
    """A consistency model of x and sigma as its own estimate of x0: Song et al. 2023, arXiv:2303.01469, appendix C."""

    def __init__(self, network: nn.Module, sigma_min: float, sigma_data: float) -> None:
        super().__init__(network)
        self.sigma_min, self.sigma_data = sigma_min, sigma_data

    def forward(self, x: Tensor, t: Tensor, *given: Tensor) -> Tensor:
        sigma = t[:, None, None, None]
        norm, excess = torch.sqrt(sigma**2 + self.sigma_data**2), sigma - self.sigma_min
        raw = super().forward(x / norm, 250 * torch.log(t), *given)
        skip = self.sigma_data**2 / (excess**2 + self.sigma_data**2)
        return skip * x + excess * self.sigma_data / norm * raw


def _unet2d(part: Part, load: Callable[[Part], Any], asked: Asked) -> Network:
    """DDPM, improved DDPM, NCSN++ and consistency models."""
    height, width = asked.size or _sides(part, 32)
    inputs = Inputs()
    if count := part.said("num_class_embeds"):
        inputs.labels("class_labels", count)
    elif part.said("class_embed_type"):
        raise FolderError(_unserved(part, "class_embed_type"))
    channels = part.said("in_channels", 3)
    network = load(part)
    module = _Plain(network) if asked.boundary is None else _Consistency(network, *asked.boundary)
    made = _network(part, module, (channels, height, width), inputs, part.said("out_channels", 3))
    notes = () if asked.boundary is None else ("a consistency model: a flow map, which one step or a few take to data",)
    return replace(made, notes=notes)


def _unet1d(part: Part, load: Callable[[Part], Any], asked: Asked) -> Network:
    """Sound and trajectories."""
    if part.said("out_block_type") == "ValueFunction":
        raise FolderError(f"{part.folder}: out_block_type: expected a network of samples, got a value function")
    channels, length = part.said("in_channels", 2), part.said("sample_size", 65536)
    length = length if asked.size is None else asked.size[0]
    return _network(part, _Plain(load(part)), (channels, length), Inputs(), part.said("out_channels", 2))


def _dit(part: Part, load: Callable[[Part], Any], asked: Asked) -> Network:
    """Peebles & Xie's transformer; the label after the last means "none"."""
    height, width = asked.size or _sides(part, 32)
    inputs, count = Inputs(), part.said("num_embeds_ada_norm", 1000)
    inputs.labels("class_labels", count + 1, null=count)
    channels = part.said("in_channels", 4)
    return _network(part, _Plain(load(part)), (channels, height, width), inputs, part.said("out_channels", channels))


class _Prompted(nn.Module):
    """UNet2DConditionModel with what it is told by name.

    Attributes:
        names: of the conditions that `forward` is given.
        scales: length of the embedding of the guidance scale, of networks that take one.
    """

    def __init__(self, network: nn.Module, names: Sequence[str], scales: int) -> None:
        super().__init__()
        self.network, self.names, self.scales = network, tuple(names), scales

    def forward(self, x: Tensor, t: Tensor, *given: Tensor) -> Tensor:
        told = dict(zip(self.names, given, strict=True))
        if MASK in told:  # 9 channels: latents, what is to be drawn, and latents of the rest
            x = torch.cat([x, told[MASK], told[MASKED]], dim=1)
        output: Tensor = self.network(
            x,
            t,
            told["encoder_hidden_states"],
            class_labels=told.get("class_labels"),
            timestep_cond=scale_embedding(told["guidance"], self.scales) if "guidance" in told else None,
            added_cond_kwargs={name: told[name] for name in ("text_embeds", "time_ids") if name in told} or None,
            encoder_attention_mask=told.get("encoder_attention_mask"),
            return_dict=False,
        )[0]
        return output


def scale_embedding(guidance: Tensor, length: int) -> Tensor:
    """Guidance scales [n] as sines and cosines [n, length] of 1000 (w - 1): Luo et al. 2023, arXiv:2310.04378, section
    4.3, with the frequencies of Vaswani et al. 2017."""
    half = length // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * (-math.log(10000.0) / (half - 1)))
    angles = 1000.0 * (guidance[:, None] - 1.0) * frequencies[None]
    return nn.functional.pad(torch.cat([torch.sin(angles), torch.cos(angles)], dim=1), (0, length % 2))


def _unet2d_condition(part: Part, load: Callable[[Part], Any], asked: Asked) -> Network:
    """Stable Diffusion 1, 2 and XL, their variants that fill in, and those distilled to few steps."""
    height, width = asked.size or _sides(part, 64)
    inputs, notes, sizes, guidance = Inputs(), list[str](), None, None
    inputs.floats("encoder_hidden_states", asked.tokens, _width(part))
    if part.said("encoder_hid_dim_type") not in (None, "text_proj"):
        raise FolderError(_unserved(part, "encoder_hid_dim_type"))
    kind = part.said("class_embed_type")
    if kind in ("projection", "simple_projection"):
        inputs.floats("class_labels", part.said("projection_class_embeddings_input_dim"))
    elif kind is not None:
        raise FolderError(_unserved(part, "class_embed_type"))
    elif count := part.said("num_class_embeds"):
        inputs.labels("class_labels", count)
    if part.said("addition_embed_type") == "text_time":
        told = 6
        text = part.said("projection_class_embeddings_input_dim") - told * part.said("addition_time_embed_dim")
        if part.said("cross_attention_dim") == 1280 and text == 1536:
            raise FolderError(f"{part.folder}: expected a network that starts from noise, got SDXL's refiner")
        inputs.floats("text_embeds", text)
        inputs.floats("time_ids", told, keep=True)
        inputs.examples["time_ids"] = torch.tensor([[8.0 * height, 8.0 * width, 0, 0, 8.0 * height, 8.0 * width]]) * (
            1 + torch.arange(_EXAMPLES)[:, None]
        )
        sizes = "time_ids"
    elif part.said("addition_embed_type") not in (None, "text"):  # a "text" is made of encoder_hidden_states alone
        raise FolderError(_unserved(part, "addition_embed_type"))
    scales = part.said("time_cond_proj_dim", 0)
    if scales:
        guidance = "guidance"
        inputs.floats(guidance, keep=True)
        inputs.examples[guidance] = torch.linspace(1, 12, _EXAMPLES)
        notes.append("a network distilled at guidance scales (LCM): a flow map, which takes the scale as an input")
    channels, out = part.said("in_channels", 4), part.said("out_channels", 4)
    if channels == 2 * out + 1:
        inputs.floats(MASK, 1, height, width, keep=True)
        inputs.floats(MASKED, out, height, width, keep=True)
        inputs.examples[MASK] = (inputs.examples[MASK] > 0).to(torch.float32)
        notes.append("a network that fills in: it also takes mask [1, h, w] (1 is drawn anew) and masked_image_latents")
        channels = out
    elif channels != out and 2 * channels != out:
        raise FolderError(
            f"{part.folder}: in_channels: expected {out} as out_channels, or {2 * out + 1} of a network that fills "
            f"in, got {channels}"
        )
    module = _Prompted(load(part), list(inputs.conditions), scales)
    network = _network(part, module, (channels, height, width), inputs, out)
    return replace(network, guidance_input=guidance, sizes=sizes, notes=tuple(notes))


class _OneMore(nn.Module):
    """Tokens [n, tokens, c] as [n, 1, tokens, c]: PixArt's module squeezes its second axis, which torch passes over and
    ONNX refuses where it is longer than 1."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, None]


class _PixArt(nn.Module):
    def __init__(self, network: Any, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.network, self.size = network, size
        if hasattr(network, "proj_out"):
            network.proj_out = nn.Sequential(network.proj_out, _OneMore())

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor) -> Tensor:
        added: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.size is not None:
            height, width = (float(side) for side in self.size)
            ones = torch.ones_like(t)[:, None]
            added = {"resolution": torch.cat([height * ones, width * ones], 1), "aspect_ratio": height / width * ones}
        output: Tensor = self.network(
            x,
            encoder_hidden_states=encoder_hidden_states,
            timestep=t,
            added_cond_kwargs=added,
            encoder_attention_mask=encoder_attention_mask,
            return_dict=False,
        )[0]
        return output


def _pixart(part: Part, load: Callable[[Part], Any], asked: Asked) -> Network:
    side = _sides(part, 128)
    height, width = asked.size or side
    inputs = Inputs()
    inputs.floats("encoder_hidden_states", asked.tokens, part.said("caption_channels"))
    inputs.mask("encoder_attention_mask", asked.tokens)
    told = part.said("use_additional_conditions", side[0] == 128)
    module = _PixArt(_followed(load(part)), (asked.pixels * height, asked.pixels * width) if told else None)
    channels = part.said("in_channels", 4)
    return _network(part, module, (channels, height, width), inputs, part.said("out_channels", 2 * channels))


class _Sana(nn.Module):
    def __init__(self, network: nn.Module, scale: float, guided: bool) -> None:
        super().__init__()
        self.network, self.scale, self.guided = network, scale, guided

    def forward(self, x: Tensor, t: Tensor, *given: Tensor) -> Tensor:
        encoded, mask, *rest = given
        output: Tensor = self.network(
            x,
            encoder_hidden_states=encoded,
            timestep=t * self.scale,
            guidance=rest[0] if rest else None,
            encoder_attention_mask=mask,
            return_dict=False,
        )[0]
        return output


def _sana(part: Part, load: Callable[[Part], Any], asked: Asked) -> Network:
    height, width = asked.size or _sides(part, 32)
    if part.said("guidance_embeds", False):
        raise FolderError(_unserved(part, "guidance_embeds"))
    inputs = Inputs()
    inputs.floats("encoder_hidden_states", asked.tokens, part.said("caption_channels"))
    inputs.mask("encoder_attention_mask", asked.tokens)
    module = _Sana(_followed(load(part)), part.said("timestep_scale", 1.0), False)
    channels = part.said("in_channels", 32)
    return _network(part, module, (channels, height, width), inputs, part.said("out_channels", channels))


class _StableDiffusion3(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, pooled_projections: Tensor) -> Tensor:
        output: Tensor = self.network(
            hidden_states=x,
            timestep=t,
            encoder_hidden_states=encoder_hidden_states,
            pooled_projections=pooled_projections,
            return_dict=False,
        )[0]
        return output


def _sd3(part: Part, load: Callable[[Part], Any], asked: Asked) -> Network:
    height, width = asked.size or _sides(part, 128)
    inputs = Inputs()
    inputs.floats("encoder_hidden_states", asked.tokens, part.said("joint_attention_dim"))
    inputs.floats("pooled_projections", part.said("pooled_projection_dim"))
    channels = part.said("in_channels", 16)
    module = _StableDiffusion3(load(part))
    return _network(part, module, (channels, height, width), inputs, part.said("out_channels", channels))


class _Flux(nn.Module):
    """Latents [n, c, h, w], which it packs into tokens [n, h/2 * w/2, 4 c] and unpacks again."""

    def __init__(self, network: nn.Module, height: int, width: int, tokens: int) -> None:
        super().__init__()
        self.network = network
        self.rows, self.columns = height // _FLUX_PATCH, width // _FLUX_PATCH
        places = torch.zeros(self.rows, self.columns, 3)
        places[..., 1] += torch.arange(self.rows)[:, None]
        places[..., 2] += torch.arange(self.columns)[None]
        self.register_buffer("places", places.reshape(-1, 3), persistent=False)
        self.register_buffer("words", torch.zeros(tokens, 3), persistent=False)

    def forward(self, x: Tensor, t: Tensor, *given: Tensor) -> Tensor:
        encoded, pooled, *guidance = given
        n, channels = x.shape[0], x.shape[1]
        p, rows, columns = _FLUX_PATCH, self.rows, self.columns
        packed = x.reshape(n, channels, rows, p, columns, p).permute(0, 2, 4, 1, 3, 5)
        output: Tensor = self.network(
            hidden_states=packed.reshape(n, rows * columns, channels * p * p),
            timestep=t / 1000,
            guidance=guidance[0] if guidance else None,
            pooled_projections=pooled,
            encoder_hidden_states=encoded,
            txt_ids=self.words,
            img_ids=self.places,
            return_dict=False,
        )[0]
        whole = output.reshape(n, rows, columns, channels, p, p).permute(0, 3, 1, 4, 2, 5)
        return whole.reshape(n, channels, rows * p, columns * p)


def _flux(part: Part, load: Callable[[Part], Any], asked: Asked) -> Network:
    height, width = asked.size or (_FLUX_SIDE, _FLUX_SIDE)
    if height % _FLUX_PATCH or width % _FLUX_PATCH:
        raise FolderError(f"size: expected latents of even height and width for {part.kind}, got {height}x{width}")
    inputs, guidance = Inputs(), None
    channels, out = part.said("in_channels", 64), part.said("out_channels", part.said("in_channels", 64))
    if channels != out:
        raise FolderError(f"{part.folder}: in_channels: expected {out} as out_channels, got {channels}")
    inputs.floats("encoder_hidden_states", asked.tokens, part.said("joint_attention_dim", 4096))
    inputs.floats("pooled_projections", part.said("pooled_projection_dim", 768))
    if part.said("guidance_embeds", False):
        guidance = "guidance"
        inputs.floats(guidance, keep=True)
        inputs.examples[guidance] = torch.linspace(1, 6, _EXAMPLES)
    module = _Flux(load(part), height, width, asked.tokens)
    channels //= _FLUX_PATCH**2
    return replace(_network(part, module, (channels, height, width), inputs, channels), guidance_input=guidance)


def _followed(network: nn.Module) -> nn.Module:
    """The network with masks of attention whose shapes an exporter can follow: diffusers repeats a mask [n, 1, tokens]
    for every head to [n * heads, 1, tokens], and views that as [n, heads, -1, tokens]."""
    from diffusers.models.attention_processor import Attention

    def prepared(attention: Any, mask: Tensor | None, length: int, rows: int) -> Tensor | None:
        return None if mask is None else mask[:, None].expand(-1, attention.heads, -1, -1)

    for part in network.modules():
        if isinstance(part, Attention):
            part.prepare_attention_mask = MethodType(prepared, part)  # type: ignore[method-assign]
    return network


CLASSES: Mapping[str, Callable[[Part, Callable[[Part], Any], Asked], Network]] = {
    "UNet2DModel": _unet2d,
    "UNet2DConditionModel": _unet2d_condition,
    "UNet1DModel": _unet1d,
    "DiTTransformer2DModel": _dit,
    "PixArtTransformer2DModel": _pixart,
    "SanaTransformer2DModel": _sana,
    "SD3Transformer2DModel": _sd3,
    "FluxTransformer2DModel": _flux,
}


def _network(part: Part, module: nn.Module, event: tuple[int, ...], inputs: Inputs, out: int) -> Network:
    """The network with examples of x and t; `out` are the channels of its output."""
    channels = event[0]
    if out not in (channels, 2 * channels):
        raise FolderError(f"{part.folder}: out_channels: expected {channels} or twice as many, got {out}")
    x = torch.randn(_EXAMPLES, *event, generator=torch.Generator().manual_seed(0))
    whole = part.said("time_embedding_type") == "learned"  # a table
    t = torch.linspace(1, 900, _EXAMPLES)
    examples = {"x": x, "t": t.to(torch.int64) if whole else t, **inputs.examples}
    return Network(module, event, inputs.conditions, examples, learned_variance=out == 2 * channels)


def _sides(part: Part, default: int) -> tuple[int, int]:
    size = part.said("sample_size", default)
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    return height, width


def _width(part: Part) -> int:
    """Features of a token."""
    width = part.said("encoder_hid_dim", part.said("cross_attention_dim", 1280))
    widths = {width} if isinstance(width, int) else set(width)
    if len(widths) > 1:
        raise FolderError(f"{part.folder}: cross_attention_dim: expected one number, got {shorten(width)}")
    return int(widths.pop())


def _unserved(part: Part, name: str) -> str:
    return f"{part.folder}: {name}: a {part.kind} with {shorten(part.config[name])} is not served"
