"""See gpu_check.sh, which starts this."""

import argparse
import copy
import json
import multiprocessing
import os
import platform
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
import torch

from data import batches as pixels_on_device
from data.augment import Augment
from data.batches import DeviceImages, Normalisation, eval_batches, to_device, train_batches
from data.public import tissue
from models.architecture import CNNConfig, plain_blocks
from models.bundle import folder as bundle
from models.bundle.export import run_onnx
from models.bundle.reference import IMAGENET
from models.cnn import build_cnn, prepare
from models.memory import OutOfMemoryError, in_words, total_bytes
from models.scores.evaluation import predict_logits
from models.training import graph as training_graph
from models.training.learner import make_learner
from models.training.loop import evaluate, fit
from models.training.recipe import TrainConfig
from models.training.step import Batch
from study.attributes import REPLAY_DIFFERS
from study.cli import main as study_command
from study.cli.habits import versions
from study.cli.options import choose_devices
from study.cli.options import in_words as devices_in_words
from study.config.presets import REFERENCE_AUGMENT
from study.training import start

SCRIPTS = Path(__file__).resolve().parent
COMMANDS = multiprocessing.get_context("forkserver")


class WrongError(Exception):
    """What was seen is not what must be."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is done."""

    said: str
    pixels: int  # of what is timed
    batches: tuple[int, ...]
    patience: float  # see bench/training.py
    images: int  # of the published work; 0: as many as WHOLE_SECONDS allow
    trials: int
    epochs: int
    hours: float  # of the study on generated images
    few: tuple[str, ...] = ()  # options that end it earlier
    shared: tuple[int, int, int] = (12, 6, 2000)  # trials, epochs and images of the search by several workers
    crews: tuple[int, ...] = (1, 2, 4)


FULL = Sizes(said="", pixels=128, batches=(16, 64, 256), patience=5.0, images=0, trials=15, epochs=15, hours=0.02)
SMALL = Sizes(
    said="No CUDA device: this is a small run on the processor, and says nothing of a GPU.",
    pixels=32,
    batches=(16,),
    patience=0.5,
    images=60,
    trials=8,
    epochs=5,
    hours=0.01,
    shared=(4, 2, 60),
)
TINY = Sizes(
    said="Tiny, for a test: the figures mean nothing.",
    pixels=32,
    batches=(4,),
    patience=0.1,
    images=40,
    trials=1,
    epochs=2,
    hours=0.0075,
    few=("--trials", "2"),
    shared=(2, 1, 40),
    crews=(1, 2),
)
WHOLE_SECONDS = 70.0
"""For the published work without pruning on a GPU; Hyperband and the final training come on top."""


# ---- does it work? ----------------------------------------------------------------------------------------------


def check(seen: bool, words: str) -> None:
    """Raises WrongError with what was expected."""
    if not seen:
        raise WrongError(words)


def network(pixels: int, *filters: int, head: Literal["flatten", "gap"] = "flatten") -> CNNConfig:
    return CNNConfig(
        num_classes=2,
        image_size=pixels,
        blocks=plain_blocks(filters, (3,) * len(filters)),
        batch_norm=False,
        conv_dropout=0.0,
        dense_units=(),
        dense_dropout=0.0,
        head=head,
    )


def one_batch(device: torch.device, count: int, pixels: int) -> Callable[[], Iterator[Batch]]:
    """Return a batch that is always the same, the second class brighter than the first."""

    def batches() -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(3)
        y = torch.arange(count) % 2
        x = torch.randn(count, 3, pixels, pixels, generator=generator) + y.view(-1, 1, 1, 1)
        yield x.to(device).contiguous(memory_format=torch.channels_last), y.to(device)

    return batches


