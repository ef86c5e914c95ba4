#!/usr/bin/env bash
# For whoever has a CUDA GPU: whether everything works on it, and how fast, in about ten minutes. The table on stdout has
# the form of BENCHMARKS.md; what is happening goes to stderr. Without a CUDA device a small version runs, and says so.
# `--only PART ...` runs some of it (`--help` lists them; export needs resuming); `--tiny` is for tests.
# `--python PATH`, before all else, takes a Python that has everything already, and installs nothing.
# Example: scripts/gpu_check.sh > gpu.md
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python
if [ "${1:-}" = "--python" ]; then
  python=${2:?gpu_check: --python needs the path of a Python}
  shift 2
else
  scripts/setup.sh >&2
fi
PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} exec "$python" scripts/gpu_check.py "$@"
