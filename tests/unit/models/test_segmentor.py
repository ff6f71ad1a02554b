"""The network as a whole: what it does to images and to the frames before."""

import dataclasses

import pytest
import torch

from models.contract import Target
from models.decoders import decoder_a, decoder_b, upernet
from models.encoders import beit, timm_pyramid
from models.segmentor import Segmentor, build

SIDE, CLASSES = 64, 4


def network(decoder, encoder=beit, **options):
    narrow = {"channels": 16, "aux_channels": 16, **options}
    if decoder is not upernet:
        narrow["memory_channels"] = 16
    return build(encoder, encoder.Config(), decoder, dataclasses.replace(decoder.Config(), **narrow), CLASSES, SIDE)


def images():
    return torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)


def target():
    return Target(torch.randint(0, CLASSES, (2, SIDE, SIDE)), torch.tensor([1, 2]))


def test_images_are_raw_rgb():
    model, raw = network(upernet), images()
    seen = []
    model.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.features(raw)
    model.features(raw.float())
    assert torch.equal(seen[0], seen[1])
    expected = (raw[0, 2, 3, 4].float() - 103.53) / 57.375
    torch.testing.assert_close(seen[0][0, 2, 3, 4], expected)
    assert not any(name in ("mean", "std") for name in model.state_dict())


@pytest.mark.parametrize(
    ("model", "mean", "std"),
    [
        ("tf_efficientnet_lite0", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),  # trained with 0.5 / 0.5
        ("resnet18", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    ],
)
def test_images_are_normalised_as_the_backbone_was_trained(model, mean, std):
    encoder = timm_pyramid.Encoder(timm_pyramid.Config(model=model), SIDE)
    whole, raw = Segmentor(encoder, network(upernet, timm_pyramid).decoder), images()
    seen = []
    encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    whole.features(raw)
    expected = (raw.double() - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(seen[0].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("encoder", [beit, timm_pyramid])
@pytest.mark.parametrize("decoder", [upernet, decoder_a, decoder_b])
def test_every_pair_trains(encoder, decoder):
    model, raw = network(decoder, encoder), images()
    output = model(raw, tuple(images() for _ in model.decoder.past), None, target())
    (output.logits.mean() + sum(part.logits.mean() for part in output.auxiliary)).backward()
    assert output.logits.shape == (2, CLASSES, SIDE // 4, SIDE // 4)
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


def test_earlier_frames_leave_no_trace_in_the_encoder():
    model, raw, aim = network(decoder_b, timm_pyramid), images(), target()
    model.encoder.backbone.bn1.eval()  # someone froze one layer: it must stay frozen
    alone = network(upernet, timm_pyramid)
    alone.encoder.load_state_dict(model.encoder.state_dict())
    alone.encoder.backbone.bn1.eval()
    model(raw, (images(), images()), None, aim)
    alone(raw, (), None, aim)
    pairs = zip(model.encoder.named_buffers(), alone.encoder.buffers(), strict=True)
    assert [name for (name, mine), its in pairs if not torch.equal(mine, its)] == []
    assert model.encoder.training
    assert not model.encoder.backbone.bn1.training


@pytest.mark.parametrize("grad", [False, True])
def test_gradients_reach_earlier_frames_only_if_asked(grad):
    model = network(decoder_b, memory_grad=grad)
    past = tuple(images().float().requires_grad_() for _ in model.decoder.past)
    output = model(images(), past, None, target())
    output.auxiliary[0].logits.square().sum().backward()
    assert [frame.grad is not None for frame in past] == [grad, grad]


def test_a_wrong_number_of_earlier_frames_is_refused():
    with pytest.raises(ValueError, match="2 earlier frames, not 0"):
        network(decoder_b)(images(), (), None, target())


def test_a_few_steps_on_one_batch_lower_the_loss():
    model, raw, aim = network(decoder_a), images(), target()
    aim = aim._replace(labels=(raw[:, 0] > 127).long())
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        output = model(raw, (), None, aim)
        logits = torch.nn.functional.interpolate(output.logits, SIDE, mode="bilinear")
        loss = torch.nn.functional.cross_entropy(logits, aim.labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        model.decoder.update(output.sums, 0.5)
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert model.decoder.memory.initialised.tolist() == [True, True, False, False]
