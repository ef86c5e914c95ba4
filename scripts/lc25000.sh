#!/usr/bin/env bash
# The whole recipe on LC25000 (or any folder of class folders), stage by stage; also a map of the project.
#
#   scripts/lc25000.sh lung_colon_image_set                  two hours, planned for this machine
#   scripts/lc25000.sh lung_colon_image_set --hours 0.75 ... what `study run` takes, but --name and --storage
#
# The audit and the list of parts are made with the defaults (and --skip-bad, if it is given).
# Killed anywhere, the same command goes on. State: optuna.db and runs/ in the folder where you stand.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ "$#" -eq 0 ] || [ ! -d "$1" ]; then
  echo "usage: scripts/lc25000.sh FOLDER [options of study run]   (a folder of class folders, or LC25000's archive)" >&2
  exit 2
fi
images=$1
shift
bad=""
for word in "$@"; do
  case "$word" in
    --skip-bad) bad=$word ;;
    --name | --name=*) echo "lc25000: the study is called lc25000 here (leave --name out)" >&2 && exit 2 ;;
    --storage | --storage=*) echo "lc25000: the state lies in optuna.db here (leave --storage out)" >&2 && exit 2 ;;
  esac
done
"$here/scripts/setup.sh"
study="$here/.venv/bin/study"

stage() { # its name, how long it takes, where its code is
  printf '\n== %s (%s; %s)\n' "$@" >&2
}

# What the folder is worth before anything is trained: copies, leaks, scores without a network.
# Images are decoded once (runs/cache); those that show one source are found from the pixels.
stage "audit" "25,000 images: ten minutes on 2 cores, once" "data/audit.py, data/grouping/find.py"
"$study" data audit "$images" ${bad:+"$bad"} --html audit.html

# Which image goes where: train, val, cal, test, whole by source. The same parts for use elsewhere.
stage "parts" "seconds" "data/splits.py"
"$study" data split "$images" ${bad:+"$bad"} --csv > split.csv

# The plan (study/budget/plan.py). The search: TPE suggests, Hyperband prunes, SQLite remembers (study/search/worker.py,
# study/search/trial.py). Then, as far as the hours go, the best are trained anew and compared on val; the chosen one is
# trained from fresh weights on train and val, the test is opened once (study/result/refit.py, study/result/scoring.py), and
# the model folder is written (models/bundle/folder.py) with its report (study/result/page.py).
stage "search, final training, score, export" "most of the time" "study/launch.py and below"
"$study" run --data "$images" --name lc25000 "$@"

# What was found, and what a second look would cost.
stage "standing" "a second" "study/cli"
"$study" status lc25000

# The model on images, as elsewhere: with prediction sets where the study could promise them.
stage "predict" "seconds" "study/use/predict.py"
some=$(find -H "$images" -type f \( -iname '*.jp*g' -o -iname '*.png' -o -iname '*.tif*' -o -iname '*.bmp' \) |
  sort | awk 'NR % 50 == 1 && n++ < 20')
if [ -n "$some" ]; then
  printf '%s\n' "$some" | "$study" predict runs/lc25000/model - ${bad:+"$bad"} --top 2
fi

printf '\nreport: %s\nmodel:  %s\n' runs/lc25000/model/report.html runs/lc25000/model >&2
