#!/usr/bin/env bash
# Set up .venv where it is missing, then check the style and run the whole test suite: bash scripts/test.sh [PYTEST ARGS]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
exec .venv/bin/python -m pytest -n 2 "$@"
