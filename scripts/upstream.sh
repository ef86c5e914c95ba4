#!/usr/bin/env bash
# Optuna's own tests, of the version that is installed, over this program's storage; and its databases of ten
# older versions through `study db upgrade`. Needs the network (or a folder with Optuna's source package as argument).
set -euo pipefail
source=$([ "$#" -eq 0 ] || cd "$1" && pwd) # a relative one is so from here
cd "$(dirname "$0")/.."
scripts/setup.sh
version=$(.venv/bin/python -c 'import optuna; print(optuna.__version__)')
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
if [ $# -gt 0 ]; then
  cp "$source/optuna-$version.tar.gz" "$place"
else
  .venv/bin/pip download --quiet --no-binary :all: --no-deps --no-build-isolation --dest "$place" "optuna==$version"
fi
tar -xzf "$place/optuna-$version.tar.gz" -C "$place"
.venv/bin/python scripts/upstream.py "$place/optuna-$version"
