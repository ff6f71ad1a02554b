"""`checkpoint`: a training step ends with the same bits, and adds at most 60 % of the bytes to the parameters'."""

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker

from models import segmentor
from models.contract import Target
from models.decoders import decoder_a
from models.encoders import beit, timm_plain

CLASSES = 5
WIDTHS = decoder_a.Config(channels=4, aux_channels=4, memory_channels=4)
CASES = {
    "beit": (beit, {}, 320),
    "augreg": (timm_plain, {"model": "vit_tiny_patch16_224"}, 224),
    "DINOv3, whose rotary positions are drawn": (timm_plain, {"model": "vit_tiny_patch16_dinov3_qkvb"}, 224),
}


def step(module, options, side, checkpoint):
    """Return the state after a step of AdamW, the next random number, and the bytes that the step adds at its peak."""
    torch.manual_seed(0)
    config = module.Config(**options, drop_path=0.3, checkpoint=checkpoint)
    model = segmentor.build(module, config, decoder_a, WIDTHS, CLASSES, side).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    labels = torch.randint(CLASSES, (2, side, side))
    tracker = MemTracker()
    tracker.track_external(model)
    with tracker:
        output = model(torch.rand(2, 3, side, side) * 255, (), labels, Target(labels, torch.zeros(2, dtype=torch.long)))
        sum(each.square().mean() for each in (output.logits, *(aux.logits for aux in output.auxiliary))).backward()
    (peak,) = tracker.get_tracker_snapshot("peak").values()
    optimiser.step()
    added = sum(size for kind, size in peak.items() if getattr(kind, "name", "") in ("ACT", "GRAD", "TEMP"))
    return model.state_dict(), torch.rand(1), added


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_equal_to_the_bit_and_holds_less(case):
    plain, after_plain, whole = step(*CASES[case], checkpoint=False)
    saving, after_saving, part = step(*CASES[case], checkpoint=True)
    assert [name for name, value in plain.items() if not torch.equal(value, saving[name])] == []
    assert torch.equal(after_plain, after_saving)
    assert 0 < part <= 0.6 * whole


@pytest.mark.parametrize("case", CASES)
def test_evaluation_is_as_ever(case):
    module, options, side = CASES[case]
    outputs = []
    for checkpoint in (False, True):
        torch.manual_seed(0)
        encoder = module.Encoder(module.Config(**options, checkpoint=checkpoint), side).eval()
        with torch.inference_mode():
            outputs.append(encoder(torch.ones(1, 3, side, side)).deepest)
    assert torch.equal(*outputs)
