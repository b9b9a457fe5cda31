"""How well the emoji networks do: what the judge reads in real and in drawn pictures, how the reward tells texts."""

import torch
from jaxtyping import Float
from torch import Tensor

from exporters.emoji.data import Pictures
from exporters.emoji.networks import Judge, Matcher, scheduler, tokenizer, tokens
from exporters.emoji.train import Painter
from exporters.emoji.vocabulary import COLOURS, STYLES, SUBJECTS, THINGS, Subject, meaning


def draw(
    painter: Painter, prompts: list[str], *, steps: int = 12, guidance: float = 3.0, seed: int = 0
) -> Float[Tensor, "n 3 side side"]:
    """One picture of each prompt, by DDIM with classifier-free guidance."""
    words, plan = tokenizer(), scheduler()
    plan.set_timesteps(steps)
    generator = torch.Generator().manual_seed(seed)
    side = painter.unet.config.sample_size
    x = torch.randn(len(prompts), 3, side, side, generator=generator)
    with torch.no_grad():
        told = painter.encoder(tokens(words, [*prompts, *[""] * len(prompts)])).last_hidden_state
        for t in plan.timesteps:
            fits, plain = painter.unet(x.repeat(2, 1, 1, 1), t.expand(2 * len(x)), told).sample.chunk(2)
            x = plan.step(plain + guidance * (fits - plain), t, x).prev_sample
    return x.clamp(-1, 1)


def read(judge: Judge, x: Float[Tensor, "n 3 h w"]) -> list[Subject]:
    """What the judge takes each picture for."""
    with torch.no_grad():
        things, colours, styles, _ = judge(x)
    best = zip(things.argmax(1).tolist(), colours.argmax(1).tolist(), styles.argmax(1).tolist(), strict=True)
    return [
        Subject(THINGS[thing], list(COLOURS)[colour] if THINGS[thing].coloured else None, STYLES[style])
        for thing, colour, style in best
    ]


def recognised(judge: Judge, x: Float[Tensor, "n 3 h w"], prompts: list[str]) -> float:
    """Share of pictures in which the judge reads what their prompts say."""
    found = read(judge, x)
    return sum(meaning(prompt).fits(subject) for prompt, subject in zip(prompts, found, strict=True)) / len(found)


def measured(painter: Painter, matcher: Matcher, judge: Judge, pictures: Pictures) -> dict[str, object]:
    """Shares that the judge reads right, of real pictures and of drawn ones; and texts that the reward mistakes."""
    x = pictures.batch(torch.arange(len(SUBJECTS)), torch.Generator().manual_seed(7))
    prompts = [f"a {subject.name} in {subject.style} style" for subject in SUBJECTS]
    with torch.no_grad():
        seen, told = matcher.picture(x), matcher.text(tokens(tokenizer(), prompts))
        believed = matcher.logits(seen @ told.T) > 0
    fits = torch.tensor([[meaning(prompt).fits(subject) for prompt in prompts] for subject in SUBJECTS])
    drawn = {guidance: draw(painter, prompts, guidance=guidance) for guidance in (1.0, 3.0)}
    return {
        "judge": {
            "real": recognised(judge, x, prompts),
            **{f"drawn, guidance {scale:g}": recognised(judge, each, prompts) for scale, each in drawn.items()},
        },
        "matcher": {
            "fitting pairs": float(believed[fits].float().mean()),
            "other pairs": float(believed[~fits].float().mean()),
        },
    }
