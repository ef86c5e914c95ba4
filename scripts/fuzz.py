#!/usr/bin/env python
"""Mutated files through the command line for a given time, each in a fork with little memory and time.

A case takes a whole file (an image, a card, a configuration, a checkpoint, a study in TOML, a list of groups, a
database, a slide, a DICOM image), changes some of its bytes or words, and gives it to the command that reads it. Some
are changed on purpose: a JPEG's size, components and scans, a TIFF's tiles, a checkpoint's values for tensors that say
they are huge, two images whose names are swapped, a copy beside which another database has left files. Counted are
hangs (20 s, for slides 180 s), tracebacks, deaths by memory (4 GB) or a signal, exit codes other than 0, 1 and 2, and
files that appear outside the case's folder. Printed is also the most memory of a kind's cases: the proportional share
of all processes of a case, looked at ten times a second.

Usage: python scripts/fuzz.py [--seconds 300] [--cases 2000] [--seed 0] [--keep DIR] [--only WORD]
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np
import torch
from PIL import Image

from data.datasets import embedded
from models.bundle import folder as bundle
from models.files import file_hash
from study import cli

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # slides are made as for tests

SECONDS, MEMORY = 20, 4 * 2**30
SLIDE_SECONDS = 180
"""A child that reads a slide and hangs is ended after 120 s, and the slide goes on."""

# What parsers trip over.
WORDS = (
    b"-1",
    b"0",
    b"1e999",
    b"NaN",
    b"null",
    b"\0",
    b"\xff\xfe",
    b"[" * 2000,
    b"9" * 400,
    b'"',
    b"../../x",
    b"\x1b[2J",
)

Command = Callable[[Path], list[str]]


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, cut out, doubled, or replaced by what parsers trip over."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not data:
            break
        at = rng.randrange(len(data))
        kind = rng.randrange(6)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[at : at + rng.randrange(1, 64)]
        elif kind == 3:
            data[at:at] = data[at : at + rng.randrange(1, 64)] * rng.randrange(1, 4)
        elif kind == 4:
            data[at : at + rng.randrange(0, 8)] = rng.choice(WORDS)
        else:
            del data[at:]
    return bytes(data)


def with_fitting_hashes(model: Path) -> None:
    """A card whose hashes fit what was changed beside it: whoever alters a folder can do that too."""
    try:
        card = json.loads((model / bundle.CARD).read_bytes())
        card["files"] = {name: file_hash(model / name) for name in card["files"] if (model / name).is_file()}
        (model / bundle.CARD).write_text(json.dumps({**card, "card_sha256": bundle.card_hash(card)}))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
        return


def seeds(place: Path) -> dict[str, tuple[Path, Command]]:
    """Name -> (the whole file, below `place`/whole; the command that reads its copy in a folder)."""
    whole = place / "whole"
    images = whole / "images"
    source = embedded("digits", place / "cache")
    for name in ("0", "1", "2"):
        (images / name).mkdir(parents=True)
        for file in sorted((source / name).iterdir())[:20]:
            shutil.copy(file, images / name)
    rows = [f"{file.relative_to(images).as_posix()},{file.stem}" for file in sorted(images.rglob("*.png"))]
    (images / "groups.csv").write_text("path,group\n" + "\n".join(rows) + "\n")
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    for ending in ("jpg", "png", "tif", "bmp", "webp", "gif"):
        pixels.save(images / "0" / f"x.{ending}")
        with (images / "groups.csv").open("a") as handle:
            handle.write(f"0/x.{ending},x\n")
    (whole / "study.toml").write_text(STUDY.format(images=images))
    words = ["run", str(whole / "study.toml"), "--name", "s", "--storage", f"sqlite:///{whole}/optuna.db"]
    subprocess.run([sys.executable, "-m", "study", *words, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    predict: Command = lambda case: ["predict", str(case / "runs/s/model"), str(case / "images/0"), "--csv"]  # noqa: E731
    audit: Command = lambda case: ["evaluate", str(case / "runs/s/model"), str(case / "images")]  # noqa: E731
    found = {f"image.{file.suffix[1:]}": (file, audit) for file in sorted((images / "0").glob("x.*"))}
    model = whole / "runs" / "s" / "model"
    for name in (bundle.CARD, bundle.CONFIG, bundle.WEIGHTS):
        found[name] = (model / name, predict)
    found["model.pth"] = (
        model / bundle.CHECKPOINT,
        lambda case: ["predict", str(case / "runs/s/model/model.pth"), "."],
    )
    found["groups.csv"] = (images / "groups.csv", audit)
    found["study.toml"] = (
        whole / "study.toml",
        lambda case: ["plan", str(case / "study.toml"), "--hours", "0.05", "--storage", f"sqlite:///{case}/none.db"],
    )
    found["scans of x.jpg"] = found["image.jpg"]
    found["tiles of x.tif"] = found["image.tif"]
    found["tensors of model.pth"] = found["model.pth"]
    found |= seeds_of_slides(whole, model)
    split: Command = lambda case: ["data", "split", str(case / "images"), "--csv"]  # noqa: E731
    found["swapped images"] = (images / "0" / "x.png", split)
    copy: Command = lambda case: ["db", "copy", str(case / "optuna.db"), str(case / "copy.db")]  # noqa: E731
    found["left beside a copy"] = (whole / "optuna.db", copy)
    for kind in ("optuna.db", "attributes"):
        for words in (
            ["status"],
            ["sql", "SELECT * FROM studies_overview, trials_flat, epochs, params"],
            ["plan", "--name", "s", "--preset", "quick"],
            ["resume", "s", "--quiet"],
            ["db", "delete", "s", "--yes"],
        ):
            found[f"{kind} {words[0]}"] = (whole / "optuna.db", partial(on_its_database, words))
    return {name: pair for name, pair in found.items() if pair[0].exists()}


def seeds_of_slides(whole: Path, model: Path) -> dict[str, tuple[Path, Command]]:
    """Return the whole files of slides and DICOM images, with their commands."""
    from pydicom.data import get_testdata_file

    from tests import slides

    place = whole / "slides"
    place.mkdir()
    pixels = slides.pixels()[512:1280, 512:1280]
    slides.slide(place / "x.svs", pixels)
    slides.slide(place / "x.tiff", pixels, style="generic")
    slides.dicom(place / "x", pixels)
    words = ["predict", f"{{case}}/{model.relative_to(whole)}", "{file}", "--out", "{case}/map", "--um", "64"]
    files = {"slide.svs": "x.svs", "slide.tiff": "x.tiff", "slide.dcm": "x/level0.dcm", "slide.dcm 2": "x/level1.dcm"}
    found = {name: (place / file, partial(_filled, words, f"slides/{file}")) for name, file in files.items()}
    scans = whole / "scans"
    scans.mkdir()
    for name in DICOM:
        shutil.copy(str(get_testdata_file(name, download=False)), scans / name)
        words = ["predict", f"{{case}}/{model.relative_to(whole)}", "{file}"]
        found[f"scan {name}"] = (scans / name, partial(_filled, words, f"scans/{name}"))
    return found


DICOM = (
    *("CT_small.dcm", "JPEG-lossy.dcm", "JPEG2000.dcm", "MR_small_RLE.dcm", "MR_small_jpeg_ls_lossless.dcm"),
    *("SC_rgb_dcmtk_+eb+cy+n1.dcm", "SC_rgb_jpeg_gdcm.dcm", "examples_palette.dcm", "image_dfl.dcm", "badVR.dcm"),
    *("SC_rgb_rle_32bit_2frame.dcm", "liver_1frame.dcm", "SC_ybr_full_422_uncompressed.dcm"),
)
"""DICOM images that pydicom brings: native, five codecs, palette, deflated, functional groups, odd headers."""


def _filled(words: list[str], file: str, case: Path) -> list[str]:
    """Return the command, with the case's own places."""
    return [word.format(case=case, file=case / file) for word in words]


