"""Text encoders: all of a pipeline's joined into one graph, as its pipeline joins them, with their tokenizers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from exporters.diffusers.source import FolderError, Part, Source
from protos.pipeline import Tokenizer

CLIP = ("CLIPTextModel", "CLIPTextModelWithProjection")
T5 = ("T5EncoderModel",)
_ROLES = ("text_encoder", "text_encoder_2", "text_encoder_3")
_CLIP_LENGTH = 77
_MOST = 10_000
"""A tokenizer whose length is greater has none."""
HIDDEN, POOLED, MASK = "encoder_hidden_states", "pooled_projections", "encoder_attention_mask"
EXAMPLES = 4


@dataclass(frozen=True)
class Encoder:
    """One text encoder with its tokenizer.

    Attributes:
        ids, mask: names of the graph's inputs; no mask where the pipeline gives none.
        tokens: of a row.
        vocabulary: how many tokens there are.
        end: the token that ends a text.
    """

    part: Part
    tokenizer: Any
    ids: str
    mask: str | None
    tokens: int
    vocabulary: int
    pad: int
    end: int

    @property
    def file(self) -> str:
        """The tokenizer's file in the version's folder."""
        return f"{self.part.role.replace('text_encoder', 'tokenizer')}.json"

    @property
    def described(self) -> Tokenizer:
        """As the pipeline's card has it."""
        return Tokenizer(file=self.file, length=self.tokens, pad=self.pad, mask=self.mask)

    def draw(self, rows: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Made-up prompts of different lengths."""
        ids = torch.randint(self.vocabulary, (rows, self.tokens), generator=generator)
        lengths = torch.randint(1, self.tokens + 1, (rows, 1), generator=generator)
        places = torch.arange(self.tokens)[None]
        ids = torch.where(places >= lengths, self.pad, torch.where(places == lengths - 1, self.end, ids))
        drawn = {self.ids: ids}
        return drawn if self.mask is None else drawn | {self.mask: (places < lengths).to(torch.int64)}


@dataclass(frozen=True)
class Texts:
    """The text encoders of a pipeline.

    Attributes:
        join: makes the module of the loaded encoders.
        gives: outputs of the module in order, named as the sampler's conditions that they are for.
        tokens: of the encoded prompt.
        empty: what no negative prompt is, as in the pipeline's card.
        lower: prompts are made lower case and stripped, as PixArt's pipeline does.
    """

    encoders: tuple[Encoder, ...]
    join: Callable[[Sequence[nn.Module]], nn.Module]
    gives: tuple[str, ...]
    tokens: int
    empty: Literal["encode", "zeros"] = "encode"
    lower: bool = False

    @property
    def examples(self) -> dict[str, Tensor]:
        """Of the module's inputs in order, by name."""
        return self.draw(EXAMPLES, torch.Generator().manual_seed(0))

    def module(self, load: Callable[[Part], Any]) -> nn.Module:
        """The joined encoders in float32."""
        return self.join([load(each.part) for each in self.encoders])

    def draw(self, rows: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Inputs of the module in order, as a probe of parity wants them."""
        drawn: dict[str, Tensor] = {}
        for each in self.encoders:
            drawn |= each.draw(rows, generator)
        return drawn

    @property
    def tokenizers(self) -> dict[str, Tokenizer]:
        """By input of the graph, as the pipeline's card has them."""
        return {each.ids: each.described for each in self.encoders}


def read_texts(source: Source, sampler: Part, longest: int) -> Texts | None:
    """The text encoders of a pipeline; None where it has none.

    Args:
        longest: tokens of T5's prompts.

    Raises:
        FolderError: an encoder without its tokenizer, or of another class; one line.
    """
    parts = [source.parts[role] for role in _ROLES if role in source.parts]
    if not parts:
        return None
    for part in parts:
        if part.kind not in (*CLIP, *T5):
            raise FolderError(f"{part.folder}: {part.role}: expected one of {', '.join((*CLIP, *T5))}, got {part.kind}")
    layout = _layout(sampler)
    if layout in ("prompt", "masked"):
        if len(parts) > 1:
            raise FolderError(f"{source.folder}: expected one text encoder for {sampler.kind}, got {len(parts)}")
        said = layout == "masked" or bool(parts[0].said("use_attention_mask", False))
        encoder = _encoder(source, parts[0], longest, masked=said)
        if layout == "masked":
            return Texts((encoder,), _Masked, (HIDDEN, MASK), encoder.tokens, lower=True)
        return Texts((encoder,), _Last, (HIDDEN,), encoder.tokens)
    encoders = tuple(_encoder(source, part, longest) for part in parts)
    first = encoders[0].tokens
    if layout == "xl":
        if parts[-1].kind != CLIP[1]:
            raise FolderError(f"{parts[-1].folder}: expected {CLIP[1]} as the last text encoder, got {parts[-1].kind}")
        empty: Literal["encode", "zeros"] = "zeros" if source.options.get("force_zeros_for_empty_prompt") else "encode"
        return Texts(encoders, _Penultimate, (HIDDEN, "text_embeds"), first, empty)
    if layout == "flux":
        kinds = [each.kind for each in parts]
        if len(parts) != 2 or kinds[0] not in CLIP or kinds[1] not in T5:
            raise FolderError(f"{source.folder}: expected a CLIPTextModel and a T5EncoderModel, got {', '.join(kinds)}")
        return Texts(encoders, _Pair, (HIDDEN, POOLED), encoders[1].tokens)
    kinds = [each.kind for each in parts]
    if kinds[:2] != [CLIP[1]] * 2 or len(kinds) > 3 or (len(kinds) == 3 and kinds[2] not in T5):
        raise FolderError(f"{source.folder}: expected two {CLIP[1]} and a T5EncoderModel, got {', '.join(kinds)}")
    width = sampler.said("joint_attention_dim")
    tokens = encoders[2].tokens if len(encoders) == 3 else longest
    return Texts(encoders, lambda loaded: _Three(loaded, width, tokens), (HIDDEN, POOLED), first + tokens)


def _layout(sampler: Part) -> str:
    """How a class of networks is told of prompts."""
    match sampler.kind:
        case "UNet2DConditionModel":
            return "xl" if sampler.said("addition_embed_type") == "text_time" else "prompt"
        case "PixArtTransformer2DModel" | "SanaTransformer2DModel":
            return "masked"
        case "SD3Transformer2DModel":
            return "sd3"
        case "FluxTransformer2DModel":
            return "flux"
    raise FolderError(
        f"{sampler.folder}: expected a network that takes prompts beside a text encoder, got {sampler.kind}"
    )


def _encoder(source: Source, part: Part, longest: int, masked: bool = False) -> Encoder:
    role = part.role.replace("text_encoder", "tokenizer")
    if role not in source.parts:
        raise FolderError(f"{source.folder}: {role}: expected a tokenizer for {part.role}, got none")
    tokenizer = load_tokenizer(source.parts[role])
    suffix = part.role.removeprefix("text_encoder")
    known = tokenizer.model_max_length
    if part.kind in T5:
        tokens = longest
    else:
        tokens = known if known <= _MOST else part.said("max_position_embeddings", _CLIP_LENGTH)
        if (room := part.said("max_position_embeddings", _CLIP_LENGTH)) < tokens:
            raise FolderError(f"{part.folder}: max_position_embeddings: expected {tokens} or more, got {room}")
    vocabulary = part.said("vocab_size", len(tokenizer))
    if len(tokenizer) > vocabulary:
        raise FolderError(
            f"{part.folder}: vocab_size: expected {len(tokenizer)} as the tokenizer has, got {vocabulary}"
        )
    end = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id
    if end is None or pad is None:
        raise FolderError(f"{source.parts[role].folder}: expected an end token and a pad token, got none")
    return Encoder(
        part,
        tokenizer,
        f"input_ids{suffix}",
        f"attention_mask{suffix}" if masked else None,
        tokens,
        vocabulary,
        pad,
        end,
    )


def load_tokenizer(part: Part) -> Any:
    """A tokenizer with a backend of Hugging Face's tokenizers; those of other kinds are converted."""
    import transformers

    try:
        kind = getattr(transformers, part.kind, transformers.AutoTokenizer)
        tokenizer = kind.from_pretrained(str(part.folder), local_files_only=True, trust_remote_code=False)
        if not hasattr(tokenizer, "backend_tokenizer"):
            tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=_converted(tokenizer))
    except Exception as error:  # of files of strangers
        text = " ".join(str(error).split())[:200]
        raise FolderError(f"{part.folder}: {part.kind} cannot be read: {text}") from error
    return tokenizer


def _converted(tokenizer: Any) -> Any:
    from transformers.convert_slow_tokenizer import convert_slow_tokenizer

    return convert_slow_tokenizer(tokenizer)


def tokenizer_text(encoder: Encoder, lower: bool) -> str:
    """`tokenizer.json` without lengths, which the card has.

    Args:
        lower: prompts are made lower case and stripped first, as PixArt's pipeline does.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import normalizers

    backend = Backend.from_str(encoder.tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    if lower:
        steps = [normalizers.Lowercase(), normalizers.Strip()]
        backend.normalizer = normalizers.Sequence([*steps, backend.normalizer] if backend.normalizer else steps)
    text: str = backend.to_str(pretty=True)
    return text


class _Joined(nn.Module):
    def __init__(self, encoders: Sequence[nn.Module]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)


class _Last(_Joined):
    """The last hidden states, after the last norm."""

    def forward(self, ids: Tensor, *mask: Tensor) -> Tensor:
        states: Tensor = self.encoders[0](ids, attention_mask=mask[0] if mask else None)[0]
        return states


class _Masked(_Joined):
    """T5's states, and which tokens count as numbers of 0 and 1."""

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoders[0](ids, attention_mask=mask)[0], mask.to(torch.float32)


class _Penultimate(_Joined):
    """SDXL: states before the last layer, features side by side; the last encoder's projected state."""

    def forward(self, *ids: Tensor) -> tuple[Tensor, Tensor]:
        states, pooled = _clip(self.encoders, ids)
        return states, pooled[-1]


class _Pair(_Joined):
    """Flux: T5's states, CLIP's pooled state."""

    def forward(self, ids: Tensor, ids_2: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoders[1](ids_2)[0], self.encoders[0](ids).pooler_output


class _Three(_Joined):
    """Stable Diffusion 3: both CLIPs' features side by side and filled up with zeros, then T5's tokens, which are zeros
    where there is no T5."""

    def __init__(self, encoders: Sequence[nn.Module], width: int, tokens: int) -> None:
        super().__init__(encoders)
        self.width, self.tokens = width, tokens

    def forward(self, *ids: Tensor) -> tuple[Tensor, Tensor]:
        states, pooled = _clip(self.encoders[:2], ids[:2])
        states = nn.functional.pad(states, (0, self.width - states.shape[-1]))
        if len(ids) > 2:
            more = self.encoders[2](ids[2])[0]
        else:
            more = states.new_zeros(states.shape[0], self.tokens, self.width)
        return torch.cat([states, more], dim=1), torch.cat(pooled, dim=1)


def _clip(encoders: Any, ids: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Joined states before the last layer, and each encoder's projected state."""
    given = [encoder(each, output_hidden_states=True) for encoder, each in zip(encoders, ids, strict=True)]
    return torch.cat([each.hidden_states[-2] for each in given], dim=-1), [each[0] for each in given]
