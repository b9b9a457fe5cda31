#!/bin/sh
# Removes from an environment what no server opens: headers, tests, other languages. Usage: slim.sh /opt/venv
set -eu
packages=$(echo "$1"/lib/python3.*/site-packages)
rm -rf "$packages/torch/include" "$packages/torch/test" "$packages/torch/share" "$packages/ray/jars"
# torch looks for this one program when it is imported; the others are its tests
find "$packages/torch/bin" -type f ! -name torch_shm_manager -delete
find "$packages" -type d \( -name tests -o -path '*/onnx/backend/test/data' \) -prune \
    ! -path '*/torch/*' -exec rm -rf {} +
