"""Questions that only torch or timm can answer, asked in child processes: ours stays light, and survives theirs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.common.errors import HarnessError
from harness.config import input_digests
from harness.config.compose import Config
from harness.launch.preflight import ask


def machine() -> dict[str, Any]:
    """What torch, torchvision and timm say of themselves, and torch of its devices (_child_machine)."""
    return ask("harness.tools.doctor._child_machine", {})


def models(config: Config, decoders: Sequence[str]) -> dict[str, Any]:
    """What the encoder says of its weights and its window, and how large the networks are (_child_models)."""
    name = config["encoder"]["name"]
    files = {
        key: path for key, path in input_digests.content_files(config).items() if Path(path).expanduser().is_file()
    }
    return ask(
        "harness.tools.doctor._child_models",
        {
            "encoder": {"name": name, "config": config["encoder"].get(name, {})},
            "plugins": [str(Path(folder).absolute()) for folder in config.folders],
            "crop": config.train.crop,
            "window": config["evaluate"]["window"] or config.train.crop,
            "classes": classes(config),
            "files": files,
            "decoders": {each: config["decoder"].get(each, {}) for each in decoders},
        },
    )


def classes(config: Config) -> int:
    """Classes of the data set; of VSPW where it cannot say."""
    if config.content.classes is not None:
        return config.content.classes
    try:
        return len(input_digests.build_dataset(config).classes)
    except HarnessError:
        return 124
