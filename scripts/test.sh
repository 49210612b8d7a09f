#!/usr/bin/env bash
# Everything that CI runs: set up .venv where it is missing, check style and types, run every test that needs no network:
#   bash scripts/test.sh [PYTEST ARGS]
# The fast loop is .venv/bin/pytest -n 2.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
exec .venv/bin/python -m pytest -n 2 -m "not network" "$@"
