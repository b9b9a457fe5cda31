"""From a trained network to a model folder: ONNX graph, Triton configuration, model card, calibration and bank.

A graph is written only after it has been shown to compute what the module computes, on rows at different times.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when ONNX Runtime is imported: it would report to its vendor
