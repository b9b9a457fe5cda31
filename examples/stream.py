"""Client developer: look at samples while they are drawn, and leave early.

make serve                          # in one shell
.venv/bin/python examples/stream.py # in another
"""

import sys

import numpy as np

from tiltserve import Client, Samples

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001"
with Client(address) as client:
    for each in client.stream("digits", n=2, preview_every=5, preview_dtype="uint8", preview_size=14, seed=1):
        if isinstance(each, Samples):
            print("the samples:", each)
        else:
            ink = np.array([" ", "-", "+", "#"])[each.denoised[0, 0] // 64]
            print(f"stage {each.stage} of {each.stages}", *("".join(row) for row in ink), sep="\n")
    with client.stream("digits", n=8, steps=1000) as stream:
        print("seen enough of:", next(stream))
    print("its rows are off the server")
