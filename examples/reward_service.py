"""A reward of your own for tiltserve to call: here the brightness of a sample. No gradients, any framework.

.venv/bin/python examples/reward_service.py 127.0.0.1:9001                            # in one shell
.venv/bin/tiltserve serve --models deploy/models --reward brightness=127.0.0.1:9001   # in another
.venv/bin/tiltserve sample digits --reward brightness --reward-scale 20 -n 16 -o bright.png
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np

from protos.tiltserve.v1 import reward_pb2, reward_pb2_grpc


class Brightness(reward_pb2_grpc.RewardServicer):
    """Scores the rows of one or several requests at once."""

    def Score(self, request: reward_pb2.ScoreRequest, context: grpc.ServicerContext) -> reward_pb2.ScoreReply:
        x = np.frombuffer(request.candidates.data, "<f4").reshape(request.candidates.shape)  # [rows, *event]
        scale = 1.0
        if "scale" in request.arguments:  # the request's parameter reward_scale
            value = request.arguments["scale"]
            scale = float(getattr(value, value.WhichOneof("kind")))
        return reward_pb2.ScoreReply(scores=scale * x.reshape(len(x), -1).mean(axis=1))


if __name__ == "__main__":
    server = grpc.server(ThreadPoolExecutor(4))
    reward_pb2_grpc.add_RewardServicer_to_server(Brightness(), server)
    server.add_insecure_port(sys.argv[1])
    server.start()
    print("serving", flush=True)
    server.wait_for_termination()
