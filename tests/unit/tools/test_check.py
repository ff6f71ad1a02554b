"""`harness check`: what is sound holds, and each way to be broken is named by the one check that is for it.

Broken decoders are the sound one below with a line or two changed.
"""

import re
import shutil
from pathlib import Path

import pytest
import torch
from checking import COST, RANKS, TRAINING, broken, run, write

from harness.common.errors import UsageError
from harness.config import plugins
from harness.tools import check
from harness.tools.check import _decoder

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"

SOUND = '''"""A linear classifier and a running mean of the deepest features."""
from dataclasses import dataclass
from typing import NamedTuple
import torch
import torch.nn.functional as F
from torch import nn
from models import contract
from models.contract import Output

VERSION = 1

@dataclass(frozen=True)
class Config:
    channels: int = 128

class Total(NamedTuple):
    count: torch.Tensor
    sum: torch.Tensor
    def merge(self, later):
        return Total(self.count + later.count, self.sum + later.sum)

class Decoder(contract.Decoder):
    prior = "own"

    def __init__(self, channels, deepest_channels, num_classes, config):
        super().__init__()
        width = config.channels
        self.first = nn.Sequential(nn.Conv2d(channels[0], width, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.last = nn.Conv2d(width, num_classes, 1)
        self.shift = nn.Conv2d(deepest_channels, num_classes, 1)
        self.register_buffer("mean", torch.zeros(deepest_channels))

    def encode(self, features, past=()):
        seen = F.interpolate(features.deepest - self.mean[:, None, None], features.levels[0].shape[2:])
        return {"logits": self.last(self.first(features.levels[0])) + self.shift(seen)}

    def predict(self, cache, prior=None):
        logits = cache["logits"]
        if prior is None:
            prior = logits.detach().argmax(1)
        lit = ((prior != 255) * prior).float().mean((1, 2))
        return logits * (1 + 0.1 * lit[:, None, None, None])

    def forward(self, features, past, prior, target):
        logits = self.predict(self.encode(features, past), prior)
        total = features.deepest.detach().float().sum((0, 2, 3))
        return Output(logits, (), Total(torch.full_like(total, features.deepest[:, 0].numel()), total))

    @torch.no_grad()
    def update(self, sums, momentum):
        self.mean.lerp_(sums.sum / sums.count, 0.1)
'''


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def changed(*pairs):
    """The sound decoder with each first text replaced by the second."""
    text = SOUND
    for old, new in pairs:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def test_the_example_holds_with_two_real_ranks():
    found = run("frame_difference", [EXAMPLES])
    assert broken(found) == {}
    assert len(found) == 19
    assert "of the tolerance" in found[RANKS].text
    guide = (EXAMPLES.parent / "OWN_DECODER.md").read_text()
    assert [what for what in found if f"| {what} |" not in guide] == []
    assert "past (-1,)" in found["attributes are valid"].text
    start, end = found["the loss falls in training"].text.split()[1:4:2]
    assert float(end) < float(start)


def test_the_example_made_of_files_beside_it_holds():
    assert broken(run("cell_gate", [EXAMPLES], leave_out=[RANKS])) == {}
    assert "docs/examples/decoders/cell_gate.py" in (EXAMPLES.parent / "OWN_DECODER.md").read_text()


def test_a_mistake_in_a_file_beside_it_is_named_by_its_line(tmp_path):
    shutil.copytree(EXAMPLES / "decoders", tmp_path / "decoders", ignore=shutil.ignore_patterns("__pycache__"))
    helper = tmp_path / "decoders" / "_gates.py"
    helper.write_text(helper.read_text().replace(".sigmoid()", ".sigmoid() + unwritten"))
    line = next(n for n, text in enumerate(helper.read_text().splitlines(), 1) if "unwritten" in text)
    found = run("cell_gate", [tmp_path], leave_out=[RANKS, COST, *TRAINING])
    assert f"(_gates.py:{line})" in broken(found)["logits have the right shape"]


