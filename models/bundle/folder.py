"""A trained network on disk: a folder that runs without this project, and the way back.

Whoever uses the folder elsewhere takes `model.onnx` or `model.pt2`, which hold everything from uint8 pixels to
calibrated probabilities. This program itself loads the safetensors only: data, never code.
"""

import copy
import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import nn

from models import ModelError
from models.bundle import export
from models.bundle.predictor import Bundle, Predictor
from models.bundle.readable import markdown
from models.bundle.reference import IMAGENET, checkpoint, read_checkpoint
from models.cnn import CNN, CNNConfig, build_cnn

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "card.json"
PROGRAM, ONNX, CHECKPOINT = "model.pt2", "model.onnx", "model.pth"
EXAMPLE, READABLE = "example.py", "MODEL_CARD.md"

FILES = (WEIGHTS, CONFIG, PROGRAM, ONNX, CHECKPOINT, EXAMPLE, READABLE)
"""What the card lists with hashes; the report beside them is no part of the model."""

RUNNABLE = (".safetensors", ".pt2", ".onnx", ".pth", ".pt", ".pkl", ".py")
"""Endings of files that somebody might take for the model or run; only those that the card lists may be there."""


def save(
    directory: Path, model: CNN, config: CNNConfig, card: dict[str, Any], images: NDArray[np.uint8]
) -> dict[str, Any]:
    """Write the model in all its formats, an example and the card; returns the card as written.

    The card goes last, with the hash of each file, so that a folder whose writing was cut off is noticed. Every format
    is compared with `model`, in full precision on the CPU, on some uint8 `images` [N, S, S, 3], and timed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    digest = save_weights(directory / WEIGHTS, model)
    write_json(directory / CONFIG, asdict(config))
    loaded = _predictor(load_weights(directory / WEIGHTS, config), card)
    trained = _predictor(copy.deepcopy(model).cpu().float(), card)
    expected = export.run_module(trained)(images)
    formats = {WEIGHTS: export.described(export.run_module(loaded), expected, images)}
    formats |= _export(directory, loaded, expected, images)
    formats |= _as_checkpoint(directory, loaded, config, card, expected, images)
    write(directory / EXAMPLE, Path(export.__file__).with_name(EXAMPLE).read_bytes())
    card = {**card, "weights_sha256": digest, "formats": formats}
    write(directory / READABLE, markdown(card).encode())
    card["files"] = {name: file_hash(directory / name) for name in FILES if (directory / name).exists()}
    write_json(directory / CARD, {**card, "card_sha256": _card_hash(card)})
    written: dict[str, Any] = json.loads((directory / CARD).read_text())
    return written


def _predictor(model: CNN, card: dict[str, Any]) -> Predictor:
    preprocessing = card["preprocessing"]
    predictor = Predictor(model, preprocessing["mean"], preprocessing["std"], card["temperature"])
    return predictor.eval().requires_grad_(False)


def _export(
    directory: Path, predictor: Predictor, expected: NDArray[np.float32], images: NDArray[np.uint8]
) -> dict[str, dict[str, Any]]:
    """Write the program and the ONNX model; what the card says of each."""
    exported = export.program(predictor, images.shape[1])
    formats = {}
    for name, convert, loaded in (
        (PROGRAM, export.program_bytes, export.run_program),
        (ONNX, export.onnx_bytes, export.run_onnx),
    ):
        content = convert(exported)
        write(directory / name, content)
        formats[name] = export.described(loaded(content), expected, images)
    return formats


def _as_checkpoint(
    directory: Path,
    predictor: Predictor,
    config: CNNConfig,
    card: dict[str, Any],
    expected: NDArray[np.float32],
    images: NDArray[np.uint8],
) -> dict[str, dict[str, Any]]:
    """Write the reference's layout where it can describe the network, else remove an earlier model's."""
    content = checkpoint(predictor.model, config, card)
    if content is None:
        (directory / CHECKPOINT).unlink(missing_ok=True)
        return {}
    write(directory / CHECKPOINT, content)
    read = export.run_module(load_reference(directory / CHECKPOINT).predictor)
    return {CHECKPOINT: {"max_difference": export.compare(read, expected, images)}}


def save_weights(file: Path, model: nn.Module) -> str:
    """Write the state dict as safetensors, atomically; returns the file's SHA-256."""
    content = save_tensors({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()})
    write(file, content)
    return hashlib.sha256(content).hexdigest()


def file_hash(file: Path) -> str:
    """SHA-256 of a file's content."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _card_hash(card: dict[str, Any]) -> str:
    """Of everything in a card but this hash."""
    content = {key: value for key, value in card.items() if key != "card_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_json(file: Path, content: object) -> None:
    """Write JSON atomically, readable by people."""
    write(file, (json.dumps(content, indent=2) + "\n").encode())


def write(file: Path, content: bytes) -> None:
    """Whole or not at all, also when the power fails. Raises OSError."""
    part = file.with_name(f"{file.name}.part")
    try:
        with part.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
    except OSError:
        part.unlink(missing_ok=True)  # half a file on a full disk is in everybody's way
        raise
    os.replace(part, file)


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
        card = json.loads((path / CARD).read_text())
        check_files(path, card)
        fields = json.loads((path / CONFIG).read_text())
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        config = CNNConfig(**settings)
        predictor = _predictor(load_weights(path / WEIGHTS, config), card)
        return Bundle(predictor=predictor, classes=tuple(card["classes"]), image_size=config.image_size, card=card)
    except FileNotFoundError as error:
        raise ModelError(f"no model in {path}: {Path(error.filename).name} is missing") from error
    except ModelError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is not a model folder of this program ({type(error).__name__}: {error})") from error


def check_files(directory: Path, card: dict[str, Any]) -> None:
    """Compare a model folder with its card: ModelError for a missing, altered or foreign file.

    Cards of versions that exported weights alone list nothing: then only the weights are compared.
    """
    listed: dict[str, str] = card.get("files", {WEIGHTS: card["weights_sha256"]})
    for name, digest in listed.items():
        if not (directory / name).is_file():
            raise ModelError(f"no model in {directory}: {name} is missing (copy or export the whole folder again)")
        if file_hash(directory / name) != digest:
            raise ModelError(f"{directory / name} is not the file that {CARD} describes (altered, or half-written)")
    if "files" not in card:
        return
    if card.get("card_sha256") != _card_hash(card):
        raise ModelError(f"{directory / CARD} was altered since it was written (its own hash does not fit)")
    found = sorted(file.name for file in directory.iterdir() if file.suffix.lower() in RUNNABLE)
    if foreign := [name for name in found if name not in listed]:
        raise ModelError(
            f"{directory} holds {foreign[0]}, which {CARD} does not list (remove it, or keep it elsewhere)"
        )


def is_whole(directory: Path, card: dict[str, Any]) -> bool:
    """Whether a folder has every format, each as its card describes it."""
    try:
        check_files(directory, card)
    except ModelError:
        return False
    return "files" in card


def load_weights(file: Path, config: CNNConfig) -> CNN:
    """Build the network of `config` and fill it from a safetensors file; ModelError when they do not fit."""
    model = build_cnn(config)
    try:
        model.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{file} does not fit its architecture ({reason})") from error
    return model.eval()
