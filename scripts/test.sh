#!/usr/bin/env bash
# Lint, types and tests. What protects a change, in about ten minutes on two cores: scripts/test.sh
#   --fast  leaves out whole studies (the developer's loop, about two minutes)
#   --all   adds the long ones: torture, a Ray cluster, Optuna's own suites, the commands of README and docs in order (as CI does)
# Anything else is handed to pytest: scripts/test.sh tests/models/test_cnn.py -k corners
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
# One thread each: two test processes share two cores, and results do not depend on the machine's size.
export OMP_NUM_THREADS=1
marks=(-m "not long")
case "${1:-}" in
  --fast) marks=(-m "not slow and not long"); shift ;;
  --all) marks=(); shift ;;
  "") ;;
  *) marks=() ;;
esac
if [ "$#" -eq 0 ]; then
  .venv/bin/ruff check .
  .venv/bin/ruff format --check .
  .venv/bin/mypy
fi
exec .venv/bin/python -m pytest --durations=10 --durations-min=1 ${marks[@]+"${marks[@]}"} "$@"
