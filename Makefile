# `make demo` and `make test` need Python 3.11, make and a C compiler, nothing else: each makes .venv first.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
MODELS ?= deploy/models
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help install demo demo-text demo-3d test serve monitor e2e-alerts lint format bench e2e-cluster protos models models-text models-scenes gallery gallery-check lock chart-tools clean

help: ## show the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Only a changed lock or pyproject installs again.
$(STAMP): requirements.lock pyproject.toml client/pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: expected python3.11 on PATH, found no python3" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "making $(VENV) (a few minutes, about 1.5 GB)"; "$(PYTHON)" -m venv $(VENV); }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable ./client --editable .
	@touch $@

install: $(STAMP) ## make .venv with every pinned dependency

demo: $(STAMP) ## serve the digits, draw plain and steered ones: demo/samples.png, demo/summary.json
	$(BIN)/python -m deploy.demo $(ARGS)

# What computes goes on two cores; what starts servers, and looks at the clock, goes alone.
COMPUTE := tests/steering tests/exporters tests/protos

demo-text: $(STAMP) ## serve a small text-to-image model, draw and steer prompts: demo/text.png, demo/text.json
	$(BIN)/python -m deploy.demo_text $(ARGS)

demo-3d: $(STAMP) ## make 3-D scenes with a served model, plain and steered: demo/3d/scenes.png, .gif
	$(BIN)/python examples/distill3d.py $(ARGS)

test: $(STAMP) ## run the tests (ARGS="-k name" for some)
ifeq ($(strip $(ARGS)),)
	$(BIN)/python -m pytest -n 2 --dist worksteal $(COMPUTE)
	$(BIN)/python -m pytest $(addprefix --ignore=,$(COMPUTE))
else
	$(BIN)/python -m pytest $(ARGS)
endif

serve: $(STAMP) ## keep a server up on 8001 (gRPC) and 8002 (metrics) until interrupted
	$(BIN)/tiltserve serve --models $(MODELS) $(ARGS)

monitor: ## watch `make serve` with Prometheus, its rules and alerts, on 9090 until interrupted
	@command -v prometheus >/dev/null || { echo "error: expected the program prometheus, found none: apt install prometheus" >&2; exit 1; }
	@mkdir -p build/monitor
	prometheus --config.file=deploy/monitoring/prometheus.yaml --storage.tsdb.path=build/monitor --storage.tsdb.retention.time=7d --web.listen-address=127.0.0.1:9090 --log.level=warn $(ARGS)

e2e-alerts: $(STAMP) ## put faults into a fleet that a real Prometheus and Alertmanager watch (about 15 minutes)
	$(BIN)/python -m benchmarks.alerts $(ARGS)

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

e2e-cluster: $(STAMP) ## faults of three hosts under load (root; needs iproute2 and redis-server; ten minutes)
	$(BIN)/python -m benchmarks.cluster_faults $(ARGS)

bench: $(STAMP) ## list the benchmarks, or run some: ARGS="name"
	$(BIN)/tiltserve bench $(ARGS)

protos: $(STAMP) ## regenerate the code of protos/**/*.proto
	$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. protos/tiltserve/v1/*.proto

models: $(STAMP) ## train and export the demo models again (hours on two cores; needs npm for the digits)
	$(BIN)/python -m exporters.digits $(ARGS)

models-text: $(STAMP) ## train and import the text-to-image model again (an hour on one core; needs npm for the emoji)
	$(BIN)/python -m exporters.emoji $(ARGS)

models-scenes: $(STAMP) ## render and train the 3-D demo's model again (half an hour on one core)
	$(BIN)/python -m exporters.scenes $(ARGS)

gallery: $(STAMP) ## build the gallery's models again (half an hour on one core; ARGS="ecg" for some)
	$(BIN)/python -m exporters.gallery $(ARGS)

gallery-check: $(STAMP) ## hold the gallery's models to what is known of them (minutes; ARGS="ecg" for some)
	$(BIN)/python -m exporters.gallery --check $(ARGS)

lock: $(STAMP) ## write requirements.lock from what .venv has
	@grep '^#' requirements.lock > requirements.lock.new
	$(BIN)/python -m pip freeze --all --exclude pip --exclude wheel --exclude tiltserve --exclude tiltserve-client | sed -E 's/\+[a-z0-9.]+$$//' >> requirements.lock.new
	@mv requirements.lock.new requirements.lock
	$(BIN)/python -m deploy.locks

chart-tools: $(STAMP) ## fetch helm and Kubernetes' schemas for the chart's tests into k8s/.tools (60 MB)
	PYTHON=$(BIN)/python k8s/tools.sh

clean: ## remove .venv, caches and outputs
	rm -rf $(VENV) k8s/.tools .pytest_cache .mypy_cache .ruff_cache .hypothesis build client/build dist demo ./*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
