"""Checkpoints (.pth) of the reference system: reading them, and writing them for networks that the layout can describe.

The layout is dict(model_state_dict, config, val_accuracy, class_names, training_time, epoch_times); its networks are
`features` and `classifier`, both plain sequences, whose output goes through a softmax.
"""

import io
import pickle
import pickletools
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import ModelError
from models.architecture import MOST_BLOCKS, MOST_DENSE, Architecture, BackboneConfig, CNNConfig, plain_blocks
from models.bundle.card import Card
from models.cnn import CNN, fill
from models.cost import check_cost

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""Mean and standard deviation of each channel, on the scale 0 to 1; all networks here are trained with them, as those
of the reference system were."""

BASE_FILTERS = 32
"""Filters of the first block of a reference network whose multiplier is 1."""


def read_checkpoint(path: Path) -> tuple[CNN, CNNConfig, tuple[str, ...]]:
    """Read a checkpoint and return the network, its architecture and the class names.

    The image size is derived from the first dense layer. Raises ModelError if it is no such checkpoint.
    """
    try:
        _check_content(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error below says in one line what is wrong
            content = torch.load(path, map_location="cpu", weights_only=True)
        state, classes = content["model_state_dict"], _class_names(content["class_names"])
        config = read_config(content["config"], state, len(classes))
        check_cost(config)
        model = fill(config, state, path.stat().st_size)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # on broken bytes torch.load may raise any error
        raise ModelError(f"{path} is not a checkpoint in the reference's layout ({_reason(error)})") from error
    return model, config, classes


MOST_PICKLE = 4 << 20
"""Most bytes of a checkpoint's pickle, which holds everything but the numbers of the tensors."""

TENSORS = frozenset(
    {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
    | {f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16")}
    | {f"torch {kind}Storage" for kind in ("Long", "Int", "Short", "Char", "Byte", "Bool")}
)
"""Global names that may occur in a pickle of tensors and plain containers; torch allows more, such as a bytearray of
any length."""

NAMING = frozenset({"STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"})
"""Other pickle operations that refer to a global name; torch writes none of them."""


def _check_content(path: Path) -> None:
    """Raise ModelError if the content could become far larger than its file: by compression or by calls in a pickle."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\3\4":  # torch's older layout, as torch itself tells it: five pickles in a row
            file.seek(0)
            some = io.BytesIO(file.read(MOST_PICKLE))
            for _ in range(5):
                _check_pickle(some)
            return
    with zipfile.ZipFile(path) as packed:
        names = [one.filename.lower() for one in packed.infolist()]
        if sum(one.file_size for one in packed.infolist()) > path.stat().st_size or len(set(names)) < len(names):
            raise ModelError("its content is compressed, or two files in it have one name")
        for one in packed.infolist():
            if one.filename.lower().endswith(".pkl"):
                if one.file_size > MOST_PICKLE:
                    raise ModelError("it holds more than tensors and plain containers")
                _check_pickle(io.BytesIO(packed.read(one)))


def _check_pickle(content: io.BytesIO) -> None:
    for operation, what, _ in pickletools.genops(content):
        if operation.name in NAMING or (operation.name == "GLOBAL" and what not in TENSORS):
            raise ModelError(f"it holds more than tensors and plain containers: {str(what)[:100]}")


MOST_CLASSES = 100_000
"""Largest number of class names in a checkpoint."""


def _class_names(found: Any) -> tuple[str, ...]:
    names = _listed("class_names", found, str, MOST_CLASSES)
    if len(set(names)) < len(names):
        raise ModelError("its class_names are not different names")
    return names


def _listed(name: str, found: Any, kind: type, most: int) -> tuple[Any, ...]:
    """Return a plain list of at most `most` values of one type. Raises ModelError for anything else before iterating
    over it, because a tensor of a few bytes may claim to hold billions of numbers."""
    if type(found) not in (list, tuple) or len(found) > most or not all(type(one) is kind for one in found):
        raise ModelError(f"its {name} are not {'different names' if kind is str else 'a list of whole numbers'}")
    return tuple(found)


def _whole(found: Any) -> int:
    if type(found) is not int:
        raise ModelError(f"{type(found).__name__} where a whole number should be")
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch's message advises to load the file unsafely
        return "it holds more than tensors and plain containers"
    return (str(error).splitlines() or [type(error).__name__])[0]


def read_config(config: dict[str, Any], state: dict[str, Tensor], num_classes: int) -> CNNConfig:
    """Return the architecture from the config and tensor shapes of a checkpoint. Raises ModelError or KeyError."""
    if type(config) is not dict or not all(isinstance(one, Tensor) for one in state.values()):
        raise ModelError("its config is not a dictionary, or its weights are not tensors")
    blocks = _whole(config["num_conv_blocks"])
    if not 1 <= blocks <= MOST_BLOCKS:  # checked before lists of that length are made
        raise ModelError(f"{blocks} blocks")
    kernels = [*_listed("kernel_sizes", config["kernel_sizes"], int, MOST_BLOCKS), *[3] * blocks][:blocks]
    filters = tuple(BASE_FILTERS * _whole(config["filters_multiplier"]) << block for block in range(blocks))
    side = round((state["classifier.0.weight"].shape[1] / filters[-1]) ** 0.5)
    return CNNConfig(
        num_classes=num_classes,
        image_size=side << blocks,
        blocks=plain_blocks(filters, kernels),
        batch_norm=bool(config["use_batch_norm"]),
        conv_dropout=float(config["conv_dropout"]),
        dense_units=_listed("dense_units", config["dense_units"], int, MOST_DENSE),
        dense_dropout=float(config["dense_dropout"]),
    )


def checkpoint(model: CNN, config: Architecture, card: Card) -> bytes | None:
    """Return a network on the CPU as the bytes of a checkpoint; None if the layout cannot describe it.

    The layout has no place for a temperature, so the last layer is divided by it: a softmax of the output then gives
    calibrated probabilities.
    """
    if isinstance(config, BackboneConfig):
        return None
    preprocessing = {"mean": card.preprocessing.mean, "std": card.preprocessing.std}
    state = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    described = _config(config)
    if preprocessing != IMAGENET or read_config(described, state, config.num_classes) != config:
        return None
    last = f"classifier.{len(model.classifier) - 1}"
    state[f"{last}.weight"] /= card.temperature
    state[f"{last}.bias"] /= card.temperature
    content = {
        "model_state_dict": state,
        "config": described,
        "val_accuracy": 100 * (card.study.selection_score or 0.0) if card.study else 0.0,
        "class_names": list(card.classes),
        "training_time": card.final.seconds if card.final else None,
        "epoch_times": card.final.epoch_seconds if card.final else [],
    }
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _config(config: CNNConfig) -> dict[str, Any]:
    return {
        "num_conv_blocks": len(config.blocks),
        "filters_multiplier": max(1, config.blocks[0].filters // BASE_FILTERS),
        "kernel_sizes": [block.kernel_size for block in config.blocks],
        "use_batch_norm": config.batch_norm,
        "conv_dropout": config.conv_dropout,
        "dense_units": list(config.dense_units),
        "dense_dropout": config.dense_dropout,
    }
