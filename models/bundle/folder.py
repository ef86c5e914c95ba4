"""A trained network on disk: a folder that runs without this project, and the way back.

Whoever uses the folder elsewhere takes `model.onnx` or `model.pt2`, which hold everything from uint8 pixels to
calibrated probabilities. This program itself loads the safetensors only: data, never code.
"""

import copy
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import nn

from models import ModelError, files
from models.architecture import Architecture, BackboneConfig, CNNConfig, plain_blocks
from models.bundle import export
from models.bundle.card import Card, Format, Kind, parsed
from models.bundle.predictor import Bundle, Predictor
from models.bundle.readable import markdown
from models.bundle.reference import IMAGENET, checkpoint, read_checkpoint
from models.cnn import CNN, fill
from models.scores.views import AS_IT_IS, View

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "card.json"
PROGRAM, ONNX, CHECKPOINT = "model.pt2", "model.onnx", "model.pth"
EXAMPLE, READABLE, SEEN = "example.py", "MODEL_CARD.md", "seen.txt"

FILES = (WEIGHTS, CONFIG, PROGRAM, ONNX, CHECKPOINT, EXAMPLE, READABLE, SEEN)
"""What the card lists with hashes; the report beside them is no part of the model."""

SEEN_DIGITS = 16
"""64 bits of a hash: of a million images and a million others, none is taken for another one by chance."""

RUNNABLE = (
    ".safetensors",
    ".pt2",
    ".onnx",
    ".pth",
    ".pt",
    ".pkl",
    ".py",
    ".pyc",
    ".so",
    ".pyd",
    ".dll",
    ".dylib",
    ".zip",
)
"""Endings of files that somebody might take for the model or run; only those that the card lists may be there."""


def save(
    directory: Path,
    model: CNN,
    config: Architecture,
    card: Kind,
    images: NDArray[np.uint8],
    seen: Iterable[str] = (),
    *,
    timed: bool = True,
) -> Kind:
    """Write the model in all its formats, an example and the card; returns the card as written.

    `seen`: SHA-256 of each image file that the model, or what was decided about it, has seen.

    The card goes last, with the hash of each file, so that a folder whose writing was cut off is noticed. Every format
    is compared with `model`, in full precision on the CPU, on some uint8 `images` [N, S, S, 3], and `timed`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    digest = save_weights(directory / WEIGHTS, model)
    files.write_json(directory / CONFIG, asdict(config))
    loaded = _predictor(load_weights(directory / WEIGHTS, config), card)
    trained = _predictor(copy.deepcopy(model).cpu().float(), card)
    expected = export.run_module(trained)(images)
    formats = {WEIGHTS: export.described(export.run_module(loaded), expected, images, timed=timed)}
    formats |= _export(directory, loaded, expected, images, timed=timed)
    once = _predictor(loaded.model, card, AS_IT_IS)
    if loaded.views != AS_IT_IS:
        speed = export.speed(export.run_module(once), images) if timed else []
        formats[WEIGHTS] = formats[WEIGHTS].model_copy(update={"one_view_cpu": speed})
        expected = export.run_module(_predictor(trained.model, card, AS_IT_IS))(images)
    formats |= _as_checkpoint(directory, once, config, card, expected, images)
    files.write(directory / EXAMPLE, Path(export.__file__).with_name(EXAMPLE).read_bytes())
    _write_seen(directory / SEEN, seen)
    card = card.model_copy(update={"weights_sha256": digest, "formats": formats})
    files.write(directory / READABLE, markdown(card).encode())
    hashes = {name: files.file_hash(directory / name) for name in FILES if (directory / name).exists()}
    card = card.model_copy(update={"files": hashes})
    raw = card.model_dump(mode="json")
    files.write_json(directory / CARD, {**raw, "card_sha256": card_hash(raw)})
    return card


def _predictor(model: CNN, card: Card, views: tuple[View, ...] | None = None) -> Predictor:
    """With the card's views, unless others are given."""
    given = card.preprocessing
    return Predictor(model, given.mean, given.std, card.temperature, views or given.views).eval().requires_grad_(False)


