"""Client developer: pictures of a prompt, plain and toward a reward, and a pipeline in place of one of diffusers.

tiltserve serve --models deploy/text_models              # in one shell, a repository with a pipeline
.venv/bin/python examples/text_to_image.py 127.0.0.1:8001 emoji [REWARD] # in another
"""

import sys
from pathlib import Path

from tiltserve import Client, Samples

address, model, *rewards = sys.argv[1:] or ["127.0.0.1:8001", "emoji"]
folder = Path("pictures")
folder.mkdir(exist_ok=True)
with Client(address, timeout=600) as client:
    for each in client.stream(model, n=2, prompt="a red heart", negative_prompt="blue", seed=1, preview_every=2):
        name = "heart" if isinstance(each, Samples) else f"heart-at-{each.stage}-of-{each.stages}"
        each.pil()[0].save(folder / f"{name}.png")
        print(name, each)

    two = client.sample(model, prompt=["a red heart", "a blue square"], seed=1)
    print("one for each prompt:", two.images.shape, two.images.dtype)

    if client.metadata(model).input("image") is not None:  # pipelines that have an encoder
        changed = client.sample(model, prompt="a blue heart", image=two.pil()[0], strength=0.6, seed=1)
        changed.pil()[0].save(folder / "changed.png")

    for reward in rewards:
        steered = client.sample(model, n=4, prompt="a heart", reward=reward, seed=1)
        print(f"toward {reward}: {steered.rewards}", *steered.warnings, sep="\n  ")

    pipe = client.pipeline(model)
    out = pipe("a red heart", num_inference_steps=10, guidance_scale=4, num_images_per_prompt=2, generator=1)
    print("as diffusers has it:", out.images[0].size, "seed", out.samples.seed)
