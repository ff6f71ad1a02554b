"""Questions that only torch or timm can answer, asked in child processes: ours stays light, and survives theirs.

Each child begins at once; what is returned waits for its answer.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from harness.common.errors import HarnessError
from harness.config import input_digests
from harness.config.compose import Config
from harness.launch.preflight import ask
from harness.tools.doctor._facts import Machine, Networks, Question


def machine() -> Callable[[], Machine]:
    """Ask torch, torchvision and timm about themselves, and torch about its devices (_child_machine)."""
    return ask("harness.tools.doctor._child_machine", Machine)


def networks(config: Config, decoders: Sequence[str]) -> Callable[[], Networks]:
    """Ask the encoder about its weights and its window, and for the networks' sizes (_child_models)."""
    name = config["encoder"]["name"]
    question = Question(
        encoder=name,
        options=config["encoder"].get(name, {}),
        plugins=tuple(str(Path(folder).absolute()) for folder in config.folders),
        crop=config.train.crop,
        window=config["evaluate"]["window"] or config.train.crop,
        classes=classes(config),
        files={
            key: path for key, path in input_digests.content_files(config).items() if Path(path).expanduser().is_file()
        },
        decoders={decoder: config["decoder"].get(decoder, {}) for decoder in decoders},
    )
    return ask("harness.tools.doctor._child_models", Networks, json.dumps(asdict(question)))


def classes(config: Config) -> int:
    """Return the classes of the data set; of VSPW where it cannot say."""
    if config.content.classes is not None:
        return config.content.classes
    try:
        return len(input_digests.build_dataset(config).classes)
    except HarnessError:
        return 124