def _export(
    directory: Path, predictor: Predictor, expected: NDArray[np.float32], images: NDArray[np.uint8], *, timed: bool
) -> dict[str, Format]:
    """Write the program and the ONNX model; what the card says of each."""
    exported = export.program(predictor, images.shape[1])
    formats = {}
    for name, convert, loaded in (
        (PROGRAM, export.program_bytes, export.run_program),
        (ONNX, export.onnx_bytes, export.run_onnx),
    ):
        content = convert(exported)
        files.write(directory / name, content)
        formats[name] = export.described(loaded(content), expected, images, timed=timed)
    return formats


def _as_checkpoint(
    directory: Path,
    predictor: Predictor,
    config: Architecture,
    card: Card,
    expected: NDArray[np.float32],
    images: NDArray[np.uint8],
) -> dict[str, Format]:
    """Write the reference's layout where it can describe the network, else remove an earlier model's.

    The predictor and what is expected are those of one view.
    """
    content = checkpoint(predictor.model, config, card)
    if content is None:
        (directory / CHECKPOINT).unlink(missing_ok=True)
        return {}
    files.write(directory / CHECKPOINT, content)
    read = export.run_module(load_reference(directory / CHECKPOINT).predictor)
    note = "" if card.preprocessing.views == AS_IT_IS else "one view only: its layout has no place for several"
    return {CHECKPOINT: Format(max_difference=export.compare(read, expected, images), note=note)}


def _write_seen(file: Path, seen: Iterable[str]) -> None:
    """The beginning of each hash, a line each and sorted; no file where nothing is known."""
    lines = sorted({f"{digest[:SEEN_DIGITS]}\n" for digest in seen})
    if lines:
        files.write(file, "".join(lines).encode())
    else:
        file.unlink(missing_ok=True)


def seen_images(directory: Path) -> frozenset[str] | None:
    """The first SEEN_DIGITS of the SHA-256 of each file that a model has seen; None where its folder does not say.

    Raises ModelError as `load` does.
    """
    if not directory.is_dir() or SEEN not in read_card(directory, Card).files:
        return None
    return frozenset(_text(directory / SEEN).decode().split())


def save_weights(file: Path, model: nn.Module) -> str:
    """Write the state dict as safetensors, atomically; returns the file's SHA-256."""
    content = save_tensors({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()})
    files.write(file, content)
    return hashlib.sha256(content).hexdigest()