def on_its_database(words: list[str], case: Path) -> list[str]:
    """The command, on the case's own database."""
    return [*words, "--storage", f"sqlite:///{case}/optuna.db"]


STUDY = """preset = "quick"
data = "{images}"
image_size = 8
trials = 2
epochs = 2
min_epochs = 1
eta = 2
final_epochs = 1

[space]
num_conv_blocks = [1, 2]
base_filters = 32
dense_units = ["8"]
learning_rate = {{ low = 1e-3, high = 1e-2, log = true }}
"""


def alter_attributes(file: Path, rng: random.Random) -> None:
    """Mutated JSON in the attributes of a study and its trials, and in what parameters were drawn from."""
    with sqlite3.connect(file) as connection:
        for table, what in (
            ("study_user_attributes", "value_json"),
            ("trial_user_attributes", "value_json"),
            ("trial_system_attributes", "value_json"),
            ("trial_params", "distribution_json"),
        ):
            rows = connection.execute(f"SELECT rowid, {what} FROM {table}").fetchall()
            for number, value in rng.sample(rows, min(rng.randrange(3), len(rows))):
                text = mutated(value.encode(), rng).decode(errors="replace")
                connection.execute(f"UPDATE {table} SET {what} = ? WHERE rowid = ?", (text, number))