def number_types(device: torch.device, _: Path) -> str:
    """Training multiplies in bfloat16 on CUDA and in float32 elsewhere, learns, and evaluates as the processor does."""
    torch.manual_seed(0)
    model = prepare(build_cnn(network(32, 16, 32)), device)
    kinds: set[torch.dtype] = set()
    model.register_forward_hook(lambda *given: kinds.add(given[-1].dtype))
    recipe = TrainConfig(epochs=8, learning_rate=0.01)
    learner, batches = make_learner(model, recipe), one_batch(device, 64, 32)
    losses = [result.train_loss for result in fit(learner, recipe, batches, 1, batches, 0)]
    wanted = torch.bfloat16 if device.type == "cuda" else torch.float32
    check(kinds == {wanted}, f"the network gave {kinds}, not {wanted}")
    check(losses[-1] < 0.5 * losses[0], f"the loss went from {losses[0]:.3f} to {losses[-1]:.3f} only")
    loss = evaluate(learner, batches())[0]
    there = make_learner(prepare(copy.deepcopy(model), torch.device("cpu")), recipe)
    elsewhere = evaluate(there, one_batch(torch.device("cpu"), 64, 32)())[0]
    check(abs(loss - elsewhere) < 0.02, f"loss {loss:.4f}, and {elsewhere:.4f} on the processor")
    return f"{str(wanted).removeprefix('torch.')}; loss {losses[0]:.2f} to {losses[-1]:.2f} in 8 steps"


def noise(device: torch.device, count: int, pixels: int, images_on: str = "") -> DeviceImages:
    """Images of noise, the second class brighter."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(count) % 2
    images = torch.randint(0, 200, (count, pixels, pixels, 3), dtype=torch.uint8, generator=generator)
    images += (20 * labels).to(torch.uint8).view(-1, 1, 1, 1)
    return DeviceImages(images.to(images_on or device), labels.to(device), Normalisation(**IMAGENET))


def graph(device: torch.device, _: Path) -> str:
    """A step replayed as a graph gives the same as one by one, with dropout and a rate that changes."""
    images = noise(device, 256, 64)
    every, augment = torch.arange(256, device=device), Augment(**REFERENCE_AUGMENT)
    architecture = replace(network(64, 16, 32, 64), conv_dropout=0.1, dense_units=(64,), dense_dropout=0.3)
    recipe = TrainConfig(epochs=4, learning_rate=0.003, schedule="plateau")

    def trained(warm: int) -> tuple[list[float], list[torch.Tensor], float]:
        """Losses, weights, and milliseconds of a step."""
        torch.manual_seed(0)
        learner = make_learner(prepare(build_cnn(architecture), device), recipe)
        with patch(training_graph, "WARM", warm), results_of(training_graph, "_captured") as captured:
            checked = partial(eval_batches, images, every, 256)
            found = list(fit(learner, recipe, partial(train_batches, images, every, 16, augment), 16, checked, 0))
        json.dumps(learner.state()[1])  # as a checkpoint has it
        wanted = device.type == "cuda" and warm < sys.maxsize
        check([one is not None for one in captured] == [True] * wanted, f"graphs: {captured}")
        losses = [epoch.train_loss for epoch in found]
        return losses, list(learner.model.state_dict().values()), 1000 * found[-1].seconds / 16  # with the validation

    eager, first, second = (trained(warm) for warm in (sys.maxsize, training_graph.WARM, training_graph.WARM))
    said = [f"{eager[2]:.2f} ms a step one by one, {first[2]:.2f} ms as a graph"]
    for name, other in (("one by one", eager), ("a second run", second)):
        apart = max(abs(a - b) for a, b in zip(other[0], first[0], strict=True))
        same = all(torch.equal(a, b) for a, b in zip(other[1], first[1], strict=True))
        said.append(f"{name}: losses differ by {apart:.0e}, {'the same' if same else 'other'} bits")
        check(apart < 0.02, said[-1])
    return "; ".join(said)


@contextmanager
def patch(module: Any, name: str, value: Any) -> Iterator[None]:
    """Another value for a moment."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextmanager
def results_of(module: Any, name: str) -> Iterator[list[Any]]:
    """What a function returned, each time that it was called."""
    returned: list[Any] = []
    work = getattr(module, name)

    def watched(*given: Any) -> Any:
        returned.append(work(*given))
        return returned[-1]

    with patch(module, name, watched):
        yield returned


