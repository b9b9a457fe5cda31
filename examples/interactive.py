"""Steer samples by scores that this very program computes, whatever it does for them: no server of its own.

make serve                                                        # in one shell
.venv/bin/python examples/interactive.py 127.0.0.1:8001 digits    # in another
"""

import sys
from queue import SimpleQueue

import grpc
import numpy as np
from numpy.typing import NDArray

from protos.tiltserve.v1.sampling_pb2 import InteractiveRequest, SampleRequest, Scores
from protos.tiltserve.v1.sampling_pb2_grpc import SamplingStub
from protos.tiltserve.v1.tensor_pb2 import Tensor, Value


def array(tensor: Tensor) -> NDArray[np.float32]:
    return np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)


def score(candidates: NDArray[np.float32]) -> NDArray[np.float32]:
    """Any function of candidates [rows, *event]: here their brightness."""
    return 20 * candidates.reshape(len(candidates), -1).mean(axis=1)


address, model = sys.argv[1:]
outgoing: SimpleQueue[InteractiveRequest | None] = SimpleQueue()
parameters = {"samples": Value(integer=8), "seed": Value(integer=1), "beta": Value(number=1.0)}
outgoing.put(InteractiveRequest(sample=SampleRequest(model=model, parameters=parameters)))
with grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", 2**28)]) as channel:
    for reply in SamplingStub(channel).SampleInteractive(iter(outgoing.get, None)):
        if reply.HasField("candidates"):
            scores = score(array(reply.candidates.tensor))
            print(f"batch {reply.candidates.batch}: {len(scores)} candidates, the best scores {scores.max():.3f}")
            outgoing.put(InteractiveRequest(scores=Scores(batch=reply.candidates.batch, scores=scores)))
        else:
            samples, rewards = (array(reply.samples.outputs[name]) for name in ("samples", "rewards"))
            print("samples", samples.shape, "rewards", np.round(rewards, 3))
            print("fingerprint", reply.samples.parameters["fingerprint"].text)
outgoing.put(None)
