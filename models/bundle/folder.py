"""Saving a trained network as a folder that runs without this project, and loading such a folder.

Elsewhere, use `model.onnx` or `model.pt2`, which contain everything from uint8 pixels to calibrated probabilities. This
program itself loads only the safetensors file, which holds data and never code.
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
from models.bundle.card import Card, ExportedFile, Kind, parse_card
from models.bundle.predictor import Bundle, Predictor
from models.bundle.readable import markdown
from models.bundle.reference import IMAGENET, checkpoint, read_checkpoint
from models.cnn import CNN, fill
from models.cost import check_cost
from models.scores.views import AS_IT_IS, View

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "card.json"
PROGRAM, ONNX, CHECKPOINT = "model.pt2", "model.onnx", "model.pth"
EXAMPLE, READABLE, SEEN = "example.py", "MODEL_CARD.md", "seen.txt"

FILES = (WEIGHTS, CONFIG, PROGRAM, ONNX, CHECKPOINT, EXAMPLE, READABLE, SEEN)
"""Files that the card lists with their hashes; the report beside them is not part of the model."""

SEEN_DIGITS = 16
"""Hexadecimal digits of an image's hash that are kept: with 64 bits, none of a million images is mistaken by chance for
one of a million others."""

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
"""Suffixes of files that somebody might run or mistake for the model; the folder may hold only those that the card
lists."""


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
    """Write the model in all its formats, an example script and the card; return the card as written.

    `seen`: SHA-256 of each image file that was used to train the model or to decide anything about it.

    The card is written last, with the hash of each file, so that an incomplete folder is noticed. Every format is
    compared with `model`, in full precision on the CPU, on some uint8 `images` [N, S, S, 3]; with `timed` its speed is
    measured too.
    """
    directory.mkdir(parents=True, exist_ok=True)
    digest = save_weights(directory / WEIGHTS, model)
    files.write_json(directory / CONFIG, asdict(config))
    loaded = _predictor(load_weights(directory / WEIGHTS, config), card)
    trained = _predictor(copy.deepcopy(model).cpu().float(), card)
    expected = export.run_module(trained)(images)
    formats = {WEIGHTS: export.card_entry(export.run_module(loaded), expected, images, timed=timed)}
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
    """Make a predictor from a network and its card, with the views of the card unless others are given."""
    given = card.preprocessing
    return Predictor(model, given.mean, given.std, card.temperature, views or given.views).eval().requires_grad_(False)


def _export(
    directory: Path, predictor: Predictor, expected: NDArray[np.float32], images: NDArray[np.uint8], *, timed: bool
) -> dict[str, ExportedFile]:
    """Write the torch.export program and the ONNX model; return their entries for the card."""
    exported = export.program(predictor, images.shape[1])
    formats = {}
    for name, convert, loaded in (
        (PROGRAM, export.program_bytes, export.run_program),
        (ONNX, export.onnx_bytes, export.run_onnx),
    ):
        content = convert(exported)
        files.write(directory / name, content)
        formats[name] = export.card_entry(loaded(content), expected, images, timed=timed)
    return formats


def _as_checkpoint(
    directory: Path,
    predictor: Predictor,
    config: Architecture,
    card: Card,
    expected: NDArray[np.float32],
    images: NDArray[np.uint8],
) -> dict[str, ExportedFile]:
    """Write a checkpoint in the reference system's layout if that can describe the network, else remove an old one.

    `predictor` and `expected` are those of a single view. Returns the entry for the card, if there is one.
    """
    content = checkpoint(predictor.model, config, card)
    if content is None:
        (directory / CHECKPOINT).unlink(missing_ok=True)
        return {}
    files.write(directory / CHECKPOINT, content)
    read = export.run_module(load_reference(directory / CHECKPOINT).predictor)
    note = "" if card.preprocessing.views == AS_IT_IS else "one view only: its layout has no place for several"
    return {CHECKPOINT: ExportedFile(max_difference=export.compare(read, expected, images), note=note)}


def _write_seen(file: Path, seen: Iterable[str]) -> None:
    """Write the first digits of each hash, sorted, one per line; write no file if no hash is known."""
    lines = sorted({f"{digest[:SEEN_DIGITS]}\n" for digest in seen})
    if lines:
        files.write(file, "".join(lines).encode())
    else:
        file.unlink(missing_ok=True)


def seen_images(directory: Path) -> frozenset[str] | None:
    """Return the first SEEN_DIGITS digits of the SHA-256 of each image file that a model has seen (see `save`).

    None if its folder does not list them. Raises ModelError as `load` does.
    """
    if not directory.is_dir() or SEEN not in read_card(directory, Card).files:
        return None
    return frozenset(_text(directory / SEEN, MOST_SEEN).decode("ascii", "replace").split())


def save_weights(file: Path, model: nn.Module) -> str:
    """Write the state dict as a safetensors file, atomically; return the SHA-256 of the file."""
    content = save_tensors({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()})
    files.write(file, content)
    return hashlib.sha256(content).hexdigest()


def card_hash(raw: dict[str, JsonValue]) -> str:
    """Hash everything in a card's JSON except the field that holds this hash."""
    content = {key: value for key, value in raw.items() if key != "card_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load(path: Path) -> Bundle:
    """Load a model folder written by `save`, or a checkpoint (.pth) in the reference's layout.

    Raises ModelError if there is none, or if it is incomplete, altered or foreign. Only tensors and plain containers
    are ever unpickled.
    """
    if path.is_dir():
        return _load_folder(path)
    if path.is_file():
        return load_reference(path)
    raise ModelError(f"no such model: {path} (give a model folder, such as runs/NAME/model, or a .pth file)")


def load_reference(path: Path) -> Bundle:
    """Load a checkpoint in the reference system's layout. Raises ModelError if it cannot be read."""
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


MOST_TEXT, MOST_SEEN, MOST_BYTES = 2**24, 2**28, 2**33
"""Most bytes of a card or a configuration, of a list of seen images, and of any other file of the folder."""


def _text(file: Path, most: int = MOST_TEXT) -> bytes:
    """Read a regular file of at most `most` bytes. Raises FileNotFoundError, or ModelError if it is no such file."""
    size = file.stat().st_size
    if not file.is_file() or size > most:
        raise ModelError(f"{file} is not a file of this program ({size:,} bytes)")
    return file.read_bytes()


def _read_config(file: Path) -> Architecture:
    """Read the architecture from a configuration file; earlier versions describe plain blocks by two lists."""
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
    """Read the card of a model folder, after checking that the files are those that it lists.

    Raises FileNotFoundError if there is no card, and ModelError if the folder is altered, foreign or incomplete, or the
    card has another version.
    """
    content = _text(directory / CARD)
    try:
        raw = TypeAdapter(dict[str, JsonValue]).validate_python(json.loads(content))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{directory} is not a model folder of this program ({CARD} is no JSON object)") from error
    early = "files" not in raw  # written by a version that exported only weights and listed no files
    listed = {WEIGHTS: raw.get("weights_sha256")} if early else raw["files"]
    if not isinstance(listed, dict) or None in listed.values() or WEIGHTS not in listed:
        raise ModelError(f"{directory} is not a model folder of this program ({CARD} lists no files)")
    _check_files(directory, {str(name): str(digest) for name, digest in listed.items()}, alone=early)
    if "files" in raw and raw.get("card_sha256") != card_hash(raw):
        raise ModelError(
            f"{directory / CARD} was altered since it was written (its content does not match its own hash)"
        )
    try:
        return parse_card(raw, kind)
    except ModelError as error:
        raise ModelError(f"{directory} cannot be read: {error}") from error


def _check_files(directory: Path, listed: dict[str, str], *, alone: bool) -> None:
    """Compare the files of a folder with those that its card lists. Raises ModelError for a missing, altered or foreign
    file. With `alone`, files that are not listed are ignored."""
    for name, digest in listed.items():
        if Path(name).name != name:
            raise ModelError(f"{directory / CARD} lists {name!r}, which is no name of a file in this folder")
        if not (directory / name).is_file():
            raise ModelError(f"no model in {directory}: {name} is missing (copy or export the whole folder again)")
        if (size := (directory / name).stat().st_size) > MOST_BYTES:
            raise ModelError(f"{directory / name} is not a file of this program ({size:,} bytes)")
        if files.file_hash(directory / name) != digest:
            raise ModelError(f"{directory / name} is not the file that {CARD} describes (altered, or half-written)")
    if alone:
        return
    # Python would import a folder beside example.py as a module: numpy/ in place of numpy.
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
    """Return whether a folder is complete: every file that its card lists is there and unaltered."""
    try:
        return bool(read_card(directory, Card).files)
    except (OSError, ModelError):
        return False


def load_weights(file: Path, config: Architecture) -> CNN:
    """Load the network of `config` with the weights of a safetensors file. Raises ModelError if they do not fit."""
    try:
        check_cost(config)
        return fill(config, load_file(file), file.stat().st_size)
    except (SafetensorError, RuntimeError, ModelError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{file} does not fit its architecture ({reason})") from error