def alter_scans(file: Path, rng: random.Random) -> None:
    """A JPEG that says it is huge, whose scans hold single components, or come again and again."""
    data = bytearray(file.read_bytes())
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    data[frame + 5 : frame + 9] = struct.pack(">HH", *(rng.choice((8, 4000, 30_000, 65_500)) for _ in range(2)))
    if rng.random() < 0.5:
        data[scan : scan + 14] = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    data[-2:-2] = bytes(data[scan:-2]) * rng.choice((0, 1, 60, 5000))
    file.write_bytes(data)


def alter_tiles(file: Path, rng: random.Random) -> None:
    """A small TIFF in huge tiles or strips."""
    tags = {256: 16, 257: 16, 258: 8, 259: rng.choice((1, 5, 8)), 262: 1, 277: 1}
    side = rng.choice((16, 4096, 16_384, 2**31))
    tags |= {322: side, 323: side, 324: 8, 325: 2**28} if rng.random() < 0.7 else {273: 8, 278: side, 279: 2**28}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    file.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4))


def alter_tensors(file: Path, rng: random.Random) -> None:
    """A checkpoint in which something is a tensor of a few bytes that says it is huge."""
    content = torch.load(file, weights_only=True)
    places = [(content, key) for key in content] + [(content["config"], key) for key in content["config"]]
    places += [(content["model_state_dict"], key) for key in content["model_state_dict"]]
    place, key = rng.choice(places)
    shape = rng.choice(((10**9,), (10**5, 10**5), (10**4,) * 3))
    place[key] = torch.zeros((1,) * len(shape), dtype=rng.choice((torch.int64, torch.float32))).expand(*shape)
    torch.save(content, file)


def swap_images(file: Path, rng: random.Random) -> None:
    """Two files change names; sizes and times are made alike."""
    other = file.with_suffix(rng.choice((".bmp", ".gif", ".tif")))
    content = file.read_bytes()
    file.write_bytes(other.read_bytes())
    other.write_bytes(content)
    for one in (file, other):
        os.utime(one, ns=(10**18, 10**18))


def leave_beside(file: Path, rng: random.Random) -> None:
    """What another database, or a kill, may leave beside a database and where its copy is to be."""
    for name in ("optuna.db", "copy.db"):
        for ending in rng.sample(("-wal", "-shm", "-journal"), rng.randrange(3)):
            file.with_name(name + ending).write_bytes(rng.randbytes(rng.choice((0, 32, 4096, 40_000))))


ALTER: dict[str, Callable[[Path, random.Random], None]] = {
    "scans of x.jpg": alter_scans,
    "tiles of x.tif": alter_tiles,
    "tensors of model.pth": alter_tensors,
    "swapped images": swap_images,
    "left beside a copy": leave_beside,
}
"""Cases that are changed on purpose."""


