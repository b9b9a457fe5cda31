"""Writes what a folder of diffusers holds into a model repository: every part's graph and card, then the pipeline's
card and tokenizers; or nothing."""

import inspect
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from exporters import parity
from exporters.bank import SIZE, draw_bank, write_bank
from exporters.calibrate import calibrate_model
from exporters.diffusers import continuous
from exporters.diffusers.codecs import Autoencoder, read_autoencoder
from exporters.diffusers.fields import ScheduleError
from exporters.diffusers.samplers import CLASSES, MASK, MASKED, TOKENS, Asked, Network, build
from exporters.diffusers.schedule import schedule
from exporters.diffusers.source import FolderError, Part, Source, read_model
from exporters.diffusers.texts import Texts, read_texts, tokenizer_text
from exporters.export import export_model
from exporters.network import OnnxNetwork
from exporters.parity import Parity
from protos.card import Card, Defaults, dump_card
from protos.complaint import complaint
from protos.pipeline import Codec, Pipeline, Resolution, Text

VERSION = 1
LARGE = 50_000_000
"""Parameters from which on parity is measured on fewer rows: each takes seconds."""
SIZES, FEW = (1, 2, 3, 8), (1, 3)
_T5_TOKENS = 256
_SCALE_IS_INPUT = ("FluxTransformer2DModel",)
"""Networks whose pipelines give their `guidance_scale` to the network or, where it takes none, to nobody."""
_SKIPPED: Mapping[str, str] = {
    "safety_checker": "pictures are not checked",
    "feature_extractor": "it belongs to the safety checker",
    "image_encoder": "prompts are texts alone",
    "controlnet": "",
}
_FREE = ("UNet2DModel", "UNet2DConditionModel")
"""Networks that know no positions: pictures may have any size that can be halved often enough."""
_LARGER = 4
"""How many times the pixels of the usual picture others may have, where nobody edits the card."""
_LORA = "pytorch_lora_weights"


@dataclass(frozen=True)
class Wishes:
    """What is wanted of an import.

    Attributes:
        size: height and width of pictures, or of samples where there is no decoder; None as the folder says.
        only: parts to write, by the ends of their names; empty for all, with the pipeline's card.
        tiny: a folder with a small autoencoder, for previews.
        tokens: of a prompt, where T5 reads it or nothing says.
        bank: samples of a bank, 0 for none; `calibrate`: measure the denoiser's error.
        replace: what is already there under the same names.
        free_size: leave height and width of pictures open, so that requests may ask for others.
        vjp: write vector-Jacobian graphs beside sampler and decoders. Their sizes are fixed: not with free_size.
    """

    size: tuple[int, ...] | None = None
    only: frozenset[str] = frozenset()
    tiny: Path | None = None
    tokens: int | None = None
    allow_pickle: bool = False
    bank: int = 0
    calibrate: bool = False
    replace: bool = False
    free_size: bool = False
    vjp: bool = False


class Watcher(Protocol):
    """Who is told how it goes on."""

    def begin(self, name: str) -> None:
        """A folder is begun."""

    def done(self, written: "Written") -> None:
        """It is finished."""


@dataclass(frozen=True)
class Written:
    """One folder, or what it would be.

    Attributes:
        what: its class and shapes in words.
        parameters: numbers in its weights.
        error: the worst against torch; None before it is exported.
    """

    name: str
    what: str
    parameters: int
    error: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Job:
    """One part that becomes a folder."""

    name: str
    part: str
    what: str
    parts: tuple[Part, ...]
    run: Callable[[Path], Parity]

    @property
    def parameters(self) -> int:
        return sum(each.parameters for each in self.parts)


