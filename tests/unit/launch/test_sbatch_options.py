"""Options of Slurm: what sbatch is told of flags and settings, and what is refused."""

import sys
from pathlib import Path

import pytest

from harness.common.errors import UsageError
from harness.launch.launchers import _sbatch


def test_options_of_flags_win_and_setup_lines_add_up() -> None:
    base = {"partition": "cpu", "setup": "umask 2", "mail-type": "END"}
    found = _sbatch.parse(
        ["partition=gpu", "exclusive", "requeue=false", "setup=module load cuda", "container-image=a:b=c"], base
    )
    assert found == {
        "requeue": False,
        "partition": "gpu",
        "mail_type": "END",
        "exclusive": True,
        "container_image": "a:b=c",
        "setup": ["umask 2", "module load cuda"],
    }


@pytest.mark.parametrize(
    "flag", ["output=x", "dependency=afterok:1", "ntasks=8", "=x", "nodes=many", "max_num_timeout=x"]
)
def test_what_the_harness_sets_itself_is_refused(flag: str) -> None:
    with pytest.raises(UsageError):
        _sbatch.parse([flag], {})


@pytest.mark.parametrize(
    ("options", "ranks"),
    [
        ({"gpus_per_node": 8}, 8),
        ({"gpus_per_node": "a100:4"}, 4),
        ({"gres": "gpu:v100:2"}, 2),
        ({"gres": "gpu:8(S:0-1)"}, 8),
        ({"gres": "lscratch:500"}, None),
        ({"gres": "gpu:4,lscratch:500"}, 4),
        ({"gpus_per_node": 0}, 0),
        ({"gres": "gpu:h100"}, 1),
        ({"gres": "gpu:a100:2,gpu:v100:2"}, 4),
        ({"gres": "gpu:h100:8"}, 8),
        ({"gpus": 8}, 8),
        ({"gpus": "h100:16", "nodes": "2"}, 8),
        ({"tres_per_node": "gres/gpu:8"}, 8),
        ({"tres_per_node": "gres/gpu:h100=8,license/x:1"}, 8),
        ({"tres_per_task": "cpu=4,gres/gpu:2"}, 2),
        ({"partition": "x"}, None),
    ],
)
def test_ranks_follow_the_gpus_that_are_asked_for(options: dict[str, object], ranks: int | None) -> None:
    assert _sbatch.ranks(options) == ranks


@pytest.mark.parametrize(
    ("limit", "minutes"),
    [(90, 90), ("90:30", 91), ("12:00:00", 720), ("1-00", 1440), ("2-12:30", 3630), ("infinite", None)],
)
def test_time_limits_as_sbatch_reads_them(limit: object, minutes: int | None) -> None:
    assert _sbatch.minutes(limit) == minutes


def test_gpus_that_nodes_cannot_share_are_refused() -> None:
    with pytest.raises(UsageError, match="gpus=3: 2 nodes cannot share them evenly"):
        _sbatch.ranks({"gpus": "3", "nodes": 2})


def test_lists_are_lists(tmp_path: Path) -> None:
    flags = ["srun_args=--mpi=none --container-image='a b'", "srun_args=--quiet", "teardown=rm -r /scratch/mine"]
    found = _sbatch.parse(flags, {"srun_args": "--verbose", "teardown": ["sync"]})
    assert found["srun_args"] == ["--verbose", "--mpi=none", "--container-image=a b", "--quiet"]
    assert found["teardown"] == ["sync", "rm -r /scratch/mine"]
    lines = script(tmp_path, *flags)
    (srun,) = [line for line in lines if line.startswith("srun ")]
    assert "--mpi=none '--container-image=a b' --quiet" in srun
    assert lines[-1] == "rm -r /scratch/mine"
    assert """export HARNESS_SRUN_ARGS='--mpi=none '"'"'--container-image=a b'"'"' --quiet'""" in lines
    with pytest.raises(UsageError, match=r"srun_args=.*No closing quotation"):
        _sbatch.parse(["srun_args=--x='a"], {})


def script(tmp_path: Path, *flags: str, after: tuple[str, ...] = ()) -> list[str]:
    made = _sbatch.executor(tmp_path / "%j", _sbatch.parse(flags, {}), "a name", after)
    return _sbatch.script(made).splitlines()


def test_no_option_is_invented(tmp_path: Path) -> None:
    options = {line.split("=")[0].removeprefix("#SBATCH --") for line in script(tmp_path) if line.startswith("#SBATCH")}
    ours = {"job-name", "nodes", "ntasks-per-node", "open-mode", "output", "signal", "requeue"}
    assert options == ours


def test_every_option_goes_through(tmp_path: Path) -> None:
    flags = ["partition=gpu", "account=lab", "qos=high", "time=1-12:00:00", "constraint=a100|h100", "gres=gpu:8"]
    flags += ["container-image=/x.sqsh", "setup=module load cuda", "setup=export A=1", "cpus-per-task=4", "mem=0"]
    lines = script(tmp_path, *flags, after=("7", "8"))
    for line in (
        "#SBATCH --partition=gpu",
        "#SBATCH --account=lab",
        "#SBATCH --qos=high",
        "#SBATCH --time=1-12:00:00",
        "#SBATCH --constraint='a100|h100'",
        "#SBATCH --gres=gpu:8",
        "#SBATCH --container-image=/x.sqsh",
        "#SBATCH --mem=0",
        "#SBATCH --dependency=afterany:7:8",
        "module load cuda",
        "export A=1",
    ):
        assert lines.count(line) == 1, line
    assert f"{sys.executable} -I -S -c" in lines[-1]
    assert " -P -u -m submitit" in lines[-1]  # a models.py where sbatch was called hides none of ours
    assert "--cpus-per-task=4 " in lines[-1]  # srun has not inherited it since 22.05
