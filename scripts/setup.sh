#!/usr/bin/env bash
# Makes .venv and installs everything the project needs. Does nothing when nothing has changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=""
for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do
  if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "setup: Python 3.11 or newer is needed and none was found on the PATH; install one and run this again" >&2
  exit 2
fi

if [ "$(uname -sm)" = "Darwin x86_64" ]; then
  echo "setup: torch is not made for Macs with Intel processors any more; use Linux, or a Mac with Apple silicon" >&2
  exit 2
fi

runs() { # whether the environment is where it was made: its commands name their Python by its path
  .venv/bin/python -c '' 2>/dev/null && [ "$(cat .venv/place 2>/dev/null)" = "$(cd .venv && pwd -P)" ]
}

wanted=$(cat pyproject.toml constraints.txt | cksum)
if [ "$(cat .venv/installed 2>/dev/null || true)" = "$wanted" ] && [ -x .venv/bin/study ] && runs; then
  exit 0
fi

echo "setup: installing into .venv (torch is large: a minute or two the first time)" >&2
# One that was interrupted half-way, or moved, is made anew; an older one does not say where it was made.
if ! .venv/bin/python -m pip --version >/dev/null 2>&1 ||
  { ! runs && { [ -e .venv/place ] || ! .venv/bin/pip --version >/dev/null 2>&1; }; }; then
  "$python" -m venv --clear .venv || { echo "setup: could not make .venv; on Debian or Ubuntu: apt install python3-venv" >&2; exit 2; }
fi
if [ -z "${UV_CACHE_DIR:-}" ] && ! mkdir -p "${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/uv" 2>/dev/null; then
  export UV_CACHE_DIR=$PWD/.venv/cache # without a home that may be written
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
.venv/bin/uv pip install --quiet --python .venv/bin/python --constraint constraints.txt --editable ".[dev]"
# Compile once now: otherwise the first start of each command does (and every start, where Python may not write).
.venv/bin/python -m compileall -q -j 0 .venv/lib/python3*/site-packages >/dev/null 2>&1 || true
(cd .venv && pwd -P > place)
echo "$wanted" > .venv/installed
