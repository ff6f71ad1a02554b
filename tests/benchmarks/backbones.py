"""What plain ViTs cost under `timm_plain`: the table of docs/BACKBONES.md.

    python tests/benchmarks/backbones.py [MODEL ...]      parameters, GFLOPs and the memory of a training step
    python tests/benchmarks/backbones.py --names          which of timm's names are taken, on the meta device

Each model is the encoder alone, pyramid included, with random weights. GFLOPs are counted (harness/engine/flops.py), of
one image's forward pass. Memory is the growth of a process from before the model is built to its peak in a step: one
image, float32, AdamW with its moments, on the CPU; Linux.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]

import timm  # noqa: E402
import torch  # noqa: E402
from benchmarks.measure import peak_of  # noqa: E402
from tabulate import tabulate  # noqa: E402

from harness.engine.flops import fake_model, passes  # noqa: E402
from models.encoders import timm_plain  # noqa: E402

SIDE = 448  # a multiple of 14, 16 and 32
MODELS = (
    "vit_tiny_patch16_224",
    "vit_small_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",
    "vit_tiny_patch16_dinov3_qkvb",
    "vit_small_patch16_dinov3",
    "eva02_tiny_patch14_224",
    "eva02_small_patch14_224",
    "vit_xsmall_patch16_clip_224",
    "vit_base_patch16_clip_224",
    "vit_base_patch16_siglip_224",
    "vit_base_patch16_224.mae",
    "vit_pe_spatial_tiny_patch16_512",
)


def flops(model: str, side: int) -> int:
    """Of one image's forward pass."""
    encoder = {"name": "timm_plain", "config": {"model": model}}
    job = {"encoder": encoder, "decoder": {"name": "upernet", "config": {}}, "plugins": (), "train": {"crop": side}}
    model, mode = fake_model(job, 2)
    with mode:
        return passes(model, side, side).features


def step(model: str, side: int, checkpoint: bool) -> None:
    """Build an encoder and take one training step of it, AdamW's moments at hand."""
    encoder = timm_plain.Encoder(timm_plain.Config(model=model, checkpoint=checkpoint), side).train()
    optimiser = torch.optim.AdamW(encoder.parameters())
    for parameter in encoder.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    optimiser.zero_grad()
    features = encoder(torch.randn(1, 3, side, side))
    sum(value.square().mean() for value in (*features.levels, features.deepest)).backward()
    optimiser.step()


def measure(model: str, side: int = SIDE) -> dict[str, Any]:
    """A model's row; memory with and without checkpoints, in processes of their own."""
    encoder = timm_plain.Encoder(timm_plain.Config(model=model), side)
    memory = {}
    for checkpoint in (False, True):
        command = [sys.executable, __file__, "--step", model, "--side", str(side), *["--checkpoint"] * checkpoint]
        memory[checkpoint] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {
        "model": model,
        "patch": encoder.multiple,
        "blocks": encoder.num_layers,
        "M parameters": sum(value.numel() for value in encoder.parameters()) / 1e6,
        "GFLOPs": flops(model, side) / 1e9,
        "MB a step": memory[False] / 1e6,
        "with checkpoint": memory[True] / 1e6,
    }


def names(side: int = 224) -> dict[str, str]:
    """Every name of timm's files for plain ViTs: "" where it is taken, or why not."""
    found = {}
    for module in ("vision_transformer", "eva", "deit"):
        for model in timm.list_models(module=module):
            try:
                with torch.device("meta"):
                    timm_plain.Encoder(timm_plain.Config(model=model), side)
                found[model] = ""
            except ValueError as error:
                found[model] = str(error).removeprefix(model).strip()
    return found


def main() -> None:
    """Print a table, the names, or one step's bytes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--names", action="store_true")
    parser.add_argument("--step", metavar="MODEL")
    parser.add_argument("--checkpoint", action="store_true")
    parser.add_argument("--side", type=int, default=SIDE)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.step:
        step("test_vit", 32, checkpoint=False)  # libraries take their own workspaces at the first run
        before, peak = peak_of(lambda: step(asked.step, asked.side, asked.checkpoint))
        print(peak - before)
    elif asked.names:
        print(json.dumps(Counter(names().values()), indent=1))
    else:
        rows = [measure(model, asked.side) for model in asked.models]
        print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".1f"))


if __name__ == "__main__":
    main()
