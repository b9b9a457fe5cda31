"""Training of the emoji networks: seeded, on one core; the diffusion model's resumes from its checkpoint."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor, nn

from exporters.emoji.data import Pictures
from exporters.emoji.networks import Judge, Matcher, encoder, scheduler, tokenizer, tokens, unet
from exporters.emoji.vocabulary import COLOURS, STYLES, SUBJECTS, THINGS, describe, meaning, weights
from exporters.training import Training

BATCH = 32
NOTHING_SAID = 0.12
"""Share of prompts that are empty in training: what classifier-free guidance goes away from."""


class Painter(nn.Module):
    """The diffusion model with its text encoder, trained as one."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = unet()
        self.encoder = encoder()

    def forward(
        self, x: Float[Tensor, "n 3 h w"], t: Int[Tensor, " n"], prompts: Int[Tensor, "n length"]
    ) -> Float[Tensor, "n 3 h w"]:
        """v of noised pictures at steps t, 0..999."""
        return self.unet(x, t, self.encoder(prompts).last_hidden_state).sample


def examples(pictures: Pictures, count: int, seed: int) -> Iterator[tuple[Tensor, list[str], Int[Tensor, " n"]]]:
    """Endless batches of pictures, prompts that fit them, and the numbers of what they show."""
    generator = torch.Generator().manual_seed(seed)
    rng = random.Random(seed)
    shown = weights()
    while True:
        which = torch.multinomial(shown, count, replacement=True, generator=generator)
        yield pictures.batch(which, generator), [describe(SUBJECTS[i], rng) for i in which.tolist()], which


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Short warm-up, a plateau, then a linear fall to zero over the last 40%."""
    return peak * min(1.0, (step + 1) / 100, (steps - step) / (0.4 * steps))


def train_painter(pictures: Pictures, checkpoint: Path, *, steps: int, peak: float = 1.2e-3, seed: int = 0) -> Painter:
    """Fit v = alpha eps - sigma x_0 by mean squared error at stratified uniform steps; the averaged weights.

    Args:
        checkpoint: written every 100 batches and resumed from when present.
        steps: batches of 32 pictures in all.
    """
    torch.manual_seed(seed)
    painter = Painter().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    reading = [*painter.encoder.parameters(), *painter.unet.add_embedding.parameters()]
    others = [each for each in painter.parameters() if all(each is not other for other in reading)]
    groups = [{"params": others, "times": 1.0}, {"params": reading, "times": 2.0}]
    training = Training(
        painter, checkpoint, peak=peak, steps=steps, kept=100, groups=groups, told=20, smoothing=0.02, most=0.998
    )
    first = training.first
    generator = torch.Generator().manual_seed(seed + first)
    rng = random.Random(seed + first)
    signal = scheduler().alphas_cumprod
    words = tokenizer()
    for step, (x0, texts, _) in zip(range(first, steps), examples(pictures, BATCH, seed + first), strict=False):
        prompts = tokens(words, ["" if rng.random() < NOTHING_SAID else text for text in texts])
        t = ((torch.arange(BATCH) + torch.rand(BATCH, generator=generator)) / BATCH * len(signal)).long()
        alpha, sigma = (c.sqrt().reshape(-1, 1, 1, 1) for c in (signal[t], 1 - signal[t]))
        eps = torch.randn(x0.shape, generator=generator)
        noised = (alpha * x0 + sigma * eps).contiguous(memory_format=torch.channels_last)
        loss = F.mse_loss(painter(noised, t, prompts), alpha * eps - sigma * x0)
        training.learn(step, loss, learning_rate(step, steps, peak))
    return training.averaged()


def noisy(x: Float[Tensor, "n 3 h w"], generator: torch.Generator, most: float) -> Float[Tensor, "n 3 h w"]:
    """Half of the pictures with Gaussian noise of a standard deviation up to `most`, so that a reader still reads the
    slightly blurred denoised estimates that steering asks about."""
    level = most * torch.rand(len(x), 1, 1, 1, generator=generator)
    level = level * (torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5)
    return x + level * torch.randn(x.shape, generator=generator)


def blurred(x: Float[Tensor, "n 3 h w"], generator: torch.Generator) -> Float[Tensor, "n 3 h w"]:
    """Each picture mixed with its own average over 3 x 3 pixels, by a random share."""
    share = torch.rand(len(x), 1, 1, 1, generator=generator) ** 2
    return x + share * (F.avg_pool2d(F.pad(x, (1, 1, 1, 1), value=1.0), 3, stride=1) - x)


def train_matcher(pictures: Pictures, *, steps: int, seed: int) -> Matcher:
    """Fit the log-odds that a text fits a picture, on all pairs of a batch."""
    torch.manual_seed(seed)
    network = Matcher()
    generator = torch.Generator().manual_seed(seed)
    words = tokenizer()
    for x, texts, which, step in _fitting(network, pictures, steps, seed):
        means = [meaning(text) for text in texts]
        fits = torch.tensor([[mean.fits(SUBJECTS[i]) for mean in means] for i in which.tolist()]).float()
        seen = network.picture(noisy(x, generator, most=0.5))
        logits = network.logits(seen @ network.text(tokens(words, texts)).T)
        step(F.binary_cross_entropy_with_logits(logits, fits, reduction="sum") / len(x))
    return network.eval()


def train_judge(pictures: Pictures, *, steps: int, seed: int) -> Judge:
    """Fit what a picture shows, in which colour (of those that come in several) and style."""
    torch.manual_seed(seed)
    network = Judge()
    generator = torch.Generator().manual_seed(seed)
    things, styles = list(THINGS), list(STYLES)
    colours = [*COLOURS, None]
    shown = torch.tensor([[things.index(s.thing), colours.index(s.colour), styles.index(s.style)] for s in SUBJECTS])
    for x, _, which, step in _fitting(network, pictures, steps, seed):
        thing, colour, style = shown[which].unbind(1)
        read = network(noisy(blurred(x, generator), generator, most=0.3))
        step(
            F.nll_loss(read[0], thing)
            + F.nll_loss(read[1], colour, ignore_index=len(COLOURS))
            + 0.5 * F.nll_loss(read[2], style)
        )
    return network.eval()


def _fitting(
    network: nn.Module, pictures: Pictures, steps: int, seed: int
) -> Iterator[tuple[Tensor, list[str], Tensor, Callable[[Tensor], None]]]:
    """Batches of examples with the function that takes a batch's loss and makes one step."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=3e-3, total_steps=steps)

    def step(loss: Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()

    for _, (x, texts, which) in zip(range(steps), examples(pictures, 96, seed), strict=False):
        yield x, texts, which, step
