"""KServe's own client, in the environment that the comparison with other servers keeps for it; skipped without."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.serving.live import Live

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tiltserve" / "peers"
PYTHON = next((each.parent / "bin" / "python" for each in sorted(CACHE.glob("kserve-*/installed"))), None)
SCRIPT = """
import asyncio, json, sys
import numpy as np
from kserve import InferInput, InferRequest
from kserve.inference_client import InferenceGRPCClient

async def main(address):
    async with InferenceGRPCClient(address) as client:
        ready = [await client.is_server_live(), await client.is_server_ready(), await client.is_model_ready("rings")]
        inputs = [InferInput("x", [3, 2], "FP32"), InferInput("t", [3], "FP32")]
        inputs[0].set_data_from_numpy(np.ones((3, 2), np.float32))
        inputs[1].set_data_from_numpy(np.full(3, 0.5, np.float32))
        raw = await client.infer(InferRequest("rings.network", inputs))
        typed = [InferInput("x", [3, 2], "FP32", [1.0] * 6), InferInput("t", [3], "FP32", [0.5] * 3)]
        again = await client.infer(InferRequest("rings.network", typed))
        drawn = await client.infer(InferRequest("rings", [], parameters={"samples": 4, "steps": 2, "seed": 1}))
        print(json.dumps({
            "ready": ready,
            "raw": raw.outputs[0].as_numpy().tolist(),
            "typed": again.outputs[0].as_numpy().tolist(),
            "drawn": list(drawn.outputs[0].as_numpy().shape),
        }))

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.skipif(PYTHON is None, reason="no environment of KServe in the cache of benchmarks.peers")
def test_kserves_own_client(live: Live):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(PYTHON), "-c", SCRIPT, live.address], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["ready"] == [True] * 3
    np.testing.assert_array_equal(told["raw"], told["typed"])
    assert np.shape(told["raw"]) == (3, 2)
    assert told["drawn"] == [4, 2]
