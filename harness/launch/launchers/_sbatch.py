"""Slurm through submitit: what sbatch is told, its queue, and nothing of what a job is.

Every option comes from the person (`slurm:` in harness.yaml, --slurm key=value) and goes through to sbatch; none is
invented. The harness itself sets where logs go, the dependency, the signal before the time limit, and that a job may
be requeued.
"""

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.common import child
from harness.common.atomic_files import JsonObject
from harness.common.errors import UnfitError, UsageError
from harness.common.redaction import one_line

OURS = ("array", "chdir", "dependency", "error", "open_mode", "output", "parsable", "test_only", "wait", "wrap")
TASKS = ("ntasks", "ntasks_per_node", "ntasks_per_gpu")
SUBMITIT = ("setup", "teardown", "srun_args", "signal_delay_s", "max_num_timeout")  # what is no option of sbatch
LIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING", "STOPPED", "SIGNALING")
REQUEUES = 1000  # times that a job may run into its limit; a day's limit and a month's training are thirty


class State(NamedTuple):
    """What squeue says of a job."""

    state: str  # PENDING, RUNNING, …
    reason: str = ""  # why it waits
    left: str = ""  # of its time limit

    @property
    def live(self) -> bool:
        """Whether it waits or runs."""
        return self.state in LIVE


def parse(flags: Iterable[str], base: Mapping[str, object]) -> JsonObject:
    """Options of --slurm over those of harness.yaml: `key=value`, `key` alone for a switch; set-up lines add up.

    Raises UsageError for what the harness sets itself.
    """
    options: JsonObject = {key.replace("-", "_"): value for key, value in base.items()}
    options = {key: [value] if key == "setup" and isinstance(value, str) else value for key, value in options.items()}
    added: list[str] = []
    for flag in flags:
        key, equals, value = flag.partition("=")
        key = key.strip().lstrip("-").replace("-", "_")
        if not re.fullmatch(r"[a-z]\w*", key):
            raise UsageError(f"--slurm '{flag}' is no key=value, for example --slurm partition=gpu")
        if key == "setup":
            added.append(value)
        else:
            options[key] = {"true": True, "false": False}.get(value.lower(), value) if equals else True
    if added:
        options["setup"] = [*options.get("setup", []), *added]
    for key in options:
        if key in OURS:
            raise UsageError(f"slurm option '{key}' is set by the harness; leave it out")
        if key in TASKS:
            raise UsageError(f"slurm option '{key}': there is one task a node, which starts the ranks; use --nproc")
    for key in ("nodes", "max_num_timeout"):
        if key in options and not str(options[key]).isdecimal():
            raise UsageError(f"slurm option {key}={options[key]}: give a whole number")
    return options


def ranks(options: Mapping[str, object]) -> int | None:
    """GPUs of a node as the options ask for them; None where they ask for none."""
    for key in ("gpus_per_node", "gres", "gpus_per_task"):
        for item in str(options.get(key, "")).split(","):
            found = re.search(r"(?:^|[:=])(\d+)(?:\(.*\))?$", item)
            if found and (key != "gres" or item.startswith(("gpu", "gres:gpu", "gres/gpu"))):
                return int(found[1])
    return None


