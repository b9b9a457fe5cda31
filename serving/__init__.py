"""The runtime: networks, the engine that packs rows, replicas, and the gRPC front before them."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when ONNX Runtime is imported: it would report to its vendor
