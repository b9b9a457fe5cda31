"""Client developer: draw sevens from a model of all digits, and read what came with them.

make serve                          # in one shell
.venv/bin/python examples/sample.py # in another; `pip install ./client` is all that it needs
"""

import sys

from tiltserve import Client, InvalidArgument

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001"
with Client(address, timeout=60) as client:
    plain = client.sample("digits", n=8, seed=1)
    sevens = client.sample("digits", n=8, reward="classifier", label=7, seed=1, progress=True)
    for name, images in (("plain", plain), ("steered", sevens)):
        print(f"{name}: log p(7) {client.score('classifier', images, label=7).round(2)}")
    assert sevens.report is not None
    print("rows:", sevens.network_rows, "of the network,", sevens.reward_rows, "of the reward")
    print("corrections:", sevens.report.methods, "warnings:", sevens.warnings)
    try:
        client.sample("digits", stpes=10)
    except InvalidArgument as error:
        print("a mistake:", error.message)
