"""Draw steered samples with an unmodified Triton client.

make serve                          # in one shell
.venv/bin/python examples/client.py # in another
"""

import numpy as np
import tritonclient.grpc as triton

with triton.InferenceServerClient("127.0.0.1:8001") as client:
    result = client.infer(
        "digits",
        inputs=[],
        parameters={"samples": 4, "seed": 1, "steps": 20, "reward": "classifier", "reward_label": 7, "beta": 1.0},
    )
    samples, rewards = result.as_numpy("samples"), result.as_numpy("rewards")
    print("samples", samples.shape, "rewards", np.round(rewards, 3))
    for name, value in sorted(result.get_response().parameters.items()):
        print(f"{name:14}", getattr(value, value.WhichOneof("parameter_choice")))
