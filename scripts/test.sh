#!/usr/bin/env bash
# Runs every check: lint, types, tests. `--fast` leaves out whole studies (the developer's loop, under two minutes).
# Anything else is handed to pytest: scripts/test.sh tests/models/test_cnn.py -k corners
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
# One thread each: two test processes share two cores, and results do not depend on the machine's size.
export OMP_NUM_THREADS=1
marks=()
if [ "${1:-}" = "--fast" ]; then
  shift
  marks=(-m "not slow")
fi
if [ "$#" -eq 0 ]; then
  .venv/bin/ruff check .
  .venv/bin/ruff format --check .
  .venv/bin/mypy
fi
exec .venv/bin/python -m pytest --durations=10 --durations-min=1 "${marks[@]}" "$@"