@dataclass
class Import:
    """What is to be written, in order, and notes on what is not."""

    source: Source
    name: str
    wishes: Wishes
    jobs: list[Job] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pipeline: Card | None = None
    texts: Texts | None = None

    def write(self, repository: Path, watcher: Watcher) -> list[Written]:
        """Export every part and put all folders in place together.

        Raises:
            FolderError, ExportError, ParityError: one line; nothing is written then.
        """
        names = [job.name for job in self.jobs] + ([self.name] if self.pipeline is not None else [])
        if not self.wishes.replace:
            for name in names:
                if (repository / name).exists():
                    raise FolderError(
                        f"{repository / name}: expected nothing there (--replace writes anew), got a folder"
                    )
        repository.mkdir(parents=True, exist_ok=True)
        written = []
        with tempfile.TemporaryDirectory(prefix=f".{self.name}-", dir=repository) as temporary:
            staged, old = Path(temporary) / "new", Path(temporary) / "old"
            staged.mkdir()
            old.mkdir()
            for job in self.jobs:
                watcher.begin(job.name)
                started = time.monotonic()
                report = job.run(staged / job.name)
                took = time.monotonic() - started
                written.append(Written(job.name, job.what, job.parameters, max(report.error.values()), took))
                watcher.done(written[-1])
            if self.pipeline is not None:
                self._write_pipeline(staged / self.name)
            for name in names:  # the pipeline last: it names the others
                if (repository / name).exists():
                    (repository / name).rename(old / name)
                (staged / name).rename(repository / name)
        return written

    def _write_pipeline(self, folder: Path) -> None:
        assert self.pipeline is not None
        (folder / str(VERSION)).mkdir(parents=True)
        if self.texts is not None:
            lower = self.texts.lower
            for each in self.texts.encoders:
                (folder / str(VERSION) / each.file).write_text(tokenizer_text(each, lower), encoding="utf-8")
        dump_card(self.pipeline, folder / "card.yaml")


def prepare(source: Source, name: str, wishes: Wishes) -> Import:
    """Read configurations and say what is to be written; no weights are read yet.

    Raises:
        FolderError: what cannot be imported, before anything is exported; one line.
    """
    if wishes.free_size and wishes.vjp:
        raise FolderError("--vjp: expected no --free-size beside it, whose graphs have no fixed size, got both")
    plan = Import(source, name, wishes)
    parts = dict(source.parts)
    if source.pipeline is None and next(iter(parts.values())).kind not in CLASSES:
        return _lone(plan, next(iter(parts.values())))
    sampler = _sampler(source)
    defaults = _of_pipeline(source.pipeline)
    longest = wishes.tokens or defaults.get("max_sequence_length") or _T5_TOKENS
    texts = read_texts(source, sampler, longest)
    vae = read_autoencoder(parts["vae"]) if "vae" in parts else None
    whole = texts is not None or vae is not None
    tokens = texts.tokens if texts is not None else wishes.tokens or TOKENS
    asked = Asked(
        _latent_size(wishes.size, sampler, vae),
        tokens,
        8 if vae is None else vae.pixels,
        None if source.scheduler is None else continuous.boundary(source.scheduler),
    )
    network = _network_of(sampler, asked)
    described, remarks = _described(source, sampler, network, defaults.get("num_inference_steps"))
    plan.notes += [*(f"{sampler.role}: {note}" for note in network.notes), *remarks]
    multiple = _multiple(source, sampler) if wishes.free_size else 0
    role = "unet" if sampler.role == "model" else sampler.role
    plan.jobs.append(_sampler_job(plan, f"{name}.{role}" if whole else name, role, sampler, asked, described, multiple))
    pieces: dict[str, Any] = {
        "sampler": f"{name}.{role}",
        "sizes": network.sizes,
        "guidance_input": network.guidance_input,
    }
    if texts is not None:
        pieces["text"] = _text(plan, texts, network)
    elif whole and "encoder_hidden_states" in network.conditions:
        plan.notes.append("no text encoder: requests send encoder_hidden_states themselves")
    latents = network.event[-2:]
    if vae is not None:
        if vae.channels != network.event[0]:
            raise FolderError(f"{vae.part.folder}: expected latents of {network.event[0]} channels, got {vae.channels}")
        pieces |= _codecs(plan, vae, (latents[0], latents[1]), multiple)
        if MASKED in network.conditions:
            pieces |= {"mask": MASK, "masked": MASKED}
    if wishes.tiny is not None:
        tiny = read_autoencoder(read_model(wishes.tiny, "tiny"))
        if tiny.channels != network.event[0] or (vae is not None and tiny.pixels != vae.pixels):
            raise FolderError(
                f"{wishes.tiny}: expected latents of {network.event[0]} channels, {asked.pixels} pixels each, got "
                f"{tiny.channels} channels of {tiny.pixels}"
            )
        plan.jobs.append(_decoder_job(plan, "tiny", tiny, (latents[0], latents[1]), multiple))
        pieces["preview"] = _codec(f"{name}.tiny", tiny, "latents", "decoded")
    for part in parts.values():
        if _SKIPPED.get(part.role):
            plan.notes.append(f"{part.role} ({part.kind}) is left out: {_SKIPPED[part.role]}")
    if whole:
        if multiple:
            pixels = 1 if vae is None else vae.pixels
            most = _LARGER * math.prod(network.event[-2:]) * pixels**2
            pieces["resolution"] = Resolution(multiple=multiple * pixels, most=most)
        scale = defaults.get("guidance_scale")
        if sampler.kind in _SCALE_IS_INPUT and network.guidance_input is None:
            scale = None
        plan.pipeline = _card(
            name=name,
            pipeline=Pipeline(**pieces),
            defaults=Defaults(steps=defaults.get("num_inference_steps"), guidance=scale),
        )
    for part in {part.folder: part for job in plan.jobs for part in job.parts}.values():
        if half := part.halved:
            plan.notes.append(f"{part.role}: weights in {half} are written as float32")
    return _chosen(plan)


