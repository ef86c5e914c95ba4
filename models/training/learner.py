"""The state that training changes: weights, moments of the optimiser, and what the schedule remembers."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.training.recipe import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Make the optimiser: Adam (weight decay as an L2 penalty, as in the reference system), AdamW (decoupled weight
    decay) or SGD with Nesterov momentum 0.9."""
    rate, decay = config.learning_rate, config.weight_decay
    parameters: list[Any] = [one for one in model.parameters() if one.requires_grad]
    if config.backbone_rate != 1:
        parameters = _by_rate(model, config)
    elif config.decayed == "weights":
        parameters = _groups(parameters)
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=decay, fused=True)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)
    return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=0.9, nesterov=True, fused=True)


def _groups(parameters: list[Any]) -> list[dict[str, Any]]:
    """Return two parameter groups: weights, which decay, and norms and biases, which do not (He et al. 2019)."""
    weights = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    return [{"params": weights}, {"params": others, "weight_decay": 0.0}]


def _by_rate(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Return parameter groups for the classifier, and for the features with `backbone_rate` times its learning rate.

    With `decayed` = "weights" each of the two is divided further, see `_groups`.
    """
    found: list[dict[str, Any]] = []
    for name, share in (("classifier", 1.0), ("features", config.backbone_rate)):
        mine = [one for key, one in model.named_parameters() if key.startswith(f"{name}.") and one.requires_grad]
        groups = _groups(mine) if config.decayed == "weights" else [{"params": mine}]
        found += [{**group, SHARE: share, "lr": share * config.learning_rate} for group in groups if group["params"]]
    return found


SHARE = "share"
"""Key under which a parameter group keeps its share of the learning rate."""


State = tuple[dict[str, Tensor], dict[str, Any]]
"""Everything that the next epoch depends on: tensors by name, and the other fields as JSON values."""


@dataclass
class Learner:
    """The objects that training changes: the network, the optimiser, and the one schedule that remembers losses."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    plateau: torch.optim.lr_scheduler.ReduceLROnPlateau
    micro_batch: int | None = None  # number of images that go through the network at once; None: the whole batch
    eval_batch: int | None = None  # the same in validation

    @property
    def rates(self) -> list[float]:
        """Learning rate of each parameter group of the optimiser."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def state(self) -> State:
        """Return the state that `load` takes; its tensors are not copied, so further training changes them."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        kept = self.optimizer.state_dict()
        for number, slots in kept["state"].items():
            tensors |= {f"optimizer.{number}.{name}": slot for name, slot in slots.items()}
        plateau = self.plateau.state_dict()
        if "_last_lr" in plateau:
            plateau["_last_lr"] = [float(rate) for rate in plateau["_last_lr"]]  # on CUDA they are tensors
        return tensors, {"rates": self.rates, "plateau": plateau, "micro_batch": self.micro_batch}

    def load(self, tensors: dict[str, Tensor], fields: dict[str, Any]) -> None:
        """Load a state that `state` returned. Raises RuntimeError or KeyError if it belongs to another network."""
        weights = {name[len("model.") :]: tensor for name, tensor in tensors.items() if name.startswith("model.")}
        fresh = self.optimizer.state_dict()
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, number, slot = name.split(".")
                slots.setdefault(int(number), {})[slot] = _laid_out_like(parameters[int(number)], tensor)
        for group, rate in zip(fresh["param_groups"], fields["rates"], strict=True):
            group["lr"] = rate
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict({"state": slots, "param_groups": fresh["param_groups"]})
        self.plateau.load_state_dict(fields["plateau"])
        self.micro_batch = fields["micro_batch"]


def _laid_out_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Return a copy with the strides of the parameter, because fused optimisers read both memories in parallel."""
    if tensor.shape != parameter.shape:
        return tensor.clone()  # the count of steps, a scalar
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)


def make_learner(model: nn.Module, config: TrainConfig) -> Learner:
    """Make the learner of a network at the start of its training."""
    optimizer = make_optimizer(model, config)
    return Learner(model, optimizer, torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2))
