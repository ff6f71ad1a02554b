"""Left-over variables, odd encodings, umasks, working directories and limits: a run ends well or in a line, in time."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import in_process
import one_model
import pytest
from command_line import environment
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from shadows import shadow

from harness.common.atomic_files import read_json, write_json
from harness.config import compose
from harness.config.plugins import PROJECT
from harness.engine.runtime import Stop, this_rank
from harness.engine.worker import launch
from harness.plan import plan as planning
from harness.plan.job import Train
from harness.plan.spec import LaunchSpec, to_json

SECONDS = 60.0  # of an idle machine with two cores; of CPU on any
SLOWER = float(os.environ.get("HARNESS_TEST_SLOWER", "4"))  # machines that tests share
SMALL = (  # two steps, two frames
    *("data.synthetic.train_videos=2", "data.synthetic.val_videos=1", "data.synthetic.frames=2"),
    *("train.epochs=2", "train.batch=2", "train.frames_per_video=1", "train.checkpoint_every=1"),
    *("train.crop=32", "train.short_side=32"),
)
VARIABLES = {  # what is left over, or a person has set
    "RANK": ("1", "x"),
    "WORLD_SIZE": ("2", "0"),
    "LOCAL_RANK": ("3",),
    "LOCAL_WORLD_SIZE": ("8", "0"),
    "MASTER_ADDR": ("gone.invalid",),
    "MASTER_PORT": ("1",),
    "PET_NNODES": ("2",),
    "PET_NPROC_PER_NODE": ("4",),
    "PET_RDZV_ENDPOINT": ("gone.invalid:1",),
    "PET_MAX_RESTARTS": ("x",),
    "TORCHELASTIC_RUN_ID": ("old",),
    "GROUP_RANK": ("1",),
    "SLURM_PROCID": ("1",),
    "SLURM_JOB_ID": ("7",),
    "GIT_DIR": ("/nowhere",),
    "GIT_WORK_TREE": ("/",),
    "GLOO_SOCKET_IFNAME": ("gone0",),
    "CUDA_VISIBLE_DEVICES": ("-1", ""),
    "PYTHONUTF8": ("0",),
    "PYTHONCOERCECLOCALE": ("0",),
    "PYTHONIOENCODING": ("ascii", "latin-1", "utf-16"),
    "LC_ALL": ("C", "xx_YY.UTF-8"),
    "PYTHONUNBUFFERED": ("1",),
    "PYTHONDONTWRITEBYTECODE": ("1",),
    "PYTHONWARNINGS": ("always",),
    "TERM": ("", "dumb"),
    "COLUMNS": ("0", "x"),
    "TMPDIR": ("/nowhere",),
    "HOME": ("/nowhere", ""),
    "TZ": ("Nowhere/Else",),
    "http_proxy": ("http://gone.invalid:1",),
}
COMMANDS = {  # what is left to do -> times in twenty; the dear ones in the middle, which hypothesis does not prefer
    "begun": 8,  # one of the training's two steps
    "new": 1,  # all: the networks are checked, trained and evaluated
    "done": 6,  # the table
    "planned": 5,  # nothing is run
}
SHADOWS = ("none", "file", "folder")
FOLDERS = ("plain", "with a space", "with # and ${x}", "étage-フ", "-dash", "a" * 120)
SITE = "import os, sys\nprint('module loaded: é', flush=True)\nos.write(1, b'{\"exit_code\": 75}\\n')\n"


@dataclass(frozen=True)
class Surroundings:
    """Where and how a command is given."""

    variables: dict[str, str] = field(default_factory=dict)
    umask: int = 0o022
    folder: str = "plain"
    shadow: str = "none"
    site: bool = False  # a sitecustomize that prints into every Python process
    files: int = 1024  # ulimit -n
    host: bool = False  # the host's own name resolves to nothing
    ranks: int = 1
    command: str = "begun"


def variables(names: list[str]) -> st.SearchStrategy[dict[str, str]]:
    return st.fixed_dictionaries({name: st.sampled_from(VARIABLES[name]) for name in names})


SURROUNDINGS = st.builds(
    Surroundings,
    variables=st.lists(st.sampled_from(sorted(VARIABLES)), unique=True, max_size=8).flatmap(variables),
    umask=st.sampled_from([0o000, 0o002, 0o022, 0o027, 0o077]),
    folder=st.sampled_from(FOLDERS),
    shadow=st.sampled_from(SHADOWS),
    site=st.booleans(),
    files=st.sampled_from([1024, 24, 64]),
    host=st.booleans(),
    ranks=st.sampled_from([*[1] * 5, 2, *[1] * 4]),  # two ranks and torchrun take four processors' start-ups
    command=st.sampled_from([name for name, times in COMMANDS.items() for _ in range(times)]),
)


def namespaces() -> bool:
    """Whether a host name of its own can be given to a command here."""
    return os.getuid() == 0 and not subprocess.run(["unshare", "--uts", "true"], capture_output=True).returncode


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An output directory that is done, and one where the training has made one of its two steps."""
    folder = tmp_path_factory.mktemp("roots")
    done = in_process.harness(folder, "run", one_model.FILE, *SMALL, "--offline", "--launcher", "inline")
    assert done.returncode == 0, done.stderr
    roots = {"done": folder / "runs", "begun": folder / "begun"}
    shutil.copytree(roots["done"], roots["begun"], symlinks=True)
    made = planning.make([one_model.FILE], compose.compose("demo", list(SMALL)), roots["begun"])
    (job,) = (job for job in made.jobs if isinstance(job, Train))
    training = made.jobdir(job)
    shutil.rmtree(training.folder)
    training.folder.mkdir()
    write_json(training.job_file, to_json(replace(job.spec(), launch=LaunchSpec(pause=1))))
    launch([training.folder], this_rank(), Stop())
    assert training.checkpoint_steps() == [1]
    return roots