def minutes(limit: object) -> int | None:
    """A time limit as sbatch reads it, in whole minutes; None for none. Raises UsageError."""
    text = str(limit)
    if text.upper() in ("INFINITE", "UNLIMITED"):
        return None
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not found:
        raise UsageError(f"slurm option time={text}: minutes, hours:minutes:seconds or days-hours:minutes:seconds")
    days, first, second, third = (int(part or 0) for part in found.groups())
    if found[1]:
        seconds = 86400 * days + 3600 * first + 60 * second + third
    elif found[4]:
        seconds = 3600 * first + 60 * second + third
    else:
        seconds = 60 * first + second
    return max(1, -(-seconds // 60))


def executor(folder: Path, options: Mapping[str, Any], name: str, after: Sequence[str] = ()) -> Any:
    """submitit's executor for one job that starts when those in `after` have ended, however they ended."""
    try:
        import submitit
    except ImportError as error:
        raise UnfitError("submitit is not installed: pip install '.[slurm]' (or leave --launcher slurm out)") from error

    class Executor(submitit.SlurmExecutor):  # type: ignore[misc]  # submitit is untyped
        """Without the options that submitit invents; also where there is no Slurm, for --dry-run."""

        @classmethod
        def name(cls) -> str:
            return "slurm"

        @classmethod
        def affinity(cls) -> int:
            return 2

        def _make_submission_file_text(self, command: str, uid: str) -> str:
            text: str = super()._make_submission_file_text(command, uid)
            ours = text.replace("#SBATCH --wckey=submitit\n", "")
            return ours if "time" in options else re.sub(r"#SBATCH --time=.*\n", "", ours)

    known = set(Executor._valid_parameters())
    made = Executor(
        folder, max_num_timeout=int(options.get("max_num_timeout", REQUEUES)), python=shlex.join(child.python())
    )
    given = {key: value for key, value in options.items() if key in known and key not in ("time", "max_num_timeout")}
    rest = {key: value for key, value in options.items() if key not in known and key != "max_num_timeout"}
    if "time" in options:
        given["time"] = minutes(options["time"]) or 525_600
        rest["time"] = options["time"]
    if rest.get("requeue") is not False and "no_requeue" not in rest:
        rest["requeue"] = True
    own = {key: value for key, value in rest.items() if value is not False and key not in SUBMITIT}
    lead = ["--nodes=1", "--ntasks=1", "--overlap", *map(str, options.get("srun_args", []))]
    if "cpus_per_task" in options:
        lead.append(f"--cpus-per-task={options['cpus_per_task']}")  # srun does not inherit it since 22.05
    try:
        made.update_parameters(
            **{
                **given,
                "job_name": options.get("job_name", name),
                "nodes": int(options.get("nodes", 1)),
                "ntasks_per_node": 1,
                "srun_args": lead,
                "stderr_to_stdout": True,
                **({"dependency": f"afterany:{':'.join(after)}"} if after else {}),
                "additional_parameters": own,
            }
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"slurm options: {one_line(error)}") from error
    return made


def script(made: Any) -> str:
    """The batch script that `submit` would hand to sbatch."""
    return str(made._make_submission_file_text(made._submitit_command_str, "dry"))


def submit(made: Any, work: Callable[[], Any]) -> str:
    """Submit one job; its number. Raises UnfitError with sbatch's own words."""
    if shutil.which("sbatch") is None:
        raise UnfitError("there is no sbatch on this machine: run this on a host of the cluster, or use --dry-run")
    try:
        return str(made.submit(work).job_id)
    except Exception as error:  # submitit wraps what sbatch printed
        said = [line for line in str(error).splitlines() if "sbatch: error" in line] or [one_line(error)]
        raise UnfitError(f"sbatch refused the job: {one_line(' '.join(said))}; check the slurm options") from error


def queue(ids: Iterable[str]) -> dict[str, State] | None:
    """Jobs that Slurm still knows, by number; None where there is no Slurm, or it does not answer."""
    wanted = sorted(set(ids))
    if not wanted:
        return {}
    command = ["squeue", "--noheader", "--states=all", "--format=%i|%T|%r|%L", f"--jobs={','.join(wanted)}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode and "Invalid job id" not in answer.stderr:  # what it says where it knows none of them
        return None
    lines = [(*line.split("|"), "", "", "")[:4] for line in answer.stdout.splitlines()]
    return {number: State(state, "" if reason == "None" else reason, left) for number, state, reason, left in lines}


def cancel(ids: Sequence[str]) -> None:
    """Take jobs out of the queue; one that has ended already is none."""
    if ids:
        subprocess.run(["scancel", *ids], capture_output=True, timeout=60, check=False)


def nodes_of(nodelist: str) -> list[str]:
    """Names of an allocation's nodes, in Slurm's order."""
    done = subprocess.run(["scontrol", "show", "hostnames", nodelist], capture_output=True, text=True, check=True)
    return done.stdout.split()
