#!/usr/bin/env bash
# For whoever has a CUDA GPU: whether everything works on it, and how fast, in about ten minutes. The table on stdout has
# the form of BENCHMARKS.md; what is happening goes to stderr. Without a CUDA device a small version runs, and says so.
# `--only PART ...` runs some of it (`--help` lists them; export needs resuming); `--tiny` is for tests.
# `--python PATH`, before all else, takes a Python that has everything already, and installs nothing.
# Example: scripts/gpu_check.sh > gpu.md
set -euo pipefail
python=""
if [ "${1:-}" = "--python" ]; then
  if ! python=$(command -v "${2:?gpu_check: --python needs the path of a Python}"); then # a relative one is so from here
    echo "gpu_check: no such Python: $2" >&2
    exit 2
  fi
  python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
  shift 2
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -z "$python" ]; then
  scripts/setup.sh >&2
  python=.venv/bin/python
fi
PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} exec "$python" scripts/gpu_check.py "$@"