def _sampler(source: Source) -> Part:
    """The part that draws."""
    for file in source.folder.rglob(f"{_LORA}*"):
        raise FolderError(
            f"{file}: expected whole weights, got a LoRA: fuse it (pipe.fuse_lora()) and save the pipeline"
        )
    for role in ("controlnet", "adapter", "prior", "prior_prior", "movq", "vqvae"):
        if role in source.parts:
            raise FolderError(f"{source.folder}: {role}: a pipeline with a {source.parts[role].kind} is not served")
    for role in ("unet", "transformer", "model"):
        if role in source.parts:
            part = source.parts[role]
            if part.kind not in CLASSES:
                known = ", ".join(CLASSES)
                raise FolderError(f"{part.folder}: {part.role}: expected one of {known}, got {part.kind}")
            return part
    raise FolderError(f"{source.folder}: expected a unet or a transformer, got {', '.join(source.parts) or 'no part'}")


def _of_pipeline(kind: str | None) -> dict[str, Any]:
    """Defaults of a pipeline's call, as far as there are some."""
    import diffusers

    found = getattr(diffusers, kind, None) if kind is not None else None
    if not isinstance(found, type):
        return {}
    parameters = inspect.signature(found.__call__).parameters
    known = ("num_inference_steps", "guidance_scale", "max_sequence_length")
    values = {each: parameters[each].default for each in known if each in parameters}
    return {key: value for key, value in values.items() if isinstance(value, int | float)}


def _described(
    source: Source, sampler: Part, network: Network, steps: int | None
) -> tuple[Mapping[str, Any], Sequence[str]]:
    """What the scheduler says of a card, and what there is to say of it."""
    if source.scheduler is None:
        raise FolderError(
            f"{source.folder}: expected a scheduler's configuration (--scheduler FILE names one), got none"
        )
    if (read := continuous.of_scheduler(source.scheduler)) is not None:
        return read, ()
    flux, patch = sampler.kind == "FluxTransformer2DModel", 2
    tokens = math.prod(network.event[1:]) // (patch if flux else sampler.said("patch_size", 1)) ** 2
    try:
        found = schedule(source.scheduler, steps=steps, image_seq_len=tokens, even=flux)
    except ScheduleError as error:
        raise FolderError(f"{source.folder}: {error}") from None
    card = {key: value for key, value in found.card.items() if key != "learned_variance"}  # the network's shape tells
    return card | {"inputs": {"time": found.time}}, found.notes


def _network_of(sampler: Part, asked: Asked) -> Network:
    """The network without its weights: what its inputs are."""
    return build(sampler, lambda part: nn.Identity(), asked)


def _multiple(source: Source, sampler: Part) -> int:
    """Of so many places are heights and widths that a network takes: as often as it halves them."""
    if sampler.kind not in _FREE:
        raise FolderError(
            f"--free-size: expected one of {', '.join(_FREE)}, got {sampler.kind}, whose positions are of one size"
        )
    if source.scheduler is not None and source.scheduler.get("use_dynamic_shifting"):
        raise FolderError("--free-size: expected levels that do not depend on the size, got use_dynamic_shifting")
    return int(2 ** (len(sampler.said("block_out_channels", ())) - 1))


