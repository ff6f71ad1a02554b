"""`train.start`: the file of weights that a training begins from, whatever it is named by."""

import re
from pathlib import Path

from harness.common.errors import UnfitError
from harness.config.compose import Config
from harness.jobdir.paths import JobDir, OutputDir

FINGERPRINT = re.compile(r"[0-9a-f]{16}")


def is_local(start: str) -> bool:
    """Return whether `start` names a file, a job's directory or a fingerprint, and no model of a registry."""
    if FINGERPRINT.fullmatch(start) or Path(start).expanduser().exists():
        return True
    looks_like_a_file = "/" in start or Path(start).suffix in (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
    return not start.startswith("models:/") and looks_like_a_file


def located(config: Config, root: Path | None) -> tuple[Config, str]:
    """Return the configuration with the file for `train.start`, or unchanged with the reason why there is none."""
    if config.train.start is None:
        return config, ""
    try:
        return config.with_values({"train.start": str(locate(config.train.start, root))}), ""
    except (OSError, UnfitError, ValueError, RuntimeError) as error:  # a NUL in the path; ~nobody
        return config, str(error)


def locate(start: str, root: Path | None) -> Path:
    """Return the file that `start` names: itself, or the weights of a finished training of this root or folder.

    Raise UnfitError where there is none.
    """
    path = Path(start).expanduser()
    if path.is_file():
        return path.absolute()
    if FINGERPRINT.fullmatch(start) and not path.is_dir():
        if root is None or not OutputDir(root).job(start).folder.is_dir():
            raise UnfitError(
                f"train.start={start}: {root or 'this output directory'} has no such job; set its directory with --root"
            )
        path = OutputDir(root).job(start).folder
    elif not path.is_dir():
        raise UnfitError(f"train.start={start}: no such file, job or registered model")
    files = JobDir(path)
    outcome = files.outcome()
    if not files.weights_file.is_file() or (outcome is not None and outcome.status != "finished"):
        raise UnfitError(f"train.start={start}: not a finished training; name one that has weights.safetensors")
    return files.weights_file.absolute()
