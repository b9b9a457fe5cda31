"""The text-to-image model that is shipped: a server draws what prompts say, as the judge reads it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from deploy.demo_text import Server
from exporters.emoji.data import pictures
from exporters.emoji.vocabulary import SUBJECTS, meaning
from tests.serving.live import Live, running
from tiltserve import Client

DEPLOY = Path(__file__).parents[2] / "deploy"
MODELS = DEPLOY / "text_models"
PROMPTS = (
    "a red heart", "a blue circle", "a green car", "a yellow star", "a purple balloon", "a smiling face", "a cat",
    "a pizza",
)  # fmt: skip


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with running(MODELS, answer_s=10.0) as one:
        yield one


def test_prompts_are_drawn_as_the_judge_reads_them(live: Live):
    with Client(live.address) as client:
        drawn = client.sample("emoji", len(PROMPTS), prompt=list(PROMPTS), steps=10, seed=0)
        read = Server(client, len(PROMPTS)).judge(drawn.images, lambda x: np.zeros(len(x), np.float32)).read
    right = [meaning(prompt).fits(subject) for prompt, subject in zip(PROMPTS, read, strict=True)]
    assert drawn.images.shape == (len(PROMPTS), 32, 32, 3)
    assert sum(right) >= 6, read


def test_the_reward_tells_texts_that_fit_from_others(live: Live):
    """Of real drawings, one of each text's."""
    wanted = ("a lion", "a blue car", "a cool face", "a red heart")
    words = Tokenizer.from_file(str(MODELS / "emoji" / "1" / "tokenizer.json"))
    words.enable_padding(length=12)
    shown = pictures(np.load(DEPLOY / "demo_data" / "emoji.npz")["drawings"])
    x = np.stack([shown.x[_first(text), 0].numpy() for text in wanted])
    with Client(live.address) as client:
        told = np.exp([client.score("matcher", x, text=np.array(words.encode(text).ids)) for text in wanted])
    assert (told.diagonal() > 0.5).all(), told
    assert (told[~np.eye(len(wanted), dtype=bool)] < 0.1).all(), told


def _first(wanted: str) -> int:
    return next(i for i, subject in enumerate(SUBJECTS) if meaning(wanted).fits(subject))