def run_case(
    name: str, file: Path, command: Command, whole: Path, place: Path, rng: random.Random
) -> tuple[str | None, int]:
    """What went wrong, None when nothing did; and the most memory, in bytes."""
    case = place / "case"
    shutil.rmtree(case, ignore_errors=True)
    shutil.copytree(whole, case)
    target = case / file.relative_to(whole)
    if name in ALTER:
        ALTER[name](target, rng)
    elif name.startswith("attributes"):
        alter_attributes(target, rng)
    else:
        target.write_bytes(mutated(file.read_bytes(), rng))
    if target.parent.name == "model" and target.suffix != ".pth" and rng.random() < 0.8:
        with_fitting_hashes(target.parent)
    before = {path.name for path in place.iterdir()}
    with tempfile.TemporaryFile() as said:
        code, memory = forked(command(case), case, said, SLIDE_SECONDS if name.startswith("slide") else SECONDS)
        said.seek(0)
        words = said.read()
    outside = {path.name for path in place.iterdir()} - before
    return _wrong(code, words, outside=bool(outside)), memory


def _wrong(code: int | None, words: bytes, *, outside: bool) -> str | None:
    if code is None:
        return "hang"
    if outside:
        return "files outside"
    if b"Traceback" in words:
        lines = words.decode(errors="replace").strip().splitlines()
        return f"traceback: {lines[-1][:100]}"
    if code not in (0, 1, 2):
        return f"exit code {code}"
    if b"\x1b" in words:
        return "control characters"
    return None


def forked(words: list[str], folder: Path, said: BinaryIO, seconds: float) -> tuple[int | None, int]:
    """The command's exit code, None when it hangs; and its most memory, with that of what it started, in bytes.

    It runs in a fork of this process, which has imported everything.
    """
    child = os.fork()
    if child == 0:
        _become(words, folder, said)
    end = time.monotonic() + seconds
    ended = status = memory = 0
    looked = 0.0
    while not ended and time.monotonic() < end:
        if time.monotonic() > looked + 0.1:
            memory, looked = max(memory, group_memory(child)), time.monotonic()
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # with what it has started
    if not ended:
        os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) if ended else None, memory


def group_memory(group: int) -> int:
    """Return the memory of a group of processes, in bytes: what several share is counted once in all."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(process.name)) == group:
                lines = (process / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
        except OSError:
            continue
    return total


def _become(words: list[str], folder: Path, said: BinaryIO) -> NoReturn:
    """Run a command in this process, which ends with it."""
    code = 70
    try:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30))
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        sys.argv = ["study", *words]
        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="where the folders of cases that went wrong are kept")
    parser.add_argument("--only", default="", help="kinds whose name begins with this word")
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    wrong: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    most: Counter[str] = Counter()
    end = time.monotonic() + given.seconds
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        targets = seeds(place)
        names = [name for name in sorted(targets) if name.startswith(given.only)]
        for number in range(given.cases):
            if time.monotonic() > end:
                break
            rng = random.Random(f"{given.seed} {number}")
            name = names[number % len(names)]
            tried[name] += 1
            reason, memory = run_case(name, *targets[name], place / "whole", place, rng)
            most[name] = max(most[name], memory)
            if reason:
                wrong[f"{name}: {reason}"] += 1
                print(f"case {number}: {name}: {reason}", file=sys.stderr, flush=True)
                if given.keep:
                    shutil.copytree(place / "case", given.keep / f"{number}", dirs_exist_ok=True)
    print(f"{sum(tried.values())} cases, seed {given.seed}, {os.cpu_count()} cores: {sum(wrong.values())} went wrong")
    print("  " + ", ".join(f"{name} {count} ({most[name] >> 20} MB)" for name, count in sorted(tried.items())))
    for what, count in wrong.most_common():
        print(f"{count:6} {what}")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
