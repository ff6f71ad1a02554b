"""`timm_plain` over a small model of each family, against timm's own models and its own loading of files."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from harness.engine import optim
from models.encoders import _weights, timm_plain
from models.layers.plain_pyramid import SIMPLE_CHANNELS, simple_pyramid
from models.segmentor import Segmentor

FAMILIES = {  # the smallest that timm has of each
    "augreg": "vit_tiny_patch16_224",
    "DINOv2": "vit_small_patch14_dinov2.lvd142m",
    "DINOv2 with registers": "vit_small_patch14_reg4_dinov2.lvd142m",
    "DINOv3": "vit_tiny_patch16_dinov3_qkvb",
    "EVA-02": "eva02_tiny_patch14_224.mim_in22k",
    "SigLIP 2": "vit_base_patch16_siglip_224.v2_webli",
    "MAE": "vit_base_patch16_224.mae",
    "CLIP": "vit_xsmall_patch16_clip_224.tinyclip_yfcc15m",
    "DeiT, distilled": "deit_tiny_distilled_patch16_224.fb_in1k",
    "Perception Encoder": "vit_pe_spatial_tiny_patch16_512.fb",
}
SMALL = [name for name in FAMILIES if name not in ("SigLIP 2", "MAE")]  # below 25 M parameters
SIDE = 224  # of patches of 14 and 16
EVERY = pytest.mark.parametrize("family", FAMILIES)


def make(family="augreg", side=SIDE, **options):
    torch.manual_seed(0)
    return timm_plain.Encoder(timm_plain.Config(model=FAMILIES[family], **options), side)


@EVERY
def test_each_family_owes_the_contract(family):
    encoder = make(family)
    patch, depth = encoder.multiple, len(encoder.backbone.blocks)
    height, width = 3 * patch, 5 * patch
    features = encoder(torch.randn(2, 3, height, width))
    for level, channels, stride in zip(features.levels, encoder.channels, (4, 8, 16, 32), strict=True):
        assert level.shape == (2, channels, height // stride, width // stride)
        assert level.isfinite().all()
    assert features.deepest.shape == (2, encoder.deepest_channels, 3, 5)
    sum(value.square().mean() for value in (*features.levels, features.deepest)).backward()
    assert [name for name, value in encoder.named_parameters() if value.grad is None] == []
    assert encoder.taps == tuple(depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4))
    cfg = timm.get_pretrained_cfg(FAMILIES[family])
    assert (encoder.mean, encoder.std) == tuple(tuple(255 * value for value in part) for part in (cfg.mean, cfg.std))
    ids = {name: encoder.layer_id(name) for name, _ in encoder.named_parameters()}
    assert {ids[name] for name in ids if name.startswith("backbone.blocks.")} == set(range(1, depth + 1))
    assert {ids[name] for name in ids if name.startswith("pyramid.")} == {depth + 1}
    assert ids["backbone.patch_embed.proj.weight"] == 0


@pytest.mark.parametrize("family", SMALL)
@torch.no_grad()
def test_a_window_of_another_size_is_what_timms_fixed_model_of_that_size_says(family):
    encoder = make(family).eval()
    size = (3 * encoder.multiple, 5 * encoder.multiple)
    fixed = timm.create_model(FAMILIES[family], pretrained=False, num_classes=0, img_size=SIDE).eval()
    fixed.load_state_dict(encoder.backbone.state_dict(), strict=False)  # it has a final norm, which taps leave out
    fixed.set_input_size(size)
    images = torch.randn(1, 3, *size)
    expected = fixed.forward_intermediates(images, indices=[encoder.taps[1], encoder.taps[-1]], intermediates_only=True)
    torch.testing.assert_close(encoder(images).deepest, expected[-1], rtol=1e-4, atol=1e-4)
    assert not torch.equal(expected[0], expected[1])


def test_learning_rates_fall_by_block():
    encoder = make()
    groups = optim.parameter_groups(Segmentor(encoder, torch.nn.Identity()), 0.05, 0.9)
    assert {round(group["lr_scale"], 6) for group in groups} == {round(0.9**power, 6) for power in range(14)}
    rates = {id(value): group["lr_scale"] for group in groups for value in group["params"]}
    assert rates[id(encoder.backbone.pos_embed)] == 0.9**13
    assert rates[id(encoder.backbone.blocks[11].mlp.fc2.weight)] == 0.9


def donor(family, side):
    """State of a timm model for windows of `side`, with a classifier and position embeddings that are no constant."""
    torch.manual_seed(1)
    return timm.create_model(FAMILIES[family], pretrained=False, num_classes=3, img_size=side).state_dict()


@pytest.mark.parametrize("family", ["augreg", "DINOv2 with registers", "EVA-02", "CLIP", "DINOv3"])
def test_a_local_file_fills_it_as_timm_would(family, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(donor(family, 448), path)
    encoder = make(family, weights=str(path))
    encoder.load_pretrained()
    options = {"num_classes": 3, "img_size": SIDE, "dynamic_img_size": True}
    overlay = {"file": str(path), "num_classes": 3}
    timms = timm.create_model(FAMILIES[family], pretrained=True, pretrained_cfg_overlay=overlay, **options).state_dict()
    own = encoder.backbone.state_dict()
    assert [name for name, value in own.items() if not torch.equal(value, timms[name])] == []
    assert "pos_embed" not in own or own["pos_embed"].shape[1] < donor(family, 448)["pos_embed"].shape[1]


def test_a_file_in_its_sources_layout_fills_it(tmp_path):
    state, path = donor("DINOv2 with registers", SIDE), tmp_path / "dinov2.pth"
    patches, class_position = state["pos_embed"], torch.randn(1, 1, 384)
    published = {key: value for key, value in state.items() if key not in ("reg_token", "pos_embed", "cls_token")}
    published |= {"register_tokens": state["reg_token"], "mask_token": torch.zeros(1, 384)}
    published |= {"cls_token": state["cls_token"], "pos_embed": torch.cat([class_position, patches], 1)}
    torch.save(published, path)
    encoder = make("DINOv2 with registers", weights=str(path))
    encoder.load_pretrained()
    own = encoder.backbone.state_dict()
    assert torch.equal(own["reg_token"], state["reg_token"])
    assert torch.equal(own["pos_embed"], patches)
    torch.testing.assert_close(own["cls_token"], state["cls_token"] + class_position)


def test_weights_of_the_hub_are_timms(monkeypatch):
    asked = {}

    def hub(model, **options):
        asked.update(options, model=model)
        torch.manual_seed(2)
        return timm.create_model(model, pretrained=False, **options)

    monkeypatch.setattr(_weights, "from_hub", hub)
    encoder = make("DINOv2", pretrained=True)
    encoder.load_pretrained()
    assert asked == {"model": FAMILIES["DINOv2"], "num_classes": 0, "img_size": SIDE, "dynamic_img_size": True}
    torch.manual_seed(2)
    expected = timm.create_model(FAMILIES["DINOv2"], pretrained=False, num_classes=0, img_size=SIDE).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in encoder.backbone.state_dict().items())


def test_what_does_not_fit_is_named(tmp_path):
    path = tmp_path / "weights.safetensors"
    state = donor("augreg", SIDE)
    save_file({key: value for key, value in state.items() if key != "blocks.3.attn.qkv.weight"}, path)
    with pytest.raises(ValueError, match=r"lacks 1 of .* blocks\.3\.attn\.qkv\.weight first"):
        make(weights=str(path)).load_pretrained()
    save_file(donor("DINOv2", SIDE), path)
    with pytest.raises(ValueError, match=r"has the shape \(1, 1, 384\), not \(1, 1, 192\)"):
        make(weights=str(path)).load_pretrained()
    save_file(state | {"pos_embed": torch.zeros(1, 6, 192)}, path)  # of no square
    with pytest.raises(ValueError, match="does not fit") as caught:
        make(weights=str(path)).load_pretrained()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("beit_base_patch16_224", "is not a plain ViT; use encoder.name=beit"),
        ("resnet18", "is not a plain ViT"),
        ("vit_tiny_r_s16_p8_224", "is not a plain ViT"),
        ("vit_small_patch8_224", "has patches of 8"),
        ("vit_no_such", "timm has no model vit_no_such"),
        ("vit_tiny_patch16_224.no_such_tag", "vit_tiny_patch16_224"),
    ],
)
def test_other_models_are_refused(model, words):
    with pytest.raises(ValueError, match=words):
        timm_plain.Encoder(timm_plain.Config(model=model), SIDE)


@pytest.mark.parametrize("taps", [(3, 5, 11), (3, 5, 7, 12), (5, 3, 7, 11), (3, 3, 7, 11), (-1, 3, 7, 11)])
def test_taps_are_four_blocks(taps):
    with pytest.raises(ValueError, match="four of its blocks 0 to 11"):
        make(taps=taps)


def test_blocks_after_the_last_tap_go():
    encoder = make(taps=(0, 1, 2, 3))
    assert encoder.num_layers == len(encoder.backbone.blocks) == 4
    whole = make().backbone.forward_intermediates(torch.ones(1, 3, 32, 32), indices=[3], intermediates_only=True)
    torch.testing.assert_close(encoder(torch.ones(1, 3, 32, 32)).deepest, whole[0])


def test_a_local_file_that_timm_would_resize_in_another_way_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(donor("augreg", SIDE), path)
    encoder = timm_plain.Encoder(timm_plain.Config(model="flexivit_small", weights=str(path)), SIDE)
    with pytest.raises(ValueError, match="flexivit_small is loaded from the hub only"):
        encoder.load_pretrained()


@pytest.mark.parametrize("side", [225, 16])
def test_windows_are_multiples_of_the_patch(side):
    with pytest.raises(ValueError, match="a multiple of 16 and at least 32"):
        make(side=side)


def test_the_final_norm_is_a_choice_where_there_is_one():
    encoder = make("DINOv2", final_norm=True).eval()
    images = torch.randn(1, 3, 56, 56)
    plain = make("DINOv2").eval()(images).deepest
    torch.testing.assert_close(
        encoder(images).deepest, encoder.backbone.norm(plain.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    )
    assert encoder.layer_id("backbone.norm.weight") == encoder.num_layers + 1
    with pytest.raises(ValueError, match="has no final norm"):
        make("EVA-02", final_norm=True)


def test_the_simple_pyramid_is_of_the_last_map_alone():
    encoder = make(pyramid="simple").eval()
    assert encoder.channels == (SIMPLE_CHANNELS,) * 4
    found = encoder(torch.randn(1, 3, 64, 96))
    for scale, level, stride in zip(encoder.pyramid, found.levels, (4, 8, 16, 32), strict=True):
        assert level.shape == (1, 256, 64 // stride, 96 // stride)
        assert torch.equal(scale(found.deepest), level)
        torch.testing.assert_close(level.mean(1), torch.zeros_like(level[:, 0]), atol=1e-4, rtol=0)  # LayerNorm's


def test_the_simple_pyramid_has_vitdets_parameters():
    width = 768
    up4, up2 = 4 * width * 384 + 384 + 2 * 384 + 4 * 384 * 192 + 192, 4 * width * 384 + 384
    project = sum(inputs * 256 + 9 * 256 * 256 + 2 * 2 * 256 for inputs in (192, 384, 768, 768))
    assert sum(value.numel() for value in simple_pyramid(width).parameters()) == up4 + up2 + project
