#!/usr/bin/env bash
# For whoever has a CUDA GPU: whether everything works on it, and how fast, in about eight minutes. The table on stdout has
# the form of BENCHMARKS.md; what is happening goes to stderr. Without a CUDA device a small version runs, and says so.
# `--tiny` is for tests.   Example: scripts/gpu_check.sh > gpu.md
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh >&2
exec .venv/bin/python scripts/gpu_check.py "$@"