def _others(multiple: int) -> tuple[tuple[int, int], ...]:
    """Heights and widths that a graph with free ones is traced and compared at, beside its own."""
    return ((2 * multiple, 3 * multiple), (4 * multiple, multiple)) if multiple else ()


def _sampler_job(
    plan: Import, name: str, role: str, part: Part, asked: Asked, described: Mapping[str, Any], multiple: int
) -> Job:
    bare = _network_of(part, asked)
    card = _sampler_card(name, bare, described)
    if (plan.wishes.bank or plan.wishes.calibrate) and card.conditions:
        raise FolderError(
            f"--bank, --calibrate: expected a sampler without conditions, got {', '.join(card.conditions)}"
        )

    def run(folder: Path) -> Parity:
        network = build(part, lambda each: each.load(plan.wishes.allow_pickle), asked)
        report = export_model(
            network.module,
            folder,
            card,
            examples=network.examples,
            outputs=[card.output],
            version=VERSION,
            sizes=_rows(network.module),
            gradients=plan.wishes.vjp,
            others=[_network_of(part, replace(asked, size=size)).examples for size in _others(multiple)],
        )
        _learn(folder, card, plan.wishes)
        return report

    shape = "x".join(map(str, bare.event))
    return Job(name, role, f"{part.kind}, samples {shape}", (part,), run)


def _learn(folder: Path, card: Card, wishes: Wishes) -> None:
    """The bank and the calibration that were asked for."""
    if not (wishes.bank or wishes.calibrate):
        return
    file = folder / str(VERSION) / "model.onnx"
    network = OnnxNetwork(file, card)
    samples = draw_bank(network, samples=wishes.bank or SIZE)
    if wishes.bank:
        write_bank(file, samples)
    if wishes.calibrate:
        dump_card(card.model_copy(update={"calibration": calibrate_model(network, samples)}), folder / "card.yaml")


def _sampler_card(name: str, network: Network, described: Mapping[str, Any]) -> Card:
    return _card(
        name=name,
        event_shape=network.event,
        conditions=network.conditions,
        learned_variance=True if network.learned_variance else None,
        **described,
    )


def _text(plan: Import, texts: Texts, network: Network) -> Text:
    for name in texts.gives:
        if name not in network.conditions:
            raise FolderError(
                f"{plan.source.folder}: expected a network that takes {name}, got {', '.join(network.conditions)}"
            )
    parts = tuple(each.part for each in texts.encoders)
    plan.texts = texts
    name = f"{plan.name}.text"

    def run(folder: Path) -> Parity:
        module = texts.module(lambda part: part.load(plan.wishes.allow_pickle))
        for given, condition in ((given, network.conditions[given]) for given in texts.gives):
            _check_output(module, texts, given, condition.shape)
        return _plain(module, folder, texts.examples, texts.gives, texts.draw)

    what = " + ".join(part.kind for part in parts)
    plan.jobs.append(Job(name, "text", f"{what}, {texts.tokens} tokens", parts, run))
    if texts.lower:
        plan.notes.append("prompts are made lower case and stripped; the pipeline's cleaning of web texts is left out")
    return Text(model=name, tokenizers=texts.tokenizers, gives={each: each for each in texts.gives}, empty=texts.empty)


def _check_output(module: nn.Module, texts: Texts, name: str, wanted: tuple[int, ...]) -> None:
    with torch.no_grad():
        found = module(*texts.draw(1, torch.Generator().manual_seed(0)).values())
    outputs = [found] if isinstance(found, Tensor) else list(found)
    shape = tuple(outputs[texts.gives.index(name)].shape[1:])
    if shape != wanted:
        raise FolderError(f"text: {name}: expected {list(wanted)} as the network takes, got {list(shape)}")


