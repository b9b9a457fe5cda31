"""The networks of the text-to-image demo: diffusers' U-Net, a CLIP text encoder, the reward, the judge."""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import DDIMScheduler, UNet2DConditionModel
from jaxtyping import Float, Int
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from exporters.emoji.data import SIDE
from exporters.emoji.vocabulary import COLOURS, STYLES, THINGS, WORDS

LENGTH = 12
"""Tokens of a prompt, with its ends: the longest has nine."""
WIDTH = 64
PAD, START, END, UNKNOWN = "<pad>", "<start>", "<end>", "<unknown>"
SPECIAL = (PAD, START, END, UNKNOWN)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; what is no word of the vocabulary is `UNKNOWN`."""
    numbers = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    words = Tokenizer(models.WordLevel(numbers, unk_token=UNKNOWN))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(behavior="removed")]
    )
    words.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, numbers[START]), (END, numbers[END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_max_length=LENGTH,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        unk_token=UNKNOWN,
        padding_side="right",
    )


def tokens(words: PreTrainedTokenizerFast, texts: list[str]) -> Int[Tensor, "n length"]:
    """Prompts as the encoder takes them, `LENGTH` tokens each."""
    return words(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt").input_ids


def encoder() -> CLIPTextModel:
    """Two layers of 64; all of its states go to the U-Net."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(SPECIAL) + len(WORDS),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            pad_token_id=SPECIAL.index(PAD),
            bos_token_id=SPECIAL.index(START),
            eos_token_id=SPECIAL.index(END),
        )
    )


def unet() -> Any:
    """Four levels. Texts come in by attention at 8 x 8 and 4 x 4, where it is cheap, and beside the time everywhere.

    Convolutions know where they are by the edges alone: at 4 x 4 pixels every one sees them.
    """
    return UNet2DConditionModel(
        sample_size=SIDE,
        in_channels=3,
        out_channels=3,
        block_out_channels=(48, 64, 112, 112),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # the number of heads, whatever its name says
        norm_num_groups=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


def scheduler() -> Any:
    """The path that the U-Net is trained on, as diffusers writes it down."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )


def _stage(cin: int, cout: int, kernel: int = 3, stride: int = 2) -> list[nn.Module]:
    return [nn.Conv2d(cin, cout, kernel, stride=stride, padding=kernel // 2), nn.BatchNorm2d(cout), nn.SiLU()]


class Matcher(nn.Module):
    """The reward: `(x [n, 3, 32, 32], text [n, 12]) -> reward [n]`, the log-probability that a text fits a picture.

    Picture and text are vectors, as in CLIP; a sigmoid of their product tells fitting pairs from others, as in SigLIP
    (Zhai et al., 2023, https://arxiv.org/abs/2303.15343). A text is the sum of its words.
    """

    def __init__(self, width: int = 24, features: int = 64) -> None:
        super().__init__()
        wide = 4 * width
        self.see = nn.Sequential(
            *_stage(3, width), *_stage(width, 2 * width), *_stage(2 * width, wide), nn.Flatten(), nn.Dropout(0.2)
        )
        self.seen = nn.Linear(16 * wide, features)
        self.words = nn.Embedding(len(SPECIAL) + len(WORDS), features)
        self.told = nn.Sequential(nn.Linear(features, 2 * features), nn.SiLU(), nn.Linear(2 * features, features))
        self.sharpness = nn.Parameter(torch.tensor(2.0))
        self.bias = nn.Parameter(torch.tensor(-5.0))

    def picture(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n features"]:
        return F.normalize(self.seen(self.see(x)), dim=1)

    def text(self, text: Int[Tensor, "n length"]) -> Float[Tensor, "n features"]:
        words = self.words(text) * (text >= len(SPECIAL)).unsqueeze(-1).to(self.words.weight.dtype)
        return F.normalize(self.told(words.sum(dim=1)), dim=1)

    def logits(self, likeness: Tensor) -> Tensor:
        return self.sharpness.exp() * likeness + self.bias

    def forward(self, x: Float[Tensor, "n 3 h w"], text: Int[Tensor, "n length"]) -> Float[Tensor, " n"]:
        return F.logsigmoid(self.logits((self.picture(x) * self.text(text)).sum(dim=1)))


class Judge(nn.Module):
    """The independent reader, which never steers: `x [n, 3, 32, 32]` -> log-probabilities of things, colours and styles
    and the features [n, 96] that distances are taken in. Other layers, seed and distortions than the reward's."""

    def __init__(self, width: int = 16, features: int = 96) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_stage(3, width, kernel=5, stride=1),
            nn.AvgPool2d(2),
            *_stage(width, 2 * width, stride=1),
            nn.AvgPool2d(2),
            *_stage(2 * width, 4 * width, stride=1),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(64 * width, features),
            nn.SiLU(),
        )
        self.things = nn.Linear(features, len(THINGS))
        self.colours = nn.Linear(features, len(COLOURS))
        self.styles = nn.Linear(features, len(STYLES))

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> tuple[Tensor, Tensor, Tensor, Float[Tensor, "n features"]]:
        features = self.body(x)
        read = [F.log_softmax(head(features), dim=1) for head in (self.things, self.colours, self.styles)]
        return read[0], read[1], read[2], features
