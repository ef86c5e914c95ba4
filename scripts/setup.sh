#!/usr/bin/env bash
# Makes .venv and installs everything the project needs. Does nothing when nothing has changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=""
for candidate in python3 python3.13 python3.12 python3.11 python; do
  if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "setup: Python 3.11 or newer is needed and none was found on the PATH; install one and run this again" >&2
  exit 2
fi

wanted=$(cat pyproject.toml constraints.txt | cksum)
if [ "$(cat .venv/installed 2>/dev/null || true)" = "$wanted" ] && [ -x .venv/bin/study ]; then
  exit 0
fi

echo "setup: installing into .venv (torch is large: a minute or two the first time)" >&2
if ! [ -x .venv/bin/python ]; then
  "$python" -m venv .venv || { echo "setup: could not make .venv; on Debian or Ubuntu: apt install python3-venv" >&2; exit 2; }
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
.venv/bin/uv pip install --quiet --python .venv/bin/python --constraint constraints.txt --editable ".[dev]"
# Compile once now: otherwise the first start of each command does (and every start, where Python may not write).
.venv/bin/python -m compileall -q -j 0 .venv/lib/python3*/site-packages >/dev/null 2>&1 || true
echo "$wanted" > .venv/installed
