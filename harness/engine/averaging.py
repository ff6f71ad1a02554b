"""An exponential moving average of the weights (EMA), which is evaluated and kept instead of them."""

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def average(model: nn.Module, decay: float | None) -> AveragedModel | None:
    """Return the average of a model's parameters, None without a decay; `update_parameters` after each iteration.

    W' = decay * W' + (1 - decay) * W, from the weights of the first iteration on; buffers (batch norm's statistics, M)
    are the model's own, as mmengine's EMAHook has them by default.
    """
    if decay is None:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
