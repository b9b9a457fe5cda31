#!/usr/bin/env bash
# Operator: look after a running server (`make serve`). TILTSERVE_ADDRESS and TILTSERVE_TOKEN say where it is, and who asks.
#
#   PATH=.venv/bin:$PATH examples/operate.sh [METRICS_HOST:PORT]
set -euo pipefail
metrics=${1:-127.0.0.1:8002}
drawn=$(mktemp -d)
trap 'rm -r "$drawn"' EXIT

tiltserve models                                                       # what is served, and by which processes
tiltserve sample digits --reward classifier --reward-label 7 -n 4 --seed 1 -o "$drawn/sevens.npz" --report
tiltserve score classifier "$drawn/sevens.npz" --argument label=7      # the reward again, of what was drawn
tiltserve sample digits --steps 10 --json | grep '"network_rows"'      # for scripts
tiltserve stats digits                                                 # counts and times since the server began
tiltserve top --once --every 0.5 --metrics "$metrics"                  # without --once: a live view