@contextmanager
def command_in(around: Surroundings, roots: dict[str, Path]) -> Iterator[tuple[Path, list[str], dict[str, str]]]:
    """The folder, the words and the environment of a run in some surroundings."""
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base) / around.folder
        folder.mkdir()
        if around.shadow != "none":
            shadow(folder, around.shadow)
        if around.command in roots:
            shutil.copytree(roots[around.command], folder / "runs", symlinks=True)
        env = {**environment(), **around.variables}
        if around.site:
            site = Path(base) / "site"
            site.mkdir()
            (site / "sitecustomize.py").write_text(SITE, encoding="utf-8")
            env["PYTHONPATH"] = str(site)
        start = 'ulimit -n "$0" && exec "$@"'
        uts = ["unshare", "--uts", "sh", "-c", 'hostname gone-host.invalid; exec "$@"', "sh"]
        run = ["run", *SMALL, "--offline", "--launcher", "inline" if around.ranks == 1 else "torchrun"]
        run += ["--nproc", "2"] if around.ranks == 2 else []
        run += ["train.workers=0"] if around.command == "begun" else []
        command = [
            *(uts if around.host and namespaces() else ()),
            *("sh", "-c", start, str(around.files), sys.executable, "-P", "-m", "harness.cli"),
            *(["plan", *SMALL] if around.command == "planned" else run),
            one_model.FILE,
        ]
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [env.get("PYTHONPATH"), str(PROJECT)]))
        yield folder, command, env


def assert_ends_well_or_in_a_line(around: Surroundings, roots: dict[str, Path]) -> tuple[int, float, float]:
    """The exit code, the seconds, and those of a processor that a run took in some surroundings."""
    with command_in(around, roots) as (folder, command, env):
        before, at = os.times(), time.monotonic()
        done = subprocess.run(
            command,
            cwd=folder,
            env=env,
            umask=around.umask,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS * SLOWER,
            check=False,
        )
        after, wall = os.times(), time.monotonic() - at
        cpu = after.children_user - before.children_user + after.children_system - before.children_system
        assert cpu < SECONDS
        told = done.stderr.replace(b"\x00", b"").decode(errors="replace")
        assert done.returncode in (0, 1, 2, 3), told
        if done.returncode:
            assert "Traceback" not in told, told
            assert "harness: " in told or "failed: " in told, told
        elif around.command != "planned":
            outcomes = [read_json(path) for path in folder.glob("runs/jobs/*/outcome.json")]
            assert [outcome["status"] for outcome in outcomes] == ["finished"] * 2
            (trained,) = folder.glob("runs/jobs/*/weights.safetensors")
            how = read_json(trained.with_name("how.json"))
            assert (how["commit"] is None) == (how["dirty"] is None)
            assert how["nproc"] == (around.ranks if around.command != "done" else 1)
        if around.files >= 1024:
            assert done.returncode == 0, told
        return done.returncode, wall, cpu


QUICK = settings(
    max_examples=3, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate]
)


@pytest.mark.timeout(1800)
@QUICK
@given(SURROUNDINGS)
def test_a_run_in_hostile_surroundings(roots: dict[str, Path], around: Surroundings) -> None:
    assert_ends_well_or_in_a_line(around, roots)


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_a_run_in_many_hostile_surroundings(roots: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """200 of them; prints how many ended well, and the worst times."""
    ends: list[tuple[int, float, float]] = []
    commands: Counter[str] = Counter()

    @settings(QUICK, max_examples=200)
    @given(SURROUNDINGS)
    def run(around: Surroundings) -> None:
        ends.append(assert_ends_well_or_in_a_line(around, roots))
        commands[f"{around.command}, {around.ranks} rank(s)"] += 1
        with capsys.disabled():
            code, wall, cpu = ends[-1]
            print(f"\n{len(ends)}: exit code {code} in {wall:.1f} s, {cpu:.1f} s of a processor, {around}", flush=True)

    run()
    codes, walls, cpus = zip(*ends, strict=True)
    with capsys.disabled():
        print(
            f"\n{len(ends)} surroundings: {codes.count(0)} ended well, {len(ends) - codes.count(0)} in a line; "
            f"at most {max(walls):.1f} s, {max(cpus):.1f} s of a processor, {sum(cpus) / len(cpus):.1f} in the mean; "
            f"{dict(commands)}"
        )
    assert len(ends) >= 200
