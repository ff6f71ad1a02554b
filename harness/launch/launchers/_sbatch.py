"""Slurm through submitit: what sbatch is told, its queue, and nothing of what a job is.

Every option comes from the person (`slurm:` in harness.yaml, --slurm key=value) and goes through to sbatch; none is
invented. The harness itself sets where logs go, the dependency, the signal before the time limit, and that a job may
be requeued.
"""

import logging
import os
import pwd
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
from harness.jobdir.paths import SlurmJob

log = logging.getLogger(__name__)

OURS = ("array", "chdir", "dependency", "error", "open_mode", "output", "parsable", "test_only", "wait", "wrap")
TASKS = ("ntasks", "ntasks_per_node", "ntasks_per_gpu")
LISTS = ("setup", "teardown", "srun_args")  # of lines, of lines, of words
NUMBERS = ("nodes", "max_num_timeout", "signal_delay_s")
INNER = ("setup", "teardown", "srun_args", "signal_delay_s", "max_num_timeout", "python")  # what is no option of sbatch
SRUN_ARGS, PYTHON = "HARNESS_SRUN_ARGS", "HARNESS_PYTHON"  # variables that tell the inner srun of these two
LIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING", "STOPPED", "SIGNALING")
REQUEUES = 1000  # times that a job may run into its limit; a day's limit and a month's training are thirty
BUSY = re.compile(r"MaxSubmit|GrpSubmit|submit limit|temporarily un", re.I)  # in sbatch's refusal: not now
OF_OTHERS = re.compile(r"Grp|PerAccount", re.I)  # such a limit may be used up by others


class Later(UnfitError):
    """The queue takes no further job now, or does not answer."""


class State(NamedTuple):
    """A job's state by squeue."""

    state: str  # PENDING, RUNNING, …
    reason: str = ""  # why it waits
    left: str = ""  # of its time limit
    user: str | None = None
    name: str | None = None

    @property
    def live(self) -> bool:
        """Whether it waits or runs."""
        return self.state in LIVE


def parse(flags: Iterable[str], base: Mapping[str, object]) -> JsonObject:
    """Return the options of --slurm over those of harness.yaml: `key=value`, `key` alone for a switch; lists add up.

    Raise UsageError for what the harness sets itself.
    """
    options: JsonObject = {key.replace("-", "_"): value for key, value in base.items()}
    options |= {key: items(key, options[key]) for key in LISTS if key in options}
    for flag in flags:
        key, equals, value = flag.partition("=")
        key = key.strip().lstrip("-").replace("-", "_")
        if not re.fullmatch(r"[a-z]\w*", key):
            raise UsageError(f"--slurm '{flag}' is not KEY=VALUE, for example --slurm partition=gpu")
        if key in LISTS:
            options[key] = [*options.get(key, []), *items(key, value)]
        else:
            options[key] = {"true": True, "false": False}.get(value.lower(), value) if equals else True
    for key in options:
        if key in OURS:
            raise UsageError(f"slurm option '{key}' is set by the harness; omit it")
        if key in TASKS:
            raise UsageError(f"slurm option '{key}': there is one task per node, which starts the ranks; use --nproc")
        if key == "signal":
            raise UsageError("slurm option 'signal' is set by the harness; use signal_delay_s=SECONDS")
    for key in NUMBERS:
        if key in options and not str(options[key]).isdecimal():
            raise UsageError(f"slurm option {key}={options[key]}: give a whole number")
    return options


def items(key: str, value: object) -> list[str]:
    """Return a list option's lines, or words for srun_args. Raise UsageError for quotes that are left open."""
    if not isinstance(value, str):
        return [str(item) for item in (value if isinstance(value, Iterable) else [value])]
    try:
        return shlex.split(value) if key == "srun_args" else [value]
    except ValueError as error:
        raise UsageError(f"slurm option {key}={value}: {error}") from error


def ranks(options: Mapping[str, object]) -> int | None:
    """Return the GPUs of a node as the options ask for them; None where they ask for none.

    Raise UsageError where a job's GPUs cannot be shared evenly by its nodes.
    """
    for key in ("gpus_per_node", "gpus_per_task", "gres", "tres_per_node", "tres_per_task", "gpus"):
        number = gpus(str(options.get(key, "")), bare=key.startswith("gpus"))
        if number is None:
            continue
        nodes = int(str(options.get("nodes", 1))) if key == "gpus" else 1
        if nodes and number % nodes:
            raise UsageError(f"slurm option gpus={options[key]}: {nodes} nodes cannot share them evenly; use --nproc")
        return number // max(nodes, 1)
    return None


