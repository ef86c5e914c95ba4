"""A trained network on disk: weights (safetensors), architecture and card; and the way back."""

import hashlib
import json
import os
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from models import ModelError
from models.cnn import CNN, CNNConfig, build_cnn

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "card.json"

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
"""What the reference's checkpoints were trained with; they do not say so themselves."""


class Predictor(nn.Module):
    """uint8 images in, probabilities out: normalisation and temperature cannot drift from training."""

    mean: Tensor
    std: Tensor
    temperature: Tensor

    def __init__(self, model: CNN, mean: list[float], std: list[float], temperature: float) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.register_buffer("temperature", torch.tensor(temperature))

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, S, S, 3] -> probabilities [B, K]."""
        x = (images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        return torch.softmax(self.model(x) / self.temperature, dim=1)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A loaded model, ready to predict."""

    predictor: Predictor
    classes: tuple[str, ...]
    image_size: int

    def predict(self, images: NDArray[np.uint8], batch_size: int = 64) -> NDArray[np.float64]:
        """uint8 images [N, S, S, 3] of the model's size -> probabilities [N, K]."""
        device = self.predictor.mean.device
        with torch.inference_mode():
            parts = [
                self.predictor(torch.from_numpy(images[i : i + batch_size]).to(device)).double().cpu()
                for i in range(0, len(images), batch_size)
            ]
        return torch.cat(parts).numpy()

    def to(self, device: torch.device) -> Self:
        """Move to the device, in place."""
        self.predictor.to(device)
        return self


def save(directory: Path, model: CNN, config: CNNConfig, card: dict[str, Any]) -> dict[str, Any]:
    """Write weights, architecture and card; the card goes last, with the hash of the weights. Returns it as written."""
    directory.mkdir(parents=True, exist_ok=True)
    digest = save_weights(directory / WEIGHTS, model)
    write_json(directory / CONFIG, asdict(config))
    write_json(directory / CARD, {**card, "weights_sha256": digest})
    written: dict[str, Any] = json.loads((directory / CARD).read_text())
    return written


def save_weights(file: Path, model: nn.Module) -> str:
    """Write the state dict as safetensors, atomically; returns the file's SHA-256."""
    content = save_tensors({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()})
    _write(file, content)
    return hashlib.sha256(content).hexdigest()


def file_hash(file: Path) -> str:
    """SHA-256 of a file's content."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_json(file: Path, content: object) -> None:
    """Write JSON atomically, readable by people."""
    _write(file, (json.dumps(content, indent=2) + "\n").encode())


def _write(file: Path, content: bytes) -> None:
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


def _load_folder(path: Path) -> Bundle:
    try:
        card = json.loads((path / CARD).read_text())
        fields = json.loads((path / CONFIG).read_text())
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        config = CNNConfig(**settings)
        preprocessing = card["preprocessing"]
        if file_hash(path / WEIGHTS) != card["weights_sha256"]:
            raise ModelError(f"{path / WEIGHTS} is not the file that {CARD} describes (altered, or half-written)")
        model = load_weights(path / WEIGHTS, config)
        predictor = Predictor(model, preprocessing["mean"], preprocessing["std"], card["temperature"])
        return Bundle(predictor=predictor.eval(), classes=tuple(card["classes"]), image_size=config.image_size)
    except FileNotFoundError as error:
        raise ModelError(f"no model in {path}: {Path(error.filename).name} is missing") from error
    except ModelError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is not a model folder of this program ({type(error).__name__}: {error})") from error


def load_weights(file: Path, config: CNNConfig) -> CNN:
    """Build the network of `config` and fill it from a safetensors file; ModelError when they do not fit."""
    model = build_cnn(config)
    try:
        model.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(f"{file} does not fit its architecture ({_reason(error)})") from error
    return model.eval()


def _reason(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch's text advises to load it unsafely
        return "it holds more than tensors and plain containers"
    return (str(error).splitlines() or [type(error).__name__])[0]


def load_reference(path: Path) -> Bundle:
    """Load a checkpoint in the reference's layout: dict(model_state_dict, config, class_names, ...).

    The image size is read off the first dense layer. Raises ModelError.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state, classes = content["model_state_dict"], tuple(content["class_names"])
        config = reference_config(content["config"], state, len(classes))
        model = build_cnn(config)
        model.load_state_dict(state)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # torch.load raises whatever the bytes make it raise
        raise ModelError(f"{path} is not a checkpoint in the reference's layout ({_reason(error)})") from error
    predictor = Predictor(model, IMAGENET["mean"], IMAGENET["std"], temperature=1.0)
    return Bundle(predictor=predictor.eval(), classes=classes, image_size=config.image_size)


def reference_config(config: dict[str, Any], state: dict[str, Tensor], num_classes: int) -> CNNConfig:
    """The architecture of a reference checkpoint from its config and the shapes of its state dict."""
    blocks = int(config["num_conv_blocks"])
    kernels = [*config["kernel_sizes"], *[3] * blocks][:blocks]
    filters = tuple(32 * config["filters_multiplier"] << block for block in range(blocks))
    side = round((state["classifier.0.weight"].shape[1] / filters[-1]) ** 0.5)
    return CNNConfig(
        num_classes=num_classes,
        image_size=side << blocks,
        filters=filters,
        kernel_sizes=tuple(kernels),
        batch_norm=bool(config["use_batch_norm"]),
        conv_dropout=float(config["conv_dropout"]),
        dense_units=tuple(config["dense_units"]),
        dense_dropout=float(config["dense_dropout"]),
    )