def card_hash(raw: dict[str, JsonValue]) -> str:
    """Hash everything in a card's JSON but this hash."""
    content = {key: value for key, value in raw.items() if key != "card_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load(path: Path) -> Bundle:
    """Load a model folder written by `save`, or a checkpoint (.pth) in the reference's layout.

    Raises ModelError when there is none, or when it is torn, altered or foreign. Nothing is ever unpickled but
    tensors and plain containers.
    """
    if path.is_dir():
        return _load_folder(path)
    if path.is_file():
        return load_reference(path)
    raise ModelError(f"no such model: {path} (give a model folder, such as runs/NAME/model, or a .pth file)")


def load_reference(path: Path) -> Bundle:
    """Load a checkpoint in the reference's layout. Raises ModelError."""
    model, config, classes = read_checkpoint(path)
    predictor = Predictor(model, IMAGENET["mean"], IMAGENET["std"], temperature=1.0)
    return Bundle(predictor=predictor.eval(), classes=classes, image_size=config.image_size)


def _load_folder(path: Path) -> Bundle:
    try:
        card = read_card(path, Card)
        config = _read_config(path / CONFIG)
        if (config.image_size, config.num_classes) != (card.preprocessing.size, len(card.classes)):
            raise ModelError(f"{path}: {CONFIG} and {CARD} describe different networks")
        predictor = _predictor(load_weights(path / WEIGHTS, config), card)
    except FileNotFoundError as error:
        raise ModelError(f"no model in {path}: {Path(error.filename).name} is missing") from error
    except (OSError, RuntimeError, ValidationError) as error:
        raise ModelError(f"{path} is not a model folder of this program ({type(error).__name__}: {error})") from error
    return Bundle(predictor=predictor, classes=card.classes, image_size=config.image_size, card=card)


MOST_TEXT, MOST_BYTES = 2**24, 2**33
"""Bytes of a card or a configuration, and of a file with weights."""


def _text(file: Path) -> bytes:
    """The content of a regular file of no absurd size. Raises FileNotFoundError and ModelError."""
    size = file.stat().st_size
    if not file.is_file() or size > MOST_TEXT:
        raise ModelError(f"{file} is not a file of this program ({size:,} bytes)")
    return file.read_bytes()


def _read_config(file: Path) -> Architecture:
    """The architecture; folders of earlier versions describe plain blocks by two lists."""
    raw = TypeAdapter(dict[str, JsonValue]).validate_json(_text(file))
    if "backbone" in raw:
        return TypeAdapter(BackboneConfig).validate_python(raw)
    if "blocks" not in raw:
        lists = TypeAdapter(tuple[tuple[int, ...], tuple[int, ...]]).validate_python(
            (raw.pop("filters", ()), raw.pop("kernel_sizes", ()))
        )
        raw["blocks"] = [asdict(block) for block in plain_blocks(*lists)]
    return TypeAdapter(CNNConfig).validate_python(raw)


def read_card(directory: Path, kind: type[Kind]) -> Kind:
    """The card of a model folder whose files are as it says.

    Raises FileNotFoundError where there is none, and ModelError for an altered, foreign or incomplete folder, and for a
    card of another version.
    """
    content = _text(directory / CARD)
    try:
        raw = TypeAdapter(dict[str, JsonValue]).validate_python(json.loads(content))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{directory} is not a model folder of this program ({CARD} is no JSON object)") from error
    early = "files" not in raw  # of a version that exported weights alone, and listed nothing
    listed = {WEIGHTS: raw.get("weights_sha256")} if early else raw["files"]
    if not isinstance(listed, dict) or None in listed.values() or WEIGHTS not in listed:
        raise ModelError(f"{directory} is not a model folder of this program ({CARD} lists no files)")
    _check_files(directory, {str(name): str(digest) for name, digest in listed.items()}, alone=early)
    if "files" in raw and raw.get("card_sha256") != card_hash(raw):
        raise ModelError(f"{directory / CARD} was altered since it was written (its own hash does not fit)")
    try:
        return parsed(raw, kind)
    except ModelError as error:
        raise ModelError(f"{directory} cannot be read: {error}") from error


def _check_files(directory: Path, listed: dict[str, str], *, alone: bool) -> None:
    """Compare a model folder with what its card lists: ModelError for a missing, altered or foreign file.

    alone: other files are none of its business.
    """
    for name, digest in listed.items():
        if not (directory / name).is_file():
            raise ModelError(f"no model in {directory}: {name} is missing (copy or export the whole folder again)")
        if (size := (directory / name).stat().st_size) > MOST_BYTES:
            raise ModelError(f"{directory / name} is not a file of this program ({size:,} bytes)")
        if files.file_hash(directory / name) != digest:
            raise ModelError(f"{directory / name} is not the file that {CARD} describes (altered, or half-written)")
    if alone:
        return
    # A folder beside example.py would be a module: numpy/ in place of numpy.
    found = sorted(
        file.name
        for file in directory.iterdir()
        if file.suffix.lower() in RUNNABLE
        or (file.name.isidentifier() and file.name != "__pycache__" and file.is_dir())
    )
    if foreign := [name for name in found if name not in listed]:
        raise ModelError(
            f"{directory} holds {foreign[0]}, which {CARD} does not list (remove it, or keep it elsewhere)"
        )


def is_whole(directory: Path) -> bool:
    """Whether a folder has every format, each as its card describes it."""
    try:
        return bool(read_card(directory, Card).files)
    except (OSError, ModelError):
        return False


def load_weights(file: Path, config: Architecture) -> CNN:
    """The network of `config` with the weights of a safetensors file; ModelError when they do not fit."""
    try:
        return fill(config, load_file(file), file.stat().st_size)
    except (SafetensorError, RuntimeError, ModelError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{file} does not fit its architecture ({reason})") from error