def test_the_example_reads_the_frame_before():
    module = plugins.load("decoders", "frame_difference", [EXAMPLES])
    decoder = module.Decoder((8, 8, 8, 8), 8, 4, module.Config(channels=8, aux_channels=8)).eval()
    one, other = ([torch.randn(1, 8, 32 // r, 32 // r) for r in (4, 8, 16, 32)] for _ in range(2))
    now, before = (module.Features(tuple(levels), levels[2]) for levels in (one, other))
    seen = decoder.encode(now, (before,)).logits
    assert not torch.equal(seen, decoder.encode(now, (now,)).logits)
    assert decoder.past == (-1,)
    assert module.Decoder((8,) * 4, 8, 4, module.Config(step=3)).past == (-3,)


def test_the_sound_decoder_is_sound(tmp_path):
    write(tmp_path, "decoders", "sound", SOUND)
    found = run("sound", [tmp_path], leave_out=(RANKS,))
    assert broken(found) == {}
    assert "channels=16" in found["attributes are valid"].text  # 128 made narrow
    assert found["sums of parts equal sums of the batch"].text.startswith("Total(count, sum)")
    assert found["update changes buffers only"].text == "moved mean"


BROKEN = {
    "wrong_shape": (
        [
            ("(width, num_classes, 1)", "(width, num_classes + 1, 1)"),
            ("(deepest_channels, num_classes, 1)", "(deepest_channels, num_classes + 1, 1)"),
        ],
        {"logits have the right shape": "forward gave (4, 3, 8, 8) torch.float32 for 4 images of 32 × 32, K = 2"},
    ),
    "changes_cache": (
        [
            ("return logits * (1 + 0.1", "return logits.mul_(1 + 0.1"),
            ('cache["logits"]\n', 'cache["logits"].clone() if self.training else cache["logits"]\n'),
        ],
        {"predict is repeatable": "predict changed tensor 0 of the cache (4, 5, 16, 16) in place"},
    ),
    "global_rng": (
        [("return logits * (1 + 0.1", "return logits * (1 if self.training else 1 + torch.rand(())) * (1 + 0.1")],
        {
            "predict is repeatable": "the same cache and prior gave different logits",
            "a video can be parsed": "differs when the video is parsed again",
            "weights survive a round trip": "logits differ by",
        },
    ),
    "no_gradient": (
        [("        self.register_buffer", "        self.idle = nn.Linear(2, 2)\n        self.register_buffer")],
        {"gradients reach every parameter": "none for idle.weight, idle.bias"},
    ),
    "computed_default": (
        [("channels: int = 128", "channels: int = torch.tensor(128).item()")],
        {"VERSION and Config are literals": "Config must have literal defaults only: name 'torch' is not defined"},
    ),
    "arithmetic_default": (
        [("channels: int = 128", "channels: int = 2 * 64")],
        {"VERSION and Config are literals": "Config.channels = 2 * 64: expected a literal"},
    ),
    "no_version": (
        [("VERSION = 1\n", "")],
        {"VERSION and Config are literals": "found none", "it imports": "expected the module to expose VERSION"},
    ),
    "wants_a_prior": (
        [
            ("        if prior is None:\n            prior = logits.detach().argmax(1)\n", ""),
            ('    prior = "own"\n', '    prior = "own"\n    gt_warmup = 1.0\n'),
            (
                "self.predict(self.encode(features, past), prior)",
                "self.predict(self.encode(features, past), target.labels)",
            ),
        ],
        {"priors are used as declared": "TypeError: ", "a video can be parsed": "TypeError: "},
    ),
    "secret_prior": (
        [('    prior = "own"\n', "")],
        {"priors are used as declared": "prior_key is the same for no prior and a prior, but the logits differ"},
    ),
    "odd_prior": (
        [('    prior = "own"\n', '    prior = "always"\n')],
        {"attributes are valid": "prior is 'always', not none, previous or own"},
    ),
    "raises_on_odd": (
        [
            (
                "        seen = F.interp",
                "        if features.deepest.shape[2] == 3:\n"
                "            raise RuntimeError('odd')\n        seen = F.interp",
            )
        ],
        {"logits have the right shape": "RuntimeError: odd (raises_on_odd.py:35)"},
    ),
    "void_is_nan": (
        [(").float().mean((1, 2))", ").float().sum((1, 2)) / (prior != 255).sum((1, 2))")],
        {"priors are used as declared": "expected the logits for a void prior to be finite"},
    ),
    "not_detached": (
        [
            ("features.deepest.detach().float()", "self.shift(features.deepest).float()"),
            ("self.mean.lerp_(sums.sum / sums.count, 0.1)", "self.mean.add_(0.1)"),
        ],
        {"sums of parts equal sums of the batch": "sum hold a graph"},
    ),
    "wrong_merge": (
        [("self.sum + later.sum", "self.sum")],
        {"sums of parts equal sums of the batch": "sum of two halves, merged, is off by"},
    ),
    "moves_weights": (
        [("self.mean.lerp_(", "self.last.bias.add_(0.1)\n        self.mean.lerp_(")],
        {"update changes buffers only": "it changed last.bias"},
    ),
    "unsaved": (
        [('self.register_buffer("mean", torch.zeros(deepest_channels))', "self.mean = torch.zeros(deepest_channels)")],
        {
            "update changes buffers only": "mean: a tensor that is in no checkpoint",
            "weights survive a round trip": "some state is in no state_dict()",
            "a resumed training is bit-identical": "some state is missing from the checkpoint",
        },
    ),
    "drawn_again": (
        [
            ("        self.register_buffer", "        self.drawn = float(torch.rand(1))\n        self.register_buffer"),
            ("return logits * (1 + 0.1", "return logits * (1 + self.drawn) * (1 + 0.1"),
        ],
        {"weights survive a round trip": "some state is in no state_dict()"},
    ),
    "writes_in_forward": (
        [("        logits = self.predict(", "        self.mean.data.add_(0.01)\n        logits = self.predict(")],
        {"update changes buffers only": "expected forward only to read the memory, but it changed mean"},
    ),
    "float_only": (
        [("        logits = cache", "        assert cache['logits'].dtype == torch.float32\n        logits = cache")],
        {"bf16 works": "AssertionError (float_only.py:38)"},
    ),
}


RETURN = "Total(torch.full_like(total, features.deepest[:, 0].numel()), total))"


def with_loss(*lines, more=""):
    """The sound decoder with a loss of its own: `lines` make `own`, a Loss."""
    body = "".join(f"        {line}\n" for line in lines)
    returned = f"        return Output(logits, (), {RETURN}"
    return changed(
        (returned, f"{body}{returned[:-1]}, ({more}own,))"),
        ("from models.contract import Output", "from models.contract import Loss, Output"),
    )


PER_IMAGE = "square = logits.float().square().mean((1, 2, 3))"
OWN_LOSSES = {
    "a_mean": (
        with_loss(PER_IMAGE, "own = Loss('size', square.mean(), 1)"),
        "size: the sum of two halves of a batch is",
    ),
    "a_taken_name": (
        with_loss(PER_IMAGE, "own = Loss('loss_main', square.sum(), len(square))"),
        "two losses or values of a step are named 'loss_main'",
    ),
    "twice": (
        with_loss(PER_IMAGE, "own = Loss('size', square.sum(), len(square))", more="own, "),
        "two losses or values of a step are named 'size'",
    ),
    "not_summed": (with_loss(PER_IMAGE, "own = Loss('size', square, len(square))"), "size: expected a sum of shape ()"),
    "a_negative_count": (
        with_loss(PER_IMAGE, "own = Loss('size', square.sum(), -1)"),
        "expected a count of at least 0",
    ),
}


@pytest.mark.parametrize("name", OWN_LOSSES)
def test_what_is_wrong_with_a_loss_of_ones_own_is_named(tmp_path, name):
    text, expected = OWN_LOSSES[name]
    write(tmp_path, "decoders", name, text)
    path, module = tmp_path / "decoders" / f"{name}.py", plugins.load("decoders", name, [tmp_path])
    subject = _decoder.Subject(name, path, module, (str(tmp_path),), module.Config())
    with pytest.raises(check.Broken, match=re.escape(expected)):
        _decoder.own_losses(subject)


def test_a_loss_of_ones_own_holds_and_a_decoder_without_one_has_none():
    found = run("boundary_loss", [EXAMPLES])
    assert broken(found) == {}
    assert found["losses of its own add up"].text == "boundary: sums and counts of two halves add up to the whole"
    assert "gradients, losses and buffers" in found[RANKS].text
    module, path = plugins.load("decoders", "upernet"), plugins.find("decoders", "upernet")
    subject = _decoder.Subject("upernet", path, module, (), module.Config(channels=8, aux_channels=8))
    assert _decoder.own_losses(subject) == "no losses of its own"


@pytest.mark.slow
def test_a_loss_that_each_rank_means_alone_is_found(tmp_path):
    """Uneven: of images with a label of class 1, of which ranks have other numbers."""
    lines = ("some = ((target.labels == 1).float().mean((1, 2)) > 0.05).float()", PER_IMAGE)
    mean = with_loss(*lines, "own = Loss('size', (some * square).sum() / some.sum().clamp_min(1), 1)")
    write(tmp_path, "decoders", "own_share", mean)
    titles = {one.what for one in check.checks("decoders", "own_share", [tmp_path], leave_out=(*TRAINING, RANKS))}
    found = broken(run("own_share", [tmp_path], leave_out=(titles | set(TRAINING)) - {RANKS}))
    assert "is something averaged over a rank's own images?" in found[RANKS]


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named(tmp_path, name):
    pairs, expected = BROKEN[name]
    write(tmp_path, "decoders", name, changed(*pairs))
    costly = () if set(TRAINING) & set(expected) else TRAINING
    found = broken(run(name, [tmp_path], leave_out=(*costly, RANKS, COST)))
    assert found.keys() == expected.keys(), found
    for what, text in expected.items():
        assert text in found[what]
        assert "\n" not in found[what]


@pytest.mark.slow
def test_statistics_of_a_ranks_own_images_are_found(tmp_path):
    text = changed(("features.deepest - self.mean", "features.deepest - features.deepest.mean(0) - self.mean"))
    write(tmp_path, "decoders", "own_mean", text)
    titles = {one.what for one in check.checks("decoders", "own_mean", [tmp_path], leave_out=(*TRAINING, RANKS))}
    found = broken(run("own_mean", [tmp_path], leave_out=(titles | set(TRAINING)) - {RANKS}))
    assert found.keys() == {RANKS}
    assert "is something averaged over a rank's own images?" in found[RANKS]


def test_a_file_that_does_not_import_says_where(tmp_path):
    write(tmp_path, "decoders", "typo", SOUND.replace("from torch import nn", "from torch import nm"))
    write(tmp_path, "decoders", "torn", "VERSION = 1\ndef (")
    typo, torn = (broken(run(name, [tmp_path])) for name in ("typo", "torn"))
    assert list(typo) == ["it imports"]
    assert "ImportError: cannot import name 'nm'" in typo["it imports"]
    assert typo["it imports"].endswith("(typo.py:6)")
    assert list(torn) == ["VERSION and Config are literals", "it imports"]
    assert "torn.py:2" in torn["VERSION and Config are literals"]


def test_a_plug_in_is_found_by_name_or_path(tmp_path):
    assert check.find("decoder_a") == ("decoders", "decoder_a", ())
    assert check.find("beit")[0] == "encoders"
    assert check.find("vspw")[0] == "datasets"
    example = EXAMPLES / "decoders" / "frame_difference.py"
    assert check.find(str(example)) == ("decoders", "frame_difference", (EXAMPLES,))
    assert check.find("frame_difference", [EXAMPLES]) == ("decoders", "frame_difference", (EXAMPLES,))
    assert check.find(str(plugins.find("decoders", "upernet"))) == ("decoders", "upernet", ())
    with pytest.raises(UsageError, match=r"did you mean 'decoder_a'\?\).*--plugins"):
        check.find("decoder_aa")
    with pytest.raises(UsageError, match="no such file"):
        check.find(str(tmp_path / "mine.py"))
    stray = tmp_path / "mine.py"
    shutil.copy(example, stray)
    with pytest.raises(UsageError, match="folder named decoders, encoders, datasets"):
        check.find(str(stray))
    write(tmp_path, "encoders", "upernet", "")
    with pytest.raises(UsageError, match="name of decoders and of encoders"):
        check.find("upernet", [tmp_path])


def test_options_are_fields_of_the_config(tmp_path):
    assert check.options(["data.vspw.root=/data", "n=3", "flag=true", "scales=[1,2]"]) == {
        "root": "/data",
        "n": 3,
        "flag": True,
        "scales": [1, 2],
    }
    with pytest.raises(UsageError, match="is not FIELD=VALUE"):
        check.options(["root"])
    write(tmp_path, "decoders", "wide", SOUND)
    found = run("wide", [tmp_path], given={"channels": 96}, leave_out=(*TRAINING, RANKS, COST))
    assert "channels=96" in found["attributes are valid"].text
