"""A pipeline's part of the model card: which models make pictures of prompts together."""

from typing import Literal, Self

from pydantic import Field, model_validator

from protos.strict import Strict


class Tokenizer(Strict):
    """How a prompt becomes the numbers that one input of the text network takes.

    Attributes:
        file: `tokenizer.json` of Hugging Face's tokenizers, in the version's folder of the pipeline.
        length: tokens of a row; longer prompts are cut so that the end token stays, shorter ones are filled up.
        pad: the token that fills up.
        mask: the network's input [n, length] that is told which tokens are not filled up; None for none.
    """

    file: str
    length: int = Field(ge=1)
    pad: int = Field(default=0, ge=0)
    mask: str | None = None


class Text(Strict):
    """The network that reads prompts; one graph, also where several encoders work side by side.

    Attributes:
        model: its folder's name.
        tokenizers: by input of the network.
        gives: the sampler's condition -> the network's output.
        empty: what no negative prompt is: the empty text, encoded, or zeros.
    """

    model: str
    tokenizers: dict[str, Tokenizer] = Field(min_length=1)
    gives: dict[str, str] = Field(min_length=1)
    empty: Literal["encode", "zeros"] = "encode"


class Codec(Strict):
    """A network between latents [n, *event] and pictures [n, 3, h, w] of -1..1.

    The sampler's latents are z = scale * (encoded - shift); a decoder is given z / scale + shift.

    Attributes:
        model: its folder's name.
        input, output: names in its graph; None for the only ones.
    """

    model: str
    input: str | None = None
    output: str | None = None
    scale: float = 1.0
    shift: float = 0.0


class Resolution(Strict):
    """Other heights and widths of pictures than the usual ones, where the graphs of sampler and codecs leave them free.

    Attributes:
        multiple: of so many pixels each.
        most: pixels of a picture, height times width.
    """

    multiple: int = Field(ge=1)
    most: int = Field(ge=1)


class Pipeline(Strict):
    """The parts of a pipeline by their folders' names; each is a model of the repository like any other.

    Attributes:
        sampler: draws latents, or pictures where there is no decoder.
        text: reads prompts; None for a pipeline without them.
        decoder: latents to pictures; None for samplers of pictures [3, h, w] of -1..1.
        encoder: pictures to latents, for image-to-image.
        preview: a small decoder for previews and for candidates that a reward is to judge.
        sizes: the sampler's condition that is told height and width as SDXL wants them: [h, w, 0, 0, h, w].
        guidance_input: the sampler's condition that takes the guidance scale itself, of networks distilled for it.
        mask: of samplers that fill in, the condition [1, h, w], in latents' size, that is 1 where is drawn anew.
        masked: and the one [*event] that takes the latents of the picture, grey where it is drawn anew.
        resolution: which other sizes requests may ask for; None for none.
    """

    sampler: str
    text: Text | None = None
    decoder: Codec | None = None
    encoder: Codec | None = None
    preview: Codec | None = None
    sizes: str | None = None
    guidance_input: str | None = None
    mask: str | None = None
    masked: str | None = None
    resolution: Resolution | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.mask is None) != (self.masked is None):
            raise ValueError("mask and masked: expected both or neither, got one")
        if self.masked is not None and self.encoder is None:
            raise ValueError("masked: expected an encoder beside it, got none")
        for key in ("encoder", "preview"):
            if getattr(self, key) is not None and self.decoder is None:
                raise ValueError(f"{key}: expected a decoder beside it, got none")
        return self

    @property
    def parts(self) -> dict[str, str]:
        """The folder's name of each part, by what it is for."""
        others = {key: getattr(self, key) for key in ("text", "decoder", "encoder", "preview")}
        return {"sampler": self.sampler, **{key: part.model for key, part in others.items() if part is not None}}
