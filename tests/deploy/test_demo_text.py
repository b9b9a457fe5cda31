"""The text-to-image model that is shipped: a server draws what prompts say, as the judge reads it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from deploy.demo_text import Server
from exporters.emoji.data import pictures
from exporters.emoji.vocabulary import SUBJECTS, meaning
from tests.serving.live import Live, running
from tiltserve import Client, InvalidArgument

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


def test_a_reward_reads_a_text_by_the_pipelines_tokenizer(live: Live):
    """As it does the tokens of that text; and it is steered toward."""
    words = Tokenizer.from_file(str(MODELS / "emoji" / "1" / "tokenizer.json"))
    words.enable_padding(length=12)
    how: dict[str, Any] = {"prompt": "a heart", "steps": 4, "seed": 0, "steering": "none", "guidance": 1.0}
    with Client(live.address) as client:

        def rewards(reward: str, **arguments: Any) -> Any:
            return client.sample("emoji", 2, reward=reward, reward_args=arguments, **how).rewards

        told = rewards("matcher", prompt="a blue heart")
        assert np.array_equal(told, rewards("matcher", text=np.array(words.encode("a blue heart").ids)))
        assert np.array_equal(told, rewards('matcher(prompt="a blue heart")'))
        assert not np.array_equal(told, rewards("matcher", prompt="a lion"))
        for arguments, why in (
            ({}, "expected argument 'reward_text', got none"),
            ({"prompt": "a " * 20}, "reward_prompt: expected a shorter text, got 10 tokens too many"),
            ({"prompt": 3}, "reward_prompt: expected a text in UTF-8, got 3"),
            (
                {"prompt": "a", "text": np.zeros(12, np.int64)},
                "reward_prompt: expected no reward_text beside it, got one",
            ),
        ):
            with pytest.raises(InvalidArgument) as refusal:
                rewards("matcher", **arguments)
            assert why in str(refusal.value)
        with pytest.raises(InvalidArgument, match="unknown argument 'reward_prompt', expected reward_text"):
            client.sample(
                "emoji.unet", 1, reward="matcher", reward_args={"prompt": "a"}, steps=1,
                conditions={"encoder_hidden_states": np.zeros((12, 64), np.float32)},
            )  # fmt: skip


def test_pictures_are_begun_with_where_there_is_no_encoder(live: Live):
    shown = pictures(np.load(DEPLOY / "demo_data" / "emoji.npz")["drawings"])
    heart = np.round((shown.x[_first("a red heart"), :1].numpy() + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    mask = np.zeros((32, 32), np.uint8)
    mask[:, 16:] = 255
    how: dict[str, Any] = {"prompt": "a blue heart", "steps": 4, "seed": 0, "end": "denoise"}
    with Client(live.address) as client:
        changed = client.sample("emoji", 1, image=heart, strength=0.5, **how)
        x_init = (heart.astype(np.float32) / np.float32(127.5) - 1).transpose(0, 3, 1, 2)
        assert np.array_equal(changed.images, client.sample("emoji", 1, x_init=x_init, strength=0.5, **how).images)
        filled = client.sample("emoji", 1, image=heart, mask=mask, **how).images
    assert np.abs(filled[:, :, :16].astype(int) - heart[:, :, :16]).max() <= 1
    assert np.abs(filled[:, :, 16:].astype(int) - heart[:, :, 16:]).mean() > 5


def _first(wanted: str) -> int:
    return next(i for i, subject in enumerate(SUBJECTS) if meaning(wanted).fits(subject))
