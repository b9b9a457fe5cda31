"""Draw steered samples with an unmodified Triton client.

make serve                                  # in one shell
.venv/bin/python examples/triton_client.py  # in another
"""

import sys

import numpy as np
import tritonclient.grpc as triton

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001"
with triton.InferenceServerClient(address) as client:
    result = client.infer(
        "digits",
        inputs=[],
        parameters={"samples": 4, "seed": 1, "steps": 20, "reward": "classifier", "reward_label": 7, "beta": 1.0},
    )
    samples, rewards = result.as_numpy("samples"), result.as_numpy("rewards")
    print("samples", samples.shape, "rewards", np.round(rewards, 3))
    for name, value in sorted(result.get_response().parameters.items()):
        print(f"{name:14}", getattr(value, value.WhichOneof("parameter_choice")))
