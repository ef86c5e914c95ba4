#!/usr/bin/env python
"""Do two checkouts of this project give the same? Studies, trials, weights, `status` and `predict`, run by both.

Each side runs the quick study on the digits and a small one on synthetic tissue, with one thread. Then the second
checkout goes on with a database of the first, and predicts and evaluates with a model folder of the first. Prints what
differs, and exits with 1 if anything does.

    git worktree add /tmp/before HEAD~1
    .venv/bin/python scripts/compare_checkouts.py /tmp/before .        # two minutes
"""

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

STUDIES = {
    "digits": ["--preset", "quick", "--data", "digits", "--set", "starts=[]"],
    "tissue": [
        *("--preset", "quick", "--data", "tissue", "--trials", "8", "--set", "image_size=32", "--set", "epochs=4"),
        *("--set", "final_epochs=4", "--set", "confirm=2", "--set", "final_seeds=2", "--set", "augment.stain=0.15"),
        *("--set", "starts=[]"),
    ],
}
TIMES = ("seconds", "epoch_seconds", "images_per_second", "hours_spent")
"""What no two runs have in common."""
TABLES = {
    "values": "SELECT number, state, value FROM mine LEFT JOIN trial_values USING (trial_id) ORDER BY number",
    "points": "SELECT number, param_name, param_value, distribution_json FROM mine JOIN trial_params USING (trial_id) "
    "ORDER BY number, param_name",
    "epochs": "SELECT number, step, intermediate_value FROM mine JOIN trial_intermediate_values USING (trial_id) "
    "ORDER BY number, step",
    "rungs": "SELECT number, key, value_json FROM mine JOIN trial_system_attributes USING (trial_id) "
    "ORDER BY number, key",
    "attributes": "SELECT number, key, value_json FROM mine JOIN trial_user_attributes USING (trial_id) "
    f"WHERE key NOT IN {TIMES} ORDER BY number, key",
}


def study(checkout: Path, folder: Path, *words: str) -> str:
    """Run `study WORDS` of a checkout in a folder; its standard output."""
    python = checkout / ".venv" / "bin" / "python"
    command = [str(python if python.exists() else sys.executable), "-m", "study", *words]
    threads = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=folder, env={**os.environ, **threads}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{checkout}: study {' '.join(words)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def results(folder: Path, name: str) -> dict[str, object]:
    """What a finished study left in its database and its model folder."""
    with sqlite3.connect(folder / "optuna.db") as database:
        (number,) = database.execute("SELECT study_id FROM studies WHERE study_name = ?", (name,)).fetchone()
        database.execute(f"CREATE TEMP VIEW mine AS SELECT * FROM trials WHERE study_id = {int(number)}")
        found: dict[str, object] = {key: database.execute(query).fetchall() for key, query in TABLES.items()}
    card = json.loads((folder / "runs" / name / "model" / "card.json").read_text())
    for key in ("weights_sha256", "test", "temperature", "classes", "conformal", "comparison"):
        found[f"card {key}"] = card.get(key)
    return found


def shown(checkout: Path, folder: Path, name: str) -> dict[str, object]:
    """What `status` and `predict` say of it, without times."""
    status = json.loads(study(checkout, folder, "status", name, "--json"))
    images = next((folder / "runs" / "cache").glob(f"{name}/*"))
    predicted = study(checkout, folder, "predict", f"runs/{name}/model", str(images.relative_to(folder)), "--json")
    return {"status": {key: value for key, value in status.items() if key not in TIMES}, "predict": predicted}


def differences(before: dict[str, object], after: dict[str, object], ignored: set[str]) -> list[str]:
    """The keys whose values differ; of lists of rows, the first that does."""
    lines = []
    for key in before:
        one, other = before[key], after[key]
        if isinstance(one, list) and isinstance(other, list):
            other = [row for row in other if not (isinstance(row, tuple) and row[1] in ignored)]
            pairs = [pair for pair in zip(one, other, strict=False) if pair[0] != pair[1]]
            if pairs or len(one) != len(other):
                lines.append(f"{key}: {len(one)} and {len(other)} rows; {pairs[:1]}")
        elif isinstance(one, dict) and isinstance(other, dict):  # what only the second one says is new
            lines += [
                f"{key}.{name}: {one[name]} and {other.get(name)}" for name in one if one[name] != other.get(name)
            ]
        elif one != other:
            lines.append(f"{key}: {str(one)[:300]}\n   and {str(other)[:300]}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--new", nargs="*", default=[], help="attributes of trials that only the second one writes")
    given = parser.parse_args()
    before, after = given.before.resolve(), given.after.resolve()
    found: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        for name, options in STUDIES.items():
            sides = []
            for checkout, side in ((before, "before"), (after, "after")):
                folder = Path(place, side)
                folder.mkdir(exist_ok=True)
                study(checkout, folder, "run", "--name", name, *options)
                sides.append(results(folder, name) | shown(checkout, folder, name))
            lines = differences(sides[0], sides[1], set(given.new))
            print(f"{name}: {len(sides[0])} things compared, {len(lines)} differ")
            found += [f"{name}, {line}" for line in lines]
            found += going_on(before, after, Path(place), name, options, sides[0])
    print("\n".join(found))
    sys.exit(bool(found))


def going_on(
    before: Path, after: Path, place: Path, name: str, options: list[str], whole: dict[str, object]
) -> list[str]:
    """The second checkout with what the first one left: a study half done, and a model folder."""
    half = place / f"{name} half"
    half.mkdir()
    study(before, half, "run", "--name", name, *options, "--trials", "3")
    study(after, half, "resume", name, "--trials", "8" if name == "tissue" else "12")
    ended = results(half, name)
    lines = [f"gone on, {key} differs" for key in ("values", "points", "epochs") if ended[key] != whole[key]]
    old = place / f"{name} old"
    shutil.copytree(place / "before", old)
    told = [
        study(side, old, "predict", f"runs/{name}/model", f"runs/cache/{name}", "--json") for side in (before, after)
    ]
    scored = [
        json.loads(study(side, old, "evaluate", f"runs/{name}/model", f"runs/cache/{name}", "--json"))["scores"]
        for side in (before, after)
    ]
    lines += [] if told[0] == told[1] else ["an old model folder predicts otherwise"]
    lines += [] if scored[0] == scored[1] else ["an old model folder is scored otherwise"]
    print(f"{name}: an old database gone on with, an old model folder used: {len(lines)} differ")
    return [f"{name}, {line}" for line in lines]


if __name__ == "__main__":
    main()
