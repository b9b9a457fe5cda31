"""One script per performance claim, run by `tiltserve bench NAME`; names with a leading underscore are shared parts."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when ONNX Runtime is imported: it would report to its vendor
