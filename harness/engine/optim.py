"""AdamW with layer-wise learning-rate decay, and the schedule: both as BEiT's segmentation code has them.

Sources: `layer_decay_optimizer_constructor.py` of unilm's BEiT; mmsegmentation's poly policy with linear warm-up.
"""

from typing import Any

from torch import nn
from torch.optim import AdamW

from harness.config.sections import TrainConfig

BETAS = (0.9, 0.999)
ParameterGroup = dict[str, Any]  # params, weight_decay and lr_scale
WARMUP_RATIO = 1e-6  # of the scheduled rate, at iteration 0


def lr_factor(iteration: int, iterations: int, warmup: int) -> float:
    """Return the learning rate of an iteration over the base rate: linear warm-up times poly of power 1 down to 0."""
    poly = 1 - iteration / iterations
    if iteration >= warmup:
        return poly
    return poly * (1 - (1 - iteration / warmup) * (1 - WARMUP_RATIO))


def parameter_groups(model: nn.Module, weight_decay: float, layer_decay: float) -> list[ParameterGroup]:
    """Return groups of equal decay and `lr_scale` = layer_decay^(num_layers + 1 - id) of a model with an `encoder`.

    Vectors and biases get no weight decay; relative-position tables are matrices and do, as in unilm.
    """
    encoder: Any = model.encoder  # models.segmentor.Encoder
    top = encoder.num_layers + 1
    groups: dict[tuple[int, float], ParameterGroup] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = encoder.layer_id(name.removeprefix("encoder.")) if name.startswith("encoder.") else top
        decay = 0.0 if parameter.ndim <= 1 or name.endswith(".bias") else weight_decay
        empty: ParameterGroup = {"params": [], "weight_decay": decay, "lr_scale": layer_decay ** (top - layer)}
        groups.setdefault((layer, decay), empty)["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def adamw(model: nn.Module, options: TrainConfig) -> AdamW:
    """Return the optimiser, at the base rate; `set_lr` gives each iteration its own."""
    groups = parameter_groups(model, options.weight_decay, options.layer_decay)
    return AdamW(groups, lr=options.lr, betas=BETAS)


def set_lr(optimizer: AdamW, lr: float) -> None:
    """Set every group's rate to `lr` times the group's scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