def gpus(text: str, bare: bool) -> int | None:
    """Return the GPUs in "gpu:h100:8", "gres/gpu:8,license:1", or where `bare` in "h100:8"; types add up."""
    total = None
    for item in text.replace("gres:", "").replace("gres/", "").split(","):
        words = re.split(r"[:=]", item.partition("(")[0].strip())
        if words != [""] and (bare or words[0] == "gpu"):
            total = (total or 0) + (int(words[-1]) if words[-1].isdecimal() else 1)
    return total


def minutes(limit: object) -> int | None:
    """Return a time limit as sbatch reads it, in whole minutes; None for none. Raise UsageError."""
    text = str(limit)
    if text.upper() in ("INFINITE", "UNLIMITED"):
        return None
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not match:
        raise UsageError(f"slurm option time={text}: minutes, hours:minutes:seconds or days-hours:minutes:seconds")
    days, first, second, third = (int(part or 0) for part in match.groups())
    if match[1]:
        seconds = 86400 * days + 3600 * first + 60 * second + third
    elif match[4]:
        seconds = 3600 * first + 60 * second + third
    else:
        seconds = 60 * first + second
    return max(1, -(-seconds // 60))


def executor(folder: Path, options: JsonObject, name: str, after: Sequence[str] = ()) -> Any:
    """Return submitit's executor for one job that starts when those in `after` have ended, however they ended."""
    try:
        import submitit
    except ImportError as error:
        raise UnfitError("submitit is not installed: pip install '.[slurm]' (or omit --launcher slurm)") from error

    class Executor(submitit.SlurmExecutor):  # type: ignore[misc]  # submitit is untyped
        """Without the options that submitit invents; also where there is no Slurm, for --dry-run."""

        @classmethod
        def name(cls) -> str:
            return "slurm"

        @classmethod
        def affinity(cls) -> int:
            return 2

        chosen_cluster: str | None = None  # that sbatch has chosen of several

        def _get_job_id_from_submission_command(self, string: bytes | str) -> str:
            text = string if isinstance(string, str) else string.decode()
            match = re.search(r"job \d+ on cluster (\S+)", text)
            self.chosen_cluster = match[1] if match else None
            return str(super()._get_job_id_from_submission_command(text))

        def _make_submission_file_text(self, command: str, uid: str) -> str:
            text: str = super()._make_submission_file_text(command, uid)
            ours = text.replace("#SBATCH --wckey=submitit\n", "")
            return ours if "time" in options else re.sub(r"#SBATCH --time=.*\n", "", ours)

    parameters = set(Executor._valid_parameters())
    submitter = Executor(
        folder, max_num_timeout=int(options.get("max_num_timeout", REQUEUES)), python=python_of(options)
    )
    given = {
        key: value for key, value in options.items() if key in parameters and key not in ("time", "max_num_timeout")
    }
    rest = {key: value for key, value in options.items() if key not in parameters and key != "max_num_timeout"}
    if "time" in options:
        given["time"] = minutes(options["time"]) or 525_600
        rest["time"] = options["time"]
    if rest.get("requeue") is not False and "no_requeue" not in rest:
        rest["requeue"] = True
    own = {key: value for key, value in rest.items() if value is not False and key not in INNER}
    lead = ["--nodes=1", "--ntasks=1", "--overlap", *map(str, options.get("srun_args", []))]
    if "cpus_per_task" in options:
        lead.append(f"--cpus-per-task={options['cpus_per_task']}")  # srun does not inherit it since 22.05
    try:
        submitter.update_parameters(
            **{
                **given,
                "job_name": options.get("job_name", name),
                "nodes": int(options.get("nodes", 1)),
                "ntasks_per_node": 1,
                "srun_args": lead,
                "setup": [*variables(options), *options.get("setup", [])],
                "stderr_to_stdout": True,
                **({"dependency": f"afterany:{':'.join(after)}"} if after else {}),
                "additional_parameters": own,
            }
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"slurm options: {one_line(error)}") from error
    return submitter


def python_of(options: JsonObject) -> str:
    """Return the command that starts Python in a job, without it being killed by a signal meanwhile."""
    first = shlex.split(options["python"]) if "python" in options else child.python()[:1]
    return shlex.join([*first, "-I", "-S", "-c", child.KEEP_SIGNALS, *child.python()[1:]])


def variables(options: JsonObject) -> list[str]:
    """Return the lines of a script that set what its sruns read, the first also after --export=NONE."""
    values = {SRUN_ARGS: shlex.join(options.get("srun_args", [])), PYTHON: options.get("python", "")}
    exports = [f"export {name}={shlex.quote(value)}" for name, value in values.items() if value]
    return ["export SLURM_EXPORT_ENV=ALL", *exports]


def warn(options: JsonObject) -> None:
    """Warn where the jobs will lack our environment, MLflow's address and login among it."""
    asked = str(options.get("export", os.environ.get("SBATCH_EXPORT", "ALL")))
    if "ALL" not in asked.upper().split(","):
        log.warning(
            f"sbatch exports '{asked}': the jobs lack this environment; give them MLFLOW_TRACKING_… by `setup` lines "
            "or tracking_uri in harness.yaml, or omit that option (or SBATCH_EXPORT)"
        )


def script(submitter: Any) -> str:
    """Return the batch script that `submit` would hand to sbatch."""
    return str(submitter._make_submission_file_text(submitter._submitit_command_str, "dry"))


def submit(submitter: Any, work: Callable[[], Any]) -> str:
    """Submit one job; its number. Raise Later where the queue is full, UnfitError, both with sbatch's own words."""
    if shutil.which("sbatch") is None:
        raise UnfitError("sbatch is not installed on this machine: run this on a host of the cluster, or use --dry-run")
    try:
        return str(submitter.submit(work).job_id)
    except Exception as error:  # submitit wraps what sbatch printed
        errors = [line for line in str(error).splitlines() if "sbatch: error" in line] or [one_line(error)]
        words = one_line(" ".join(errors))
        if BUSY.search(words):
            raise Later(f"sbatch refused the job: {words}; wait, or give --max-jobs N") from error
        raise UnfitError(f"sbatch refused the job: {words}; check the slurm options") from error


def identity(submitter: Any, number: str) -> SlurmJob:
    """Return what tells a submitted job from another of the same number."""
    name = submitter.parameters["job_name"]
    return SlurmJob(number, submitter.chosen_cluster or configuration().get("ClusterName"), user(), name)


def user() -> str:
    """Return our name as Slurm has it."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def configuration(cluster: str | None = None) -> dict[str, str]:
    """Return Slurm's configuration, of this cluster or another; {} where it does not answer."""
    where = [] if cluster is None else [f"--clusters={cluster}"]
    answer = ask(["scontrol", *where, "show", "config"])
    lines = [] if answer is None or answer.returncode else answer.stdout.splitlines()
    pairs = [line.partition("=") for line in lines if "=" in line]
    return {key.strip(): value.strip() for key, _, value in pairs}


def ask(command: Sequence[str]) -> "subprocess.CompletedProcess[str] | None":
    """Return what one of Slurm's commands answers; None where it is not there or does not answer."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None


def queue(ids: Iterable[str], cluster: str | None = None) -> dict[str, State] | None:
    """Return jobs that Slurm still has, by number, of this cluster or another; None where it does not answer.

    A number may be another's by now: harness.launch.slurm_queue compares.
    """
    wanted = sorted(set(ids))
    if not wanted:
        return {}
    where = [] if cluster is None else [f"--clusters={cluster}"]
    form = "--format=%i|%T|%r|%L|%u|%j"
    answer = ask(["squeue", *where, "--noheader", "--states=all", form, f"--jobs={','.join(wanted)}"])
    # what it says where it has none of them
    if answer is None or (answer.returncode and "Invalid job id" not in answer.stderr):
        return None
    states = {}
    for line in answer.stdout.splitlines():
        if line.count("|") >= 5:  # not "CLUSTER: name"
            number, state, reason, left, owner, name = line.split("|", 5)
            states[number] = State(state, "" if reason == "None" else reason, left, owner, name)
    return states


def own_jobs() -> int | None:
    """Return how many jobs of ours wait or run; None where Slurm does not answer."""
    answer = ask(["squeue", "--me", "--noheader", "--format=%i"])
    return None if answer is None or answer.returncode else len(answer.stdout.split())


def cancel(ids: Sequence[str], cluster: str | None = None, name: str | None = None, signal: str | None = None) -> None:
    """Take jobs of ours out of the queue, with a name where one is given; one that has ended already is none.

    With a signal ("INT") send that to the processes of their steps instead.
    """
    if ids:
        filters = [f"--user={user()}", *([f"--name={name}"] if name else [])]
        filters += [f"--signal={signal}"] if signal else []
        where = [] if cluster is None else [f"--clusters={cluster}"]
        subprocess.run(["scancel", *where, *filters, *ids], capture_output=True, timeout=60, check=False)


def nodes_of(nodelist: str) -> list[str]:
    """Return the names of an allocation's nodes, in Slurm's order."""
    done = subprocess.run(["scontrol", "show", "hostnames", nodelist], capture_output=True, text=True, check=True)
    return done.stdout.split()
