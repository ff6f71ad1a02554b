"""Questions that only torch or timm can answer, asked in child processes: ours stays light, and survives theirs."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from harness.common import child
from harness.common.errors import HarnessError
from harness.common.redaction import one_line
from harness.config import input_digests
from harness.config.compose import Config
from harness.launch.launchers._environment import child_environment
from harness.tools.doctor._facts import Machine, Networks, Question

Answer = TypeVar("Answer", Machine, Networks)
PATIENCE = 600  # seconds; BEiT-Large's weights from a slow disk are minutes


def ask(module: str, kind: type[Answer], question: str = "") -> Answer:
    """Return a child's answer; one that is `broken`, with the reason, where it has none."""
    try:
        done = subprocess.run(
            child.python("-m", module),
            input=question,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=child_environment(),
            check=False,
        )
        answer: Answer = TypeAdapter(kind).validate_json(done.stdout)
        return answer
    except subprocess.TimeoutExpired:
        return kind(broken=f"no answer within {PATIENCE} seconds")
    except ValueError:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return kind(broken=one_line(lines[-1]))


def machine() -> Machine:
    """Return what torch, torchvision and timm say of themselves, and torch of its devices (_child_machine)."""
    return ask("harness.tools.doctor._child_machine", Machine)


def networks(config: Config, decoders: Sequence[str]) -> Networks:
    """Return what the encoder says of its weights and its window, and the networks' sizes (_child_models)."""
    name = config["encoder"]["name"]
    question = Question(
        encoder=name,
        options=config["encoder"].get(name, {}),
        plugins=tuple(str(Path(folder).absolute()) for folder in config.folders),
        crop=config.train.crop,
        classes=classes(config),
        files={
            key: path for key, path in input_digests.content_files(config).items() if Path(path).expanduser().is_file()
        },
        decoders={decoder: config["decoder"].get(decoder, {}) for decoder in decoders},
    )
    return ask("harness.tools.doctor._child_models", Networks, json.dumps(asdict(question)))


def classes(config: Config) -> int:
    """Classes of the data set; of VSPW where it cannot say."""
    if config.content.classes is not None:
        return config.content.classes
    try:
        return len(input_digests.build_dataset(config).classes)
    except HarnessError:
        return 124
