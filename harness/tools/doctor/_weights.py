"""The encoder's weights: there, what kind of file, whose layout, and whether they fit. No pickle is executed."""

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from harness.config import input_digests
from harness.config.compose import Config
from harness.tools.doctor import _children
from harness.tools.doctor._facts import HubWeights, Networks, WeightsFile
from harness.tools.doctor._finding import Finding, count, size

PART = "weights"
WHERE = "docs/DATA.md lists sources of weights"
CONVERT = "if you trust the file, convert its tensors to safetensors (docs/DATA.md, Weights)"
MAX_HEADER = 100_000_000  # bytes, the format's own limit


def examine(config: Config, root: Path, networks: Networks) -> Iterator[Finding]:
    """Check the files that the encoder in use names, the hub's weights, and whether the encoder is built and filled."""
    name, crop = config["encoder"]["name"], config.train.crop
    section = config["encoder"].get(name, {})
    files = input_digests.content_files(config)
    readable = True
    for key, path in files.items():
        for finding in file(key, Path(path).expanduser(), root, networks, _children.classes(config)):
            readable &= finding.fit is not False
            yield finding
    if why := networks.broken or networks.error:
        remedy = f"choose another model or train.crop (encoder.{name}), or repair the installation"
        yield Finding(PART, False, f"encoder {name} cannot be built for windows of {crop}: {why}", remedy)
        return
    yield Finding(PART, True, f"encoder {name}: {networks.encoder / 1e6:.1f} M parameters, windows of {crop}")
    if networks.window:
        text, _, remedy = networks.window.rpartition("; ")
        yield Finding(PART, False, text, remedy)
    if files and readable:
        yield from fit(name, networks)
    elif section.get("pretrained") and not files:
        yield from hub(name, networks.hub)
    elif not files:
        yield Finding(PART, None, f"encoder {name} starts from random weights (neither weights nor pretrained is set)")


def fit(name: str, networks: Networks) -> Iterator[Finding]:
    """Yield whether the files fill the encoder."""
    if not networks.misfit:
        note = f": {networks.note}" if networks.note else ""
        yield Finding(PART, True, f"encoder {name} accepts these weights{note}")
        return
    remedy = f"use weights of this model, or set encoder.{name}.model to theirs; {WHERE}"
    yield Finding(PART, False, f"encoder {name} does not accept them: {networks.misfit}", remedy)


def file(key: str, path: Path, root: Path, networks: Networks, classes: int | None) -> Iterator[Finding]:
    """Check a file: kind, size and digest from its bytes; tensors and layout from the child that read it."""
    if not path.is_file():
        yield Finding(PART, False, f"{key}={path}: no such file", f"set {key}=FILE; {WHERE}")
        return
    try:
        what, problem, remedy = kind(path)
        if not problem:
            digest = input_digests.file_digest(path, root)
            yield Finding(PART, True, f"{path}: {what}, {size(path.stat().st_size)}, sha256 {digest}")
    except OSError as error:
        problem, remedy = f"cannot be read ({error.strerror})", "change its permissions so that you can read it"
    if problem:
        yield Finding(PART, False, f"{path}: {problem}", remedy)
        return
    yield from inside(path, networks.files.get(key), classes)


def inside(path: Path, contents: WeightsFile | None, classes: int | None) -> Iterator[Finding]:
    """Yield findings on the contents of a file; None: they were not read."""
    if contents is None:
        return
    if contents.imports:
        text = f"{path}: a pickle that would run code ({contents.imports}); it was rejected and none of its code ran"
        yield Finding(PART, False, text, CONVERT)
    elif contents.error:
        yield Finding(PART, False, contents.error, f"download it again; {WHERE}")
    else:
        own = contents.classes
        trained = f", trained for {own} classes" if own else ""
        yield Finding(PART, None, f"{path}: {count(contents.tensors, 'tensor')}, {contents.layout} layout{trained}")
        if own and classes and own != classes:
            text = f"{path}: trained for {own} classes, the data set has {classes}"
            yield Finding(PART, False, text, "use the checkpoint with the data set that it was trained on")
        if contents.self_supervised:
            text = f"{path}: self-supervised only; the paper starts from weights that were fine-tuned on ImageNet-22k"
            yield Finding(PART, None, text, "use beit_large_patch16_224_pt22k_ft22k (docs/DATA.md)")


def kind(path: Path) -> tuple[str, str, str]:
    """Return a file's format by its first bytes, or "" with the problem and its remedy."""
    with path.open("rb") as opened:
        head = opened.read(64)
    again = f"download it again; {WHERE}"
    if not head:
        return "", "0 bytes", again
    if head.startswith(b"version https://git-lfs"):
        return "", "a Git LFS pointer, not the file it points to", "run `git lfs pull` where it came from"
    if head.lstrip()[:1] == b"<":
        return "", "a web page, not weights: the download hit a login or error page", again
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < MAX_HEADER:
        return "safetensors", damage(path, int.from_bytes(head[:8], "little")), again
    if head.startswith(b"PK"):
        return ("torch", "", "") if zipfile.is_zipfile(path) else ("", "a truncated torch file", again)
    if head.startswith(b"\x80"):
        return "torch (the old format)", "", ""
    return "", "neither safetensors nor a torch file", f"give a .safetensors, .pt or .pth file; {WHERE}"


def damage(path: Path, header: int) -> str:
    """Return what is wrong with a safetensors file: a header that is no JSON, or another length than it says."""
    with path.open("rb") as opened:
        opened.seek(8)
        try:
            tensors = json.loads(opened.read(header))
            end = max(
                (entry["data_offsets"][1] for name, entry in tensors.items() if name != "__metadata__"), default=0
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            return "a safetensors file with a damaged header"
    whole = 8 + header + end
    length = path.stat().st_size
    return "" if length == whole else f"a safetensors file of {length} bytes where its header says {whole}"


def hub(name: str, weights: HubWeights | None) -> Iterator[Finding]:
    """Yield weights that timm fetches: here already, or to be fetched at the first run."""
    local = f"or set encoder.{name}.weights=FILE; {WHERE}"
    if weights is None:
        yield Finding(PART, None, f"encoder {name}: pretrained=true; the encoder chooses the source itself")
    elif weights.cached:
        yield Finding(PART, True, f"{weights.id} is in this machine's hub cache")
    elif os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        text = f"{weights.id} is not in the hub cache, and HF_HUB_OFFLINE forbids downloading it"
        yield Finding(PART, False, text, f"download it on a machine with network access, {local}")
    else:
        text = f"{weights.id} is not in the hub cache: the first training downloads it, which needs network access"
        yield Finding(PART, None, text, f"for nodes without network access, download it first, {local}")
