"""The paper's model, with random numbers in files of the published layouts: BEiT-Large, 1024 channels, K = 124."""

import pytest
import torch
from safetensors.torch import save_file

from models import segmentor
from models.decoders import decoder_a, decoder_b, upernet
from models.encoders import beit

MODEL = "beit_large_patch16_224.in22k_ft_in22k"
SIDE, CLASSES = 512, 124
MILLIONS = 304.65  # of the encoder without its pyramid (timm's features_only at 512)
DECODERS = {"upernet": upernet, "decoder_a": decoder_a, "decoder_b": decoder_b}
TABLE = "blocks.23.attn.relative_position_bias_table"


def parameters(module):
    return sum(value.numel() for value in module.parameters())


def test_the_encoder_has_the_papers_size():
    with torch.device("meta"):
        encoder = beit.Encoder(beit.Config(model=MODEL), SIDE)
    assert parameters(encoder.backbone) / 1e6 == pytest.approx(MILLIONS, abs=0.005)
    assert encoder.num_layers == 24
    assert encoder.channels == (1024,) * 4


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Random weights at 224 in timm's layout and in the original repository's; 1.2 GB each."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    state = dict(beit.Encoder(beit.Config(model=MODEL), 224).backbone.state_dict())
    for key in state:
        if key.endswith("relative_position_bias_table"):
            state[key] = torch.randn_like(state[key]) / 10
    state |= {"head.weight": torch.zeros(21841, 1024), "head.bias": torch.zeros(21841), "norm.weight": torch.ones(1024)}
    save_file(state, folder / "timm.safetensors")
    index = {f"blocks.{block}.attn.relative_position_index": torch.zeros(197, 197).long() for block in range(24)}
    torch.save({"model": {**state, **index}}, folder / "unilm.pth")
    yield {"timm": folder / "timm.safetensors", "unilm": folder / "unilm.pth"}, state
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("layout", ["timm", "unilm"])
def test_a_file_of_either_layout_fills_it(files, layout):
    paths, state = files
    encoder = beit.Encoder(beit.Config(model=MODEL, weights=str(paths[layout])), SIDE)
    encoder.load_pretrained()
    found = encoder.backbone.state_dict()
    assert all(torch.equal(found[key], state[key]) for key in found if not key.endswith("position_bias_table"))
    assert found[TABLE].shape == (63 * 63 + 3, 16)
    torch.testing.assert_close(found[TABLE], beit.resize_table(state[TABLE], 63 * 63 + 3))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@torch.inference_mode()
def test_a_window_goes_through_every_decoder(files):
    paths, _ = files
    config = beit.Config(model=MODEL, drop_path=0.2, weights=str(paths["timm"]))
    with torch.device("meta"):
        sizes = {
            name: parameters(segmentor.build(beit, config, module, module.Config(), CLASSES, SIDE)) / 1e6
            for name, module in DECODERS.items()
        }
    assert MILLIONS < sizes["upernet"] < sizes["decoder_a"] < sizes["decoder_b"]
    encoder = beit.Encoder(config, SIDE).eval()
    encoder.load_pretrained()
    images = torch.randn(1, 3, SIDE, SIDE)
    features = encoder(images)
    assert [tuple(level.shape) for level in features.levels] == [(1, 1024, side, side) for side in (128, 64, 32, 16)]
    for module in DECODERS.values():
        torch.manual_seed(1)
        decoder = module.Decoder(encoder.channels, encoder.deepest_channels, CLASSES, module.Config()).eval()
        if hasattr(decoder, "memory"):
            decoder.memory.rows.normal_()
            decoder.memory.initialised.fill_(True)
        cache = decoder.encode(features, (features,) * len(decoder.past))
        logits = decoder.predict(cache)
        assert logits.shape == (1, CLASSES, 128, 128)
        assert torch.isfinite(logits).all()
        again = decoder.predict(cache, logits.argmax(1))  # a stage
        assert again.shape == logits.shape
        assert torch.isfinite(again).all()
