#!/usr/bin/env bash
# The figures of a GPU, in at most ten minutes, to scripts/bench/results/: bash scripts/bench/gpu.sh NAME
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../venv.sh"
file=scripts/bench/results/${1:?name the GPU, such as h200}.txt
timeout 420 $python -u -m scripts.bench.speed --device cuda --repeats 7 | tee "$file"
timeout 180 $python -u -m scripts.bench.compare --device cuda --repeats 7 | tee -a "$file"
