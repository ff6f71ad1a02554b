"""A study in its storage: who works at a trial, what a death leaves, what is refused. With the real Optuna."""

import json
import math
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy

from harness.common.errors import UnfitError, UsageError
from harness.config.compose import compose
from harness.plan import study as studies
from harness.plan.study import Study
from harness.search.backend import FileTurn, Storage
from harness.search.storage import Keeper, Live, stored_trials

M = "decoder.decoder_a.momentum"
pytestmark = pytest.mark.filterwarnings(  # no deprecated and no experimental part of Optuna
    "error::DeprecationWarning", "error::FutureWarning", "error::optuna.exceptions.ExperimentalWarning"
)


def made(*words: str, name: str | None = None) -> Study:
    return studies.make("momentum", compose("demo", words), Path("nowhere"), study=name)


def keeper(folder: Path, url: str | None = None, one: Study | None = None) -> Keeper:
    return Keeper(one or made(), Storage(url, folder))


def worth(live: Live) -> float:
    return 40 - 5 * abs(math.log10(live.params[M] / 0.05))


def end(live: Live, state: str = "complete") -> None:
    live.tell(state, worth(live) if state == "complete" else None, {"step": 1, "steps": 1})
    live.lease.renew(released=True)


def test_the_default_comes_first_under_each_of_its_seeds(tmp_path: Path) -> None:
    kept = keeper(tmp_path)
    first = [kept.take(4) for _ in range(4)]
    assert [(live.default, live.seed) for live in first if live] == [(True, 0), (True, 1), (True, 2), (False, 0)]
    assert first[0] is not None
    assert first[0].params == made().default


def test_two_workers_share_a_number_of_trials_and_no_more(tmp_path: Path) -> None:
    one, other = keeper(tmp_path), keeper(tmp_path)
    held = []
    while (live := one.take(5) or other.take(5)) is not None:
        held.append(live)
    assert [live.number for live in held] == list(range(5))
    assert len({str(live.params) for live in held}) == 3  # the default's seeds, and two draws that differ
    for live in held:
        end(live)
    assert one.take(5) is None
    assert [trial.state for trial in other.trials()] == ["complete"] * 5
    more = other.take(6)
    assert more is not None
    assert more.number == 5


def test_draws_depend_on_the_trial_and_not_on_who_draws(tmp_path: Path) -> None:
    def drawn(folder: Path, workers: int) -> list[object]:
        kept = [keeper(folder) for _ in range(workers)]
        found = []
        for number in range(6):
            live = kept[number % workers].take(6)
            assert live is not None
            found.append(live.params)
            end(live)
        return found

    assert drawn(tmp_path / "one", 1) == drawn(tmp_path / "two", 2)


