"""Every number of the paper that we print, and what makes a setting the paper's.

Source: Jin et al., "Memory Based Video Scene Parsing", second place of the VSPW challenge 2021. Nothing of it is ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One number of the paper: mIoU in percent, the gain where the paper prints one, and where it stands."""

    miou: float
    gain: float | None
    source: str
    hidden: bool = False  # measured on labels that are not public


@dataclass(frozen=True)
class Claim:
    """A gain that the paper states or its tables imply, in percent of mIoU, of a cell over a baseline."""

    experiment: str
    cell: str
    baseline: str
    gain: float
    source: str


CELLS: Mapping[tuple[str, str], Published] = {
    ("ablation_ensemble", "upernet"): Published(60.02, None, "Table 1, row 1"),
    ("ablation_ensemble", "decoder_a"): Published(61.24, 1.22, "Table 1, row 2; gain in §5.2"),
    ("ablation_ensemble", "decoder_b"): Published(61.18, 1.16, "Table 1, row 3; gain in §5.2"),
    ("ablation_ensemble", "decoder_ab"): Published(62.12, None, "Table 1, row 4"),
    ("ablation_stages", "stage0"): Published(61.24, None, "Table 2, row 1"),
    ("ablation_stages", "stage1"): Published(61.43, None, "Table 2, row 2"),
    ("ablation_stages", "stage2"): Published(61.44, None, "Table 2, row 3"),
    ("ablation_stages", "stage3"): Published(61.43, None, "Table 2, row 4"),
    ("final_framework", "test"): Published(57.44, None, "§5.3, test server", hidden=True),
}

CLAIMS = (
    Claim("ablation_ensemble", "decoder_a", "upernet", 1.22, "§5.2; Table 1, rows 1 and 2"),
    Claim("ablation_ensemble", "decoder_b", "upernet", 1.16, "§5.2; Table 1, rows 1 and 3"),
    Claim("ablation_ensemble", "decoder_ab", "decoder_a", 0.88, "Table 1, rows 2 and 4, difference"),
    Claim("ablation_stages", "stage1", "stage0", 0.19, "Table 2, rows 1 and 2, difference"),
)

DATASET = "vspw"
ENCODER = "beit_large_patch16_224.in22k_ft_in22k"  # §3: 24 layers, 1024 wide; §5.1: pre-trained on ImageNet-22k
BACKBONE = "BEiT-Large"
EPOCHS = 240  # §5.1
RANKS = 8  # §5.1: GPUs
BATCH = 16  # §5.1; batch norm is synchronised over it (§4)
LABEL = "VSPW, BEiT-L"  # what heads the paper's columns where ours are of another setting

# (key, what it is called, the paper's value); the counts of classes and videos are VSPW's, the rest is §5.1
DATA = (
    ("classes", "classes", 124),
    ("train_videos", "training videos", 2806),
    ("val_videos", "validation videos", 343),
)
RECIPE = (
    ("batch", "batch", BATCH),
    ("micro_batch", "BN group", BATCH),
    ("crop", "crop", 512),
    ("lr", "learning rate", 2e-5),
    ("weight_decay", "weight decay", 0.05),
    ("frames_per_video", "frames per video", 1),
)
REQUIRED = ("batch", "micro_batch", "crop")  # silence about these is no agreement


def published(experiment: str, cell: str) -> Published | None:
    """Return the paper's number for a cell; None where it prints none."""
    return CELLS.get((experiment, cell))


def claims(experiment: str) -> tuple[Claim, ...]:
    """Return the paper's claims that an experiment bears on; none for an experiment that the paper does not have."""
    return tuple(claim for claim in CLAIMS if claim.experiment == experiment)


def backbone(encoder: str) -> str:
    """Return a backbone's name as tables print it: the paper's for the paper's, a plain name for the tiny sibling."""
    return {ENCODER: BACKBONE, "tiny": "tiny BEiT"}.get(encoder, encoder)


def not_the_papers(setting: Mapping[str, object]) -> list[str]:
    """Return what keeps a setting's numbers from standing beside the paper's, as short phrases; empty: comparable.

    Known keys: dataset, encoder, pretrained, epochs, options, and those of DATA and RECIPE; others do not matter. What
    the paper does not state (momentum, layer decay, precision) is never held against a setting.
    """
    return _data(setting) + _backbone(setting) + _schedule(setting)


def _data(setting: Mapping[str, object]) -> list[str]:
    dataset = setting.get("dataset")
    if dataset != DATASET:
        return [f"data: {dataset or 'not known'}"]
    return [
        f"data: {setting[key]} {name} instead of {value}"
        for key, name, value in DATA
        if setting.get(key) not in (None, value)
    ]


def _backbone(setting: Mapping[str, object]) -> list[str]:
    encoder = setting.get("encoder")
    if encoder != ENCODER:
        return [f"backbone: {backbone(str(encoder)) if encoder else 'not known'}"]
    return ["backbone: random weights"] if setting.get("pretrained") is False else []


def _schedule(setting: Mapping[str, object]) -> list[str]:
    epochs = setting.get("epochs")
    different = []
    if epochs != EPOCHS:
        different.append(f"schedule: {count(epochs, 'epoch') if isinstance(epochs, int) else 'not known'}")
    for key, name, value in RECIPE:
        ours = setting.get(key)
        if ours is None and key in REQUIRED:
            different.append(f"{name} not known")
        elif ours is not None and ours != value:
            different.append(f"{name} {ours} instead of {value}")
    if options := setting.get("options"):
        different.append(f"training options: {options}")
    return different


def count(number: int, noun: str) -> str:
    """Return '1 epoch', '3 epochs'."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
