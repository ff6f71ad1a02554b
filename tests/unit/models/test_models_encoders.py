"""Every encoder of the folder against the contract; then weights, on small files made in the published formats."""

import importlib
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import models.encoders
from models.encoders import beit, timm_pyramid

NAMES = sorted(path.stem for path in Path(models.encoders.__path__[0]).glob("*.py") if not path.stem.startswith("_"))
EVERY = pytest.mark.parametrize("name", NAMES)
SIDE = 64
TABLE = "blocks.2.attn.relative_position_bias_table"


def make(name):
    module = importlib.import_module(f"models.encoders.{name}")
    return module.Encoder(module.Config(), SIDE)


@EVERY
def test_shapes_and_gradients(name):
    encoder = make(name)
    found = encoder(torch.randn(2, 3, SIDE, SIDE))
    for level, width, reduction in zip(found.levels, encoder.channels, (4, 8, 16, 32), strict=True):
        assert level.shape == (2, width, SIDE // reduction, SIDE // reduction)
    assert found.deepest.shape[:2] == (2, encoder.deepest_channels)
    (sum(level.square().mean() for level in found.levels) + found.deepest.square().mean()).backward()
    assert [key for key, value in encoder.named_parameters() if value.grad is None] == []


@EVERY
def test_it_keeps_the_contract(name):
    module, encoder = importlib.import_module(f"models.encoders.{name}"), make(name)
    assert isinstance(module.VERSION, int)
    assert module.Config.__dataclass_params__.frozen
    assert encoder.size in (None, SIDE)
    assert SIDE % encoder.multiple == 0
    ids = {encoder.layer_id(key) for key, _ in encoder.named_parameters()}
    assert ids <= set(range(encoder.num_layers + 2))
    with pytest.raises(ValueError, match="multiple"):
        module.Encoder(module.Config(), SIDE + 1)


@EVERY
def test_without_weights_named_nothing_is_loaded(name):
    encoder = make(name)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    encoder.load_pretrained()
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


@EVERY
def test_missing_weights_are_one_line(name, tmp_path):
    module = importlib.import_module(f"models.encoders.{name}")
    encoder = module.Encoder(module.Config(weights=str(tmp_path / "none.safetensors")), SIDE)
    with pytest.raises(FileNotFoundError, match="no weights at") as caught:
        encoder.load_pretrained()
    (tmp_path / "bad.pt").write_text("not weights")
    encoder = module.Encoder(module.Config(weights=str(tmp_path / "bad.pt")), SIDE)
    with pytest.raises(ValueError, match="is not a weights file") as damaged:
        encoder.load_pretrained()
    assert all("\n" not in str(error.value) for error in (caught, damaged))


def test_beit_layers():
    encoder = make("beit")
    names = [key for key, _ in encoder.named_parameters()]
    ids = {key: encoder.layer_id(key) for key in names}
    assert ids["backbone.cls_token"] == ids["backbone.patch_embed.proj.weight"] == 0
    assert ids["backbone.blocks.3.attn.qkv.weight"] == 4
    assert {ids[key] for key in names if key.startswith("pyramid.")} == {5}
    with pytest.raises(ValueError, match="64 × 64"):
        encoder(torch.randn(1, 3, 96, 96))


@pytest.mark.parametrize(
    ("model", "depth", "width"),
    [("beit_base_patch16_224.in22k_ft_in22k", 12, 768), ("beit_large_patch16_224.in22k_ft_in22k", 24, 1024)],
)
def test_published_beits_are_built_without_the_hub(model, depth, width):
    with torch.device("meta"):
        encoder = beit.Encoder(beit.Config(model=model, drop_path=0.2), SIDE)
        found = encoder(torch.empty(1, 3, SIDE, SIDE))
    assert encoder.num_layers == depth
    assert [level.shape[1] for level in found.levels] == [width] * 4
    assert encoder.layer_id("pyramid.0.0.weight") == depth + 1
    assert encoder.backbone.blocks[0].attn.relative_position_bias_table.shape[0] == 7 * 7 + 3


@pytest.mark.parametrize("model", ["beit_huge", "resnet18", "beit_base_patch16_224.of_no_such_tag"])
def test_unknown_beits_are_refused(model):
    with pytest.raises(ValueError, match=model.split(".")[0]):
        beit.Encoder(beit.Config(model=model), SIDE)


def donor(side):
    """A tiny BEiT of another window with a classifier's leftovers, in timm's layout."""
    torch.manual_seed(9)
    state = dict(beit.Encoder(beit.Config(), side).backbone.state_dict())
    for key in state:
        if key.endswith("relative_position_bias_table"):
            state[key] = torch.randn_like(state[key])
    return state | {"head.weight": torch.zeros(3, 64), "fc_norm.bias": torch.zeros(64)}


def loaded(path):
    encoder = beit.Encoder(beit.Config(weights=str(path)), SIDE)
    encoder.load_pretrained()
    return encoder.backbone.state_dict()


@pytest.mark.parametrize("layout", ["timm", "unilm", "shared", "segmentor"])
def test_beit_takes_the_published_layouts(tmp_path, layout):
    state, path = donor(128), tmp_path / "weights.pth"
    table = state[TABLE]
    if layout == "timm":
        path = tmp_path / "weights.safetensors"
        save_file(state, path)
    elif layout == "unilm":
        index = {"blocks.0.attn.relative_position_index": torch.zeros(2, 2, dtype=torch.int64)}
        torch.save({"model": state | index}, path)
    elif layout == "shared":  # self-supervised weights
        state = {key: value for key, value in state.items() if not key.endswith("position_bias_table")}
        torch.save({"model": state | {"rel_pos_bias.relative_position_bias_table": table}}, path)
    else:
        torch.save({"state_dict": {f"backbone.{key}": value for key, value in state.items()}}, path)
    found = loaded(path)
    assert torch.equal(found["blocks.1.attn.qkv.weight"], state["blocks.1.attn.qkv.weight"])
    torch.testing.assert_close(found[TABLE], beit.resize_table(table, 7 * 7 + 3))


def test_beit_names_what_does_not_fit(tmp_path):
    state, path = donor(SIDE), tmp_path / "weights.safetensors"
    qkv = "blocks.0.attn.qkv.weight"
    save_file({key: value for key, value in state.items() if key != qkv}, path)
    with pytest.raises(ValueError, match=r"lacks 1 of .* blocks\.0\.attn\.qkv\.weight first"):
        loaded(path)
    save_file(state | {qkv: torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.qkv\.weight has the shape \(1,\)"):
        loaded(path)
    with pytest.raises(ValueError, match="no pre-trained weights"):
        beit.Encoder(beit.Config(pretrained=True), SIDE).load_pretrained()


def test_position_tables_keep_their_values_symmetry_and_class_token():
    table = torch.randn(27 * 27 + 3, 2)
    assert torch.equal(beit.resize_table(table, 27 * 27 + 3), table)
    larger = beit.resize_table(table, 63 * 63 + 3)
    assert torch.equal(larger[-3:], table[-3:])
    torch.testing.assert_close(larger[:-3].view(63, 63, 2)[31, 31], table[:-3].view(27, 27, 2)[13, 13])
    grid = table[:-3].view(27, 27, 2)
    mirrored = torch.cat([grid.flip(0).reshape(-1, 2), table[-3:]])
    expected = larger[:-3].view(63, 63, 2).flip(0).reshape(-1, 2)
    torch.testing.assert_close(beit.resize_table(mirrored, 63 * 63 + 3)[:-3], expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="not belong to a square window"):
        beit.resize_table(table[1:], 63 * 63 + 3)


def test_position_tables_follow_a_cubic_exactly():
    known = beit._geometric_offsets(27, 63)
    assert len(known) == 27
    assert np.allclose(known, -known[::-1])
    assert known[-1] == pytest.approx(31, abs=1e-3)
    y, x = np.meshgrid(known, known, indexing="ij")
    table = torch.from_numpy(np.append((y**3 / 900 - x * y / 7 + x**2 / 30).ravel(), [0, 0, 0]))[:, None]
    offsets = np.arange(63) - 31
    y, x = np.meshgrid(offsets, offsets, indexing="ij")
    expected = torch.from_numpy(y**3 / 900 - x * y / 7 + x**2 / 30)
    found = beit.resize_table(table, 63 * 63 + 3)[:-3].view(63, 63)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("model", ["resnet18", "convnext_atto"])
def test_other_hierarchical_backbones(model, tmp_path):
    classifier = timm.create_model(model, pretrained=False)
    path = tmp_path / "weights.safetensors"
    save_file(classifier.state_dict(), path)
    encoder = timm_pyramid.Encoder(timm_pyramid.Config(model=model, weights=str(path)), SIDE).eval()
    images = torch.randn(1, 3, SIDE, SIDE)
    encoder.load_pretrained()
    found = encoder(images)
    assert [level.shape[1:] for level in found.levels] == [
        (width, SIDE // r, SIDE // r) for width, r in zip(encoder.channels, (4, 8, 16, 32), strict=True)
    ]
    torch.testing.assert_close(found.deepest, classifier.eval().forward_intermediates(images)[1][-1])


def test_backbones_built_for_one_window_say_so():
    encoder = timm_pyramid.Encoder(timm_pyramid.Config(model="swin_tiny_patch4_window7_224"), SIDE).eval()
    assert encoder.size == SIDE
    shapes = [tuple(level.shape) for level in encoder(torch.randn(1, 3, SIDE, SIDE)).levels]
    assert shapes == [(1, 96, 16, 16), (1, 192, 8, 8), (1, 384, 4, 4), (1, 768, 2, 2)]


@pytest.mark.parametrize("model", ["vit_tiny_patch16_224", "no_such_model"])
def test_other_backbones_are_refused(model):
    with pytest.raises(ValueError, match=model):
        timm_pyramid.Encoder(timm_pyramid.Config(model=model), SIDE)


def test_timm_pyramid_names_what_does_not_fit(tmp_path):
    path = tmp_path / "weights.safetensors"
    state = make("timm_pyramid").backbone.state_dict()
    save_file({key: value for key, value in state.items() if key != "conv_stem.weight"}, path)
    encoder = timm_pyramid.Encoder(timm_pyramid.Config(weights=str(path)), SIDE)
    with pytest.raises(ValueError, match=r"lacks 1 of .* conv_stem\.weight first"):
        encoder.load_pretrained()
    save_file(state | {"conv_stem.weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"conv_stem\.weight has the shape \(2,\)"):
        encoder.load_pretrained()


REAL = os.environ.get("TF_EFFICIENTNET_LITE0")


@pytest.mark.skipif(REAL is None, reason="TF_EFFICIENTNET_LITE0 names no file with timm's weights of that model")
def test_published_efficientnet_weights():
    encoder = timm_pyramid.Encoder(timm_pyramid.Config(weights=REAL), SIDE).eval()
    random = encoder(torch.ones(1, 3, SIDE, SIDE)).deepest
    encoder.load_pretrained()
    found = encoder(torch.ones(1, 3, SIDE, SIDE)).deepest
    assert torch.isfinite(found).all()
    assert not torch.allclose(found, random)


def test_position_biases_are_gathered_once_an_evaluation_and_equal(monkeypatch):
    encoder, asked = make("beit").eval(), []
    for block in encoder.backbone.blocks:
        torch.nn.init.normal_(block.attn.relative_position_bias_table)
    gather = timm.models.beit.Attention._get_rel_pos_bias

    def spy(attention):
        asked.append(attention)
        return gather(attention)

    monkeypatch.setattr(timm.models.beit.Attention, "_get_rel_pos_bias", spy)
    images = torch.randn(1, 3, SIDE, SIDE)
    with torch.no_grad():  # as in training's pass over the frame before: nothing is kept
        expected, _ = (encoder(images).deepest for _ in range(2))
    assert len(asked) == 2 * 4
    with torch.inference_mode():
        found = [encoder(images).deepest for _ in range(3)]
        assert len(asked) == 3 * 4  # once for each of the four blocks
        assert all(torch.equal(value, expected) for value in found)
    with torch.no_grad():
        encoder.backbone.blocks[2].attn.relative_position_bias_table.add_(torch.randn(7 * 7 + 3, 4))
    with torch.inference_mode():
        changed = encoder(images).deepest
    assert len(asked) == 3 * 4 + 1  # of the block whose table was written to
    assert not torch.allclose(changed, expected)
    encoder.train()(images).deepest.sum().backward()
    assert encoder.backbone.blocks[2].attn.relative_position_bias_table.grad is not None