DIE = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_storage import keeper
live = keeper(Path(sys.argv[2]), sys.argv[3] or None).take(5)
print(live.number, live.params["decoder.decoder_a.momentum"], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def die(folder: Path, url: str | None = None) -> tuple[int, float]:
    """A worker that takes a trial and is killed; the trial's number and m."""
    words = [sys.executable, "-c", DIE, str(Path(__file__).parent), str(folder), url or ""]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    number, momentum = done.stdout.split()
    return int(number), float(momentum)


def test_the_trial_of_a_dead_worker_is_taken_up_as_it_stands(tmp_path: Path) -> None:
    number, momentum = die(tmp_path)
    kept = keeper(tmp_path)
    live = kept.take(5)
    assert live is not None
    assert (live.number, live.params[M], live.resumed) == (number, momentum, True)
    again = keeper(tmp_path).take(5)  # while we live, it is ours
    assert again is not None
    assert again.number != number


def test_a_trial_that_died_before_its_values_were_drawn_gets_them(tmp_path: Path) -> None:
    kept = keeper(tmp_path)
    for _ in range(3):
        end(kept.take(9))  # type: ignore[arg-type]
    kept.optuna.ask()  # and dead at once
    live = kept.take(9)
    assert live is not None
    assert live.resumed
    assert 0.005 <= live.params[M] <= 0.9


def test_a_torn_line_spoils_nothing(tmp_path: Path) -> None:
    kept = keeper(tmp_path)
    end(kept.take(9))  # type: ignore[arg-type]
    path = tmp_path / "study.journal"
    with path.open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    another = keeper(tmp_path)
    end(another.take(9))  # type: ignore[arg-type]
    assert [trial.state for trial in keeper(tmp_path).trials()][:2] == ["complete"] * 2
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.touch()
    code = (
        "import os, signal, sys; from pathlib import Path; from harness.search.backend import FileTurn;"
        "FileTurn(Path(sys.argv[1])).acquire(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    turn = FileTurn(path)
    assert turn.acquire()
    turn.release()


def test_the_pruner_hears_looks_and_never_stops_the_default(tmp_path: Path) -> None:
    kept = keeper(tmp_path)
    asked = {True: 0, False: 0}
    for number in range(24):
        live = kept.take(24)
        assert live is not None
        value = 0.0 if live.default else worth(live) + number % 5
        stopped = any(live.look(part, value * part / 9) for part in range(1, 9))
        asked[live.default] += stopped
        end(live, "pruned" if stopped else "complete")
    assert asked[True] == 0
    assert asked[False] > 0
    looks = [trial.looks for trial in kept.trials() if trial.state == "pruned"]
    assert all(len(found) < 8 for found in looks)


def test_a_look_is_reported_once(tmp_path: Path) -> None:
    die(tmp_path)
    live = keeper(tmp_path).take(5)
    assert live is not None
    live.look(1, 30.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        live.look(1, 31.0)
    assert keeper(tmp_path).trials()[0].looks == {1: 30.0}


def test_another_space_or_setting_is_refused_with_a_name_that_is_free(tmp_path: Path) -> None:
    keeper(tmp_path)
    with pytest.raises(UsageError, match=r"train\.train\.lr .*choose a new name: --study momentum_demo"):
        keeper(tmp_path, one=made("train.lr=1e-4"))
    keeper(tmp_path, one=made("train.lr=1e-4", name="momentum_demo"))
    with pytest.raises(UsageError, match=r"--study momentum_[0-9a-f]{6}$"):
        keeper(tmp_path, one=made("train.lr=2e-4"))


def test_another_root_is_refused(tmp_path: Path) -> None:
    shared = str(tmp_path / "shared.journal")
    keeper(tmp_path / "one", shared)
    with pytest.raises(UsageError, match="belongs to another output directory"):
        keeper(tmp_path / "other", shared)


@pytest.mark.parametrize(
    ("url", "kind", "told"),
    [
        ("http://127.0.0.1", UsageError, "neither a file path nor one of postgresql"),
        ("postgresql://me:hush@127.0.0.1:1/none", UnfitError, r"postgresql://me:\*\*\*@127"),
        ("/proc/nowhere/study.journal", UnfitError, "check that it answers"),
        ("sqlite:////proc/nowhere.db", UnfitError, "check that it answers"),
    ],
)
def test_a_storage_that_does_not_answer_is_told_in_a_line(tmp_path: Path, url: str, kind: type, told: str) -> None:
    with pytest.raises(kind, match=told) as caught:
        keeper(tmp_path, url)
    assert "\n" not in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_journal_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "study.journal").write_text("this is no journal\nat all\n")
    with pytest.raises(UnfitError, match="check that it answers"):
        keeper(tmp_path)


def test_on_postgresql_a_dead_workers_trial_is_taken_up(tmp_path: Path) -> None:
    from mlflow_server import postgres

    with postgres() as url:
        assert stored_trials(made(), Storage(url, tmp_path / "looks")) == []
        engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
        assert sqlalchemy.inspect(engine).get_table_names() == [], "a look makes nothing"
        engine.dispose()
        number, momentum = die(tmp_path, url)
        kept = keeper(tmp_path, url)
        live = kept.take(3)
        assert live is not None
        assert (live.number, live.params[M]) == (number, momentum)
        end(live)
        while (live := kept.take(3)) is not None:
            end(live)
        assert [trial.state for trial in keeper(tmp_path, url).trials()] == ["complete"] * 3
        assert [trial.state for trial in stored_trials(made(), Storage(url, tmp_path))] == ["complete"] * 3


def study_of(folder: Path, total: int, schedules: tuple[str, ...] = ("fixed", "poly")) -> Keeper:
    """A study whose trials are told values by m, all under `schedules`, and none of which is repeated."""
    kept = keeper(folder, one=replace(made(), repeats=0))
    for number in range(total - 3):
        schedule = schedules[number % len(schedules)]
        kept.optuna.enqueue_trial({M: 0.01 + 0.02 * number, "decoder.decoder_a.schedule": schedule})
    while (live := kept.take(total)) is not None:
        live.tell("complete", 20 + live.number, {"step": 1, "steps": 1})
        live.lease.renew(released=True)
    return kept


def test_importance_takes_ten_settings_and_keys_that_vary(tmp_path: Path) -> None:
    assert study_of(tmp_path / "few", 11).importance() == {}  # nine settings: the default's three seeds are one
    enough = study_of(tmp_path / "enough", 12).importance()
    assert set(enough) == set(made().space)
    assert sum(enough.values()) == pytest.approx(1)
    assert study_of(tmp_path / "one", 20, ("poly",)).importance() == {}  # m alone varied: its share says nothing


def run(kept: Keeper, total: int) -> list[tuple[bool, int, float]]:
    """Take a study to its number of trials; whether each repeats a setting, its seed and m."""
    while (live := kept.take(total)) is not None:
        end(live)
    trials = kept.trials()
    return [(bool(t.facts.get("repeated")), kept.study.seed(t), t.params[M]) for t in trials]


def test_the_last_trials_repeat_the_best_settings_under_the_defaults_seeds(tmp_path: Path) -> None:
    kept = keeper(tmp_path)
    trials = run(kept, 15)
    assert len(trials) == 15
    assert [seed for _, seed, _ in trials] == [0, 1, 2] + [0] * 8 + [1, 2, 1, 2]
    assert [repeated for repeated, _, _ in trials] == [False] * 11 + [True] * 4
    best = sorted(trials[3:11], key=lambda trial: abs(math.log10(trial[2] / 0.05)))[:2]
    assert [m for _, _, m in trials[11:]] == [best[0][2]] * 2 + [best[1][2]] * 2
    assert kept.take(15) is None


def test_a_small_study_spends_half_of_its_trials_on_repetitions_at_most(tmp_path: Path) -> None:
    assert [seed for _, seed, _ in run(keeper(tmp_path), 6)] == [0, 1, 2, 0, 0, 1]
    assert [seed for _, seed, _ in run(keeper(tmp_path / "tiny"), 4)] == [0, 1, 2, 0]


def test_a_study_that_was_finished_before_goes_on_and_is_repeated_at_its_new_end(tmp_path: Path) -> None:
    of_before = keeper(tmp_path, one=replace(made(), repeats=0))
    assert not any(repeated for repeated, _, _ in run(of_before, 9))
    assert run(keeper(tmp_path), 9) == run(of_before, 9)  # nothing is added
    more = run(keeper(tmp_path), 12)
    assert [repeated for repeated, _, _ in more] == [False] * 9 + [True] * 3


def test_a_repetition_is_never_pruned(tmp_path: Path) -> None:
    kept = keeper(tmp_path)
    for _ in range(4):
        end(kept.take(6))  # type: ignore[arg-type]
    end(kept.take(6))  # type: ignore[arg-type]
    live = kept.take(6)
    assert live is not None
    assert (live.repeated, live.seed) == (True, 1)
    assert not any(live.look(part, 0.0) for part in range(1, 9))