def host_memory(device: torch.device, _: Path) -> str:
    """Images that a device has no room for stay in the processor's memory, and give the same batches."""
    there, elsewhere = noise(device, 600, 64), noise(device, 600, 64, "cpu")
    every, augment = torch.arange(600, device=device), Augment(**REFERENCE_AUGMENT)
    batches = []
    for pixels in (there, elsewhere):
        torch.manual_seed(0)
        batches.append([*train_batches(pixels, every, 32, augment), *eval_batches(pixels, every, 256)])
    same = all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(*batches, strict=True))
    check(same, "batches differ")
    few = np.zeros((10, 8, 8, 3), np.uint8), np.zeros(10, np.int64)
    with patch(pixels_on_device, "SHARE", 0.0):
        kept = to_device(*few, device, there.normalisation).images.device.type
    check(kept == "cpu", f"images that do not fit are on {kept}")
    check(to_device(*few, device, there.normalisation).images.device.type == device.type, "images that fit elsewhere")
    return f"{len(batches[0])} batches the same to the bit"


@contextmanager
def memory_limit(device: torch.device, count: int) -> Iterator[None]:
    """No more than so many bytes beyond what is used now."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        share = (torch.cuda.memory_reserved(device) + count) / total_bytes(device)
        torch.cuda.set_per_process_memory_fraction(share, device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def out_of_memory(device: torch.device, _: Path) -> str:
    """A batch that does not fit is trained and scored in parts, an image and a network that do not fit are refused."""
    torch.manual_seed(0)
    model = build_cnn(network(128, 64))
    recipe = TrainConfig(epochs=1, learning_rate=0.01, optimizer="sgd")
    whole, parts = (make_learner(prepare(copy.deepcopy(model), device), recipe) for _ in range(2))
    batches = one_batch(device, 128, 128)
    (first,) = fit(whole, recipe, batches, 1, None, 0)
    check(whole.micro_batch is None, "a batch of 128 images did not fit without any limit")
    with memory_limit(device, 600 * 2**20):
        (second,) = fit(parts, recipe, batches, 1, None, 0)
    check(parts.micro_batch is not None, "a batch fitted that should not")
    check(abs(first.train_loss - second.train_loss) < 0.02, f"losses {first.train_loss} and {second.train_loss}")
    at_once = predict_logits(whole.model, batches())
    with memory_limit(device, 600 * 2**20):
        in_parts = predict_logits(whole.model, batches())
    check(np.allclose(at_once, in_parts, atol=1e-3), "logits that were computed in parts differ")
    large = make_learner(prepare(build_cnn(network(2048, 512, head="gap")), device), recipe)
    with memory_limit(device, 3 * 2**30), suppress(OutOfMemoryError):
        next(fit(large, recipe, one_batch(device, 2, 2048), 1, None, 0))
        raise WrongError("an image of 2048 px with 512 channels fitted 3 GB")
    with suppress(OutOfMemoryError):
        start._refuse_what_cannot_fit(network(2**14, *(512,) * 3), device)
        raise WrongError("a network was not refused that cannot fit")
    return f"{in_words(total_bytes(device))}; 128 images at once, under a limit {parts.micro_batch}"


def study(words: Sequence[object], place: Path, log: str = "log") -> Any:
    """Start `study WORDS` in a folder; what it says is added to a file there."""
    process = COMMANDS.Process(target=_study, args=(tuple(map(str, words)), str(place), log))
    process.start()
    return process


def _study(words: tuple[str, ...], place: str, log: str) -> None:
    os.chdir(place)
    with Path(log).open("a") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
    sys.argv = ["study", *words]
    study_command()


def ended(process: Any, place: Path, log: str = "log") -> str:
    """What the command said. Raises WrongError when it failed."""
    process.join()
    said = (place / log).read_text()
    check(process.exitcode == 0, f"exit code {process.exitcode}: {' / '.join(said.splitlines()[-3:])}")
    return said


def small(device: object, images: Path, *more: object) -> list[object]:
    """The words of a small study."""
    few = {"trials": 8, "epochs": 4, "final_epochs": 4, "checkpoint_seconds": 0, "pretrained": "false"}
    narrow = {"image_size": 24, "space.base_filters": 8, "space.filters_multiplier": 1}
    settings = [word for name, value in {**few, **narrow}.items() for word in ("--set", f"{name}={value}")]
    return ["run", "--preset", "quick", "--data", images, "--name", "s", "--device", device, *settings, *more]


def trials(place: Path) -> list[optuna.trial.FrozenTrial]:
    """All must have ended, and each epoch been reported once."""
    found = optuna.load_study(study_name="s", storage=f"sqlite:///{place}/optuna.db").trials
    check([trial.number for trial in found] == list(range(8)), f"{len(found)} trials, not 8")
    for trial in found:
        check(trial.state.is_finished(), f"trial {trial.number} has not ended")
        epochs = sorted(trial.intermediate_values)
        check(epochs == list(range(1, len(epochs) + 1)), f"epochs {epochs} of trial {trial.number}")
    return found


def resuming(device: torch.device, place: Path) -> str:
    """A study that was killed twice gives what an undisturbed one gives; on CUDA, where sums differ, as many trials."""
    alone, killed = place / "alone", place / "killed"
    for folder in (alone, killed):
        folder.mkdir()
    words = small(device, place.parent / "images")
    ended(study(words, alone), alone)
    kills = 0
    for epochs in (4, 12):
        process = study(words, killed)
        while process.exitcode is None and reports(killed) < epochs:
            process.join(0.01)
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    ended(study(words, killed), killed)
    same = sum(
        (one.params, one.intermediate_values) == (other.params, other.intermediate_values)
        for one, other in zip(trials(alone), trials(killed), strict=True)
    )
    check(device.type == "cuda" or same == 8, f"{same} of 8 trials are the same after {kills} kills")
    differing = sum(REPLAY_DIFFERS in trial.user_attrs for trial in trials(killed))
    return f"{kills} kills; {same} of 8 trials the same to the bit, {differing} say that an epoch came out otherwise"


def reports(place: Path) -> int:
    with suppress(sqlite3.Error), sqlite3.connect(f"file:{place}/optuna.db?mode=ro", uri=True) as database:
        return int(database.execute("SELECT count(*) FROM trial_intermediate_values").fetchone()[0])
    return 0


def workers(device: torch.device, place: Path) -> str:
    """Two workers on one device, and one on each where there are several: every trial once."""
    chosen = {"two": str(device)}
    if torch.cuda.device_count() > 1:
        chosen["several"] = "cuda"
    for name, devices in chosen.items():
        folder = place / name
        folder.mkdir()
        count = max(2, torch.cuda.device_count() if name == "several" else 0)
        ended(study(small(devices, place.parent / "images", "--workers", count), folder), folder)
        trials(folder)
    return f"8 trials, none twice ({', '.join(f'{name} on {devices}' for name, devices in chosen.items())})"


def export(device: torch.device, place: Path) -> str:
    """A model trained on the device gives the same there, on the processor and as ONNX; all commands use the device."""
    folder = place / "s"
    shutil.copytree(place.parent / "resuming" / "alone", folder)
    model, images = folder / "runs" / "s" / "model", place.parent / "images"
    some = sorted(images.rglob("*.jpeg"))[:40]
    found = []
    for where, log in (("cpu", "processor"), (device, "device")):
        command = study(["predict", model, *some, "--json", "--device", where], folder, log)
        rows = json.loads(ended(command, folder, log))
        check([Path(row["path"]) for row in rows] == some, "rows in another order")
        found.append(np.array([list(row["probabilities"].values()) for row in rows]))
    apart = float(np.abs(found[0] - found[1]).max())
    check(apart < 1e-4, f"probabilities differ by {apart} from the processor's")
    loaded = bundle.load(model)
    noise = np.random.default_rng(0).integers(0, 256, (8, loaded.image_size, loaded.image_size, 3), dtype=np.uint8)
    onnx = run_onnx((model / "model.onnx").read_bytes())(noise)
    there = loaded.to(device).predict(noise)
    exported = float(np.abs(onnx - there).max())
    check(exported < 1e-4, f"probabilities differ by {exported} from ONNX's")
    ended(study(["predict", model, *some[:3], "--explain", "seen", "--device", device], folder, "heat"), folder, "heat")
    check(len(list((folder / "seen").glob("*.png"))) == 3, "no heat maps")
    ended(study(["evaluate", model, images, "--device", device], folder, "scores"), folder, "scores")
    return f"device and processor differ by {apart:.0e}, device and ONNX by {exported:.0e}"


CHECKS: tuple[tuple[Callable[[torch.device, Path], str], tuple[str, ...]], ...] = (
    (number_types, ("models.training.step.autocast", "models.training.step.exact")),
    (
        graph,
        (
            "data.batches._at_once",
            "models.training.graph.Steps.__init__",
            "models.training.graph.Steps._warming",
            "models.training.graph._Graph.__init__",
            "models.training.graph._captured",
        ),
    ),
    (host_memory, ("data.batches.to_device",)),
    (
        out_of_memory,
        (
            "models.training.step.fitting",
            "models.scores.evaluation._as_many_as_fit",
            "models.memory.total_bytes",
            "study.training.start._refuse_what_cannot_fit",
        ),
    ),
    (resuming, ("study.training.workspace.versions",)),
    (
        workers,
        ("study.search.devices.named", "study.search.devices.environment_for_device", "study.search.local._live"),
    ),
    (
        export,
        (
            "models.cnn._HalvingPool.forward",
            "models.precision.full_precision",
            "study.use.ahead.gpu_lock",
            "study.cli.options.choose_devices",
        ),
    ),
)
"""The checks, each with the functions of the program whose branch for CUDA it goes through."""

ELSEWHERE = {
    "study.budget.measure._image_seconds": "the study by hours, below",
    "study.cli.options.in_words": "the first line of the table",
    "study.search.cluster.ray_actors": "not here: it needs a Ray cluster with GPUs",
}
"""Other functions that name CUDA, and where they are gone through."""


# ---- how fast is it? --------------------------------------------------------------------------------------------


def bench(*words: object) -> list[dict[str, Any]]:
    """The rows that `bench/training.py` prints as JSON."""
    command = [sys.executable, str(SCRIPTS / "bench" / "training.py"), "--json", *map(str, words)]
    rows: list[dict[str, Any]] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)["rows"]
    return rows


def speeds(sizes: Sizes) -> list[str]:
    """The corners of the published space."""
    rows = bench("--size", sizes.pixels, "--patience", sizes.patience, "--batches", *sizes.batches)
    rates = [row["GFLOP/s of a matrix product"] for row in rows]
    lines = [
        f"A matrix product makes {min(rates):,.0f} to {max(rates):,.0f} GFLOP/s. "
        f"Images of {sizes.pixels} px, `bench/training.py`:",
        "",
        "| network | batch | images/s | plain loop | ratio | of the matrix product | peak memory | 20,000 images |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "left out" in row:
            lines.append(f"| {row['network']} | {row['batch']} | left out: {row['left out']} | | | | | |")
            continue
        ours, plain = row["images per second"], row["plain"]
        lines.append(
            f"| {row['network']} | {row['batch']} | {ours:,.0f} | {plain:,.0f} | {ours / plain:.2f} | "
            f"{100 * row['share of the matrix rate']:.0f} % | {row['peak bytes'] / 2**30:.2f} GB | "
            f"{row['epoch seconds']:.1f} s |"
        )
    return lines


def whole(sizes: Sizes) -> list[str]:
    """The published work, on as many images as there is time for."""
    images = sizes.images
    if not images:
        (row,) = (row for row in bench("--batches", 64) if row["network"] == "published best")
        epochs = sizes.epochs * (sizes.trials + 2)
        images = max(200, min(20_000, int(20_000 * WHOLE_SECONDS / (epochs * row["epoch seconds"]))))
    rows = bench("--whole", images, "--size", sizes.pixels, "--trials", sizes.trials, "--epochs", sizes.epochs)
    lines = [
        f"The published work on {rows[0]['images']:,} generated images of {sizes.pixels} px: {sizes.trials} trials of "
        f"up to {sizes.epochs} epochs, then {2 * sizes.epochs} (`bench/training.py --whole`):",
        "",
        "| | epochs of the search | seconds in all |",
        "|---|---|---|",
    ]
    said = {"none": "every trial to its end", "hyperband": "Hyperband"}
    lines += [f"| {said[row['pruner']]} | {row['epochs']} | {row['seconds']:.1f} |" for row in rows]
    return lines


def crew(sizes: Sizes) -> list[str]:
    """The published search, small, by several workers on the one device."""
    trials, epochs, images = sizes.shared
    words = ["--whole", images, "--size", sizes.pixels, "--trials", trials, "--epochs", epochs, "--pruners", "none"]
    rows = bench(*words, "--workers", *sizes.crews)
    lines = [
        f"{trials} trials of {epochs} epochs on {rows[0]['images']:,} generated images of {sizes.pixels} px, by "
        "several workers on one device (`bench/training.py --whole --workers`; a worker's start is in it):",
        "",
        "| workers | epochs of the search | seconds of the search |",
        "|---|---|---|",
    ]
    return lines + [f"| {row['workers']} | {row['epochs']} | {row['search seconds']:.1f} |" for row in rows]


def by_hours(sizes: Sizes, device: torch.device, place: Path) -> list[str]:
    """`study run` on generated images, planned by the time it has."""
    place = place / "hours"
    images = tissue.generate(place / "tissue", sources=12, copies=6, size=sizes.pixels)
    begun = time.perf_counter()
    words = ["run", "--preset", "auto", "--data", images, "--name", "s", "--hours", sizes.hours, *sizes.few]
    ended(study([*words, "--device", device], place), place)
    seconds = time.perf_counter() - begun
    model = place / "runs" / "s" / "model"
    card = json.loads((model / "card.json").read_text())
    taken = {name: stage["taken"] for name, stage in json.loads((model / "times.json").read_text())["stages"].items()}
    stages = ", ".join(f"{name} {value:.0f} s" for name, value in taken.items() if value is not None)
    said = f"`study run --hours {sizes.hours}` on {12 * 6 * len(tissue.CLASSES)} of them: {seconds:.0f} s of "
    return [
        f"{said}{3600 * sizes.hours:.0f} s ({stages}); {card['study']['trials']} trials, test accuracy "
        f"{100 * card['test']['accuracy']:.1f} %."
    ]


class Report:
    """Lines on stdout as they come; what goes wrong is written down, and the rest is done all the same."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.begun = time.perf_counter()

    def seen(self, name: str, work: Callable[[], Any]) -> Any:
        """What the work gives, or in words what went wrong; on stderr, what is being done and for how long it was."""
        print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
        start = time.perf_counter()
        try:
            return work()
        except Exception as error:  # whatever it is on a device that nobody here has seen
            self.wrong.append(name)
            if not isinstance(error, WrongError):
                traceback.print_exc()
            return f"**wrong**: {type(error).__name__}: {' '.join(str(error).split())}"
        finally:
            print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)

    def check(self, name: str, work: Callable[[], str]) -> None:
        """A row of the table of checks."""
        start = time.perf_counter()
        seen = self.seen(name, work)
        print(f"| {name} | {seen} | {time.perf_counter() - start:.0f} |", flush=True)

    def lines(self, name: str, work: Callable[[], list[str]]) -> None:
        """A part below the table."""
        found = self.seen(name, work)
        print("", *([found] if isinstance(found, str) else found), sep="\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="gpu_check.sh", description="Whether all works on a CUDA GPU, and how fast.")
    parser.add_argument("--tiny", action="store_true", help="for a test")
    parts = [*(work.__name__ for work, _ in CHECKS), "speed", "whole", "crew", "hours"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, metavar="PART", help=", ".join(parts))
    given = parser.parse_args()
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    sizes = TINY if given.tiny else FULL if device.type == "cuda" else SMALL
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a processor"
    print(f"## On {name} (`scripts/gpu_check.sh`)\n")
    machine = f"{devices_in_words(choose_devices('auto'))}; {platform.machine()}"
    print(f"{date.today()}, {versions()}; {machine}, n = 1. {sizes.said}\n")
    print("| check | seen | seconds |\n|---|---|---|")
    COMMANDS.set_forkserver_preload(["study.cli", "study.cli.display"])  # which asks for no device
    report = Report()
    with tempfile.TemporaryDirectory() as place:
        tissue.generate(Path(place) / "images", sources=8, copies=3, size=48)
        for work, _ in CHECKS:
            if work.__name__ in given.only:
                folder = Path(place) / work.__name__
                folder.mkdir()
                report.check(work.__name__.replace("_", " "), partial(work, device, folder))
        for part, name, lines in (
            ("speed", "speed", partial(speeds, sizes)),
            ("whole", "the published work", partial(whole, sizes)),
            ("crew", "several workers", partial(crew, sizes)),
            ("hours", "a study by hours", partial(by_hours, sizes, device, Path(place))),
        ):
            if part in given.only:
                report.lines(name, lines)
    wrong = f"; wrong: {', '.join(report.wrong)}" if report.wrong else ""
    print(f"\nIn all {time.perf_counter() - report.begun:.0f} s{wrong}.")
    raise SystemExit(1 if report.wrong else 0)


if __name__ == "__main__":
    main()