def _codecs(plan: Import, vae: Autoencoder, size: tuple[int, int], multiple: int = 0) -> dict[str, Codec]:
    plan.jobs.append(_decoder_job(plan, "decoder", vae, size, multiple))

    def run(folder: Path) -> Parity:
        module, example = vae.encoder(network := vae.part.load(plan.wishes.allow_pickle), size)
        others = [vae.encoder(network, other)[1] for other in _others(multiple)]
        return _plain(module, folder, example, ["encoded"], others=others)

    name = f"{plan.name}.encoder"
    pixels = "x".join(str(vae.pixels * side) for side in size)
    plan.jobs.append(Job(name, "encoder", f"{vae.part.kind}, pictures {pixels}", (vae.part,), run))
    return {
        "decoder": _codec(f"{plan.name}.decoder", vae, "latents", "decoded"),
        "encoder": _codec(name, vae, "pixels", "encoded"),
    }


def _decoder_job(plan: Import, part: str, vae: Autoencoder, size: tuple[int, int], multiple: int = 0) -> Job:
    def run(folder: Path) -> Parity:
        module, example = vae.decoder(network := vae.part.load(plan.wishes.allow_pickle), size)
        others = [vae.decoder(network, other)[1] for other in _others(multiple)]
        return _plain(module, folder, example, ["decoded"], others=others, gradients=plan.wishes.vjp)

    pixels = "x".join(str(vae.pixels * side) for side in size)
    return Job(f"{plan.name}.{part}", part, f"{vae.part.kind}, pictures {pixels}", (vae.part,), run)


def _codec(model: str, vae: Autoencoder, taken: str, given: str) -> Codec:
    return Codec(model=model, input=taken, output=given, scale=vae.scale, shift=vae.shift)


def _lone(plan: Import, part: Part) -> Import:
    """An autoencoder by itself: two plain networks."""
    vae = read_autoencoder(part)
    size = plan.wishes.size or _both(part.said("sample_size", 512))
    latents = _divided(size, vae.pixels)
    _codecs(plan, vae, latents, int(plan.wishes.free_size))
    plan.notes.append(f"z = {vae.scale:g} * (encoded - {vae.shift:g}) are the latents that samplers of its kind draw")
    return _chosen(plan)


def _plain(
    module: nn.Module,
    folder: Path,
    examples: Mapping[str, Tensor],
    outputs: Sequence[str],
    probe: parity.Probe | None = None,
    others: Sequence[Mapping[str, Tensor]] = (),
    gradients: bool = False,
) -> Parity:
    """A plain network, with a card only where it says something: the usual shapes of rows, that there are gradients."""
    card = _card(name=folder.name) if gradients else None
    if others:
        with torch.no_grad():
            made = module.eval()(*examples.values())
        rows = {name: tuple(each.shape[1:]) for name, each in {**examples, outputs[0]: made}.items()}
        card = _card(name=folder.name, rows=rows)
    return export_model(
        module, folder, card, examples=examples, outputs=outputs, version=VERSION, probe=probe, sizes=_rows(module),
        gradients=gradients, others=others,
    )  # fmt: skip


def _rows(module: nn.Module) -> tuple[int, ...]:
    return FEW if sum(each.numel() for each in module.parameters()) > LARGE else SIZES


def _latent_size(size: tuple[int, ...] | None, sampler: Part, vae: Autoencoder | None) -> tuple[int, int] | None:
    if size is None:
        return None
    return _divided(size, 1 if vae is None else vae.pixels)


def _divided(size: tuple[int, ...], pixels: int) -> tuple[int, int]:
    height, width = _both(size[0]) if len(size) == 1 else (size[0], size[1])
    if height % pixels or width % pixels:
        raise FolderError(f"--size: expected multiples of {pixels}, as the decoder's pixels are, got {height}x{width}")
    return height // pixels, width // pixels


def _both(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _chosen(plan: Import) -> Import:
    """With the parts alone that were asked for, if some were.

    Raises:
        FolderError: one has no weights that may be read, or there is none of that name.
    """
    if only := plan.wishes.only:
        known = [job.part for job in plan.jobs]
        if unknown := sorted(only - {*known}):
            raise FolderError(f"--only: expected one of {', '.join(known)}, got {unknown[0]}")
        plan.jobs = [job for job in plan.jobs if job.part in only]
        plan.pipeline = None
    for part in {part.folder: part for job in plan.jobs for part in job.parts}.values():
        part.require(plan.wishes.allow_pickle)
    return plan


def _card(**content: Any) -> Card:
    try:
        return Card.model_validate(content)
    except ValidationError as error:
        raise FolderError(f"the card: {complaint(error, Card)}") from None
