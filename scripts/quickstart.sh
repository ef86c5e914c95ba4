#!/usr/bin/env bash
# The whole way on embedded data: search, final training, one opening of the test, exported model, one prediction.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
.venv/bin/study run --preset quick --data digits
echo
# An image of the test part: neither the search nor the final training has seen it.
.venv/bin/study predict runs/quick-digits/model runs/cache/digits/0/0020.png
echo
echo "Model and report: runs/quick-digits/model   (the study command: source .venv/bin/activate)"
