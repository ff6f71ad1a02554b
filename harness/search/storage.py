"""A study in its storage, by Optuna: trials are taken from it and their results written back.

Ask and tell, since a trial may be a job of many ranks and outlive the process that asked for it. What Optuna's storage
does not know is who is alive: a trial that is running belongs to whoever holds its lease (jobdir/lease), and one whose
holder is dead is taken over as it stands, with its number and its values. All processes of a study share one root.
"""

import hashlib
import logging
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.common.errors import UnfitError, UsageError
from harness.common.redaction import one_line
from harness.jobdir.lease import Claim, Lease, current_holder
from harness.jobdir.paths import StudyDir
from harness.plan.search_space import Axis, Choice, Named, Whole
from harness.plan.study import Study, Trial, refuse
from harness.search.backend import Storage
from reports.search.finding import IMPORTANCE_FROM, Confirmation

log = logging.getLogger(__name__)

AWAY = 600.0  # seconds that a finished trial waits for a storage that went away
AGAIN = 5.0  # seconds between two attempts
IDENTITY, ROOT, CONFIRMED = "harness.identity", "harness.root", "harness.confirmed"
STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}


class Live:
    """A trial whose lease this process has."""

    def __init__(self, keeper: "Keeper", trial: Any, lease: Lease, resumed: bool) -> None:
        self.keeper, self.trial, self.lease, self.resumed = keeper, trial, lease, resumed
        self.number: int = trial.number
        study = keeper.study
        self.params = {key: suggest(trial, key, axis) for key, axis in study.space.items()}
        facts = trial.user_attrs
        self.default = bool(facts.get("default"))
        self.repeated = bool(facts.get("repeated"))
        self.seed = int(facts.get("seed", study.config["seed"]))
        self._reported = set(keeper.frozen(self.number).intermediate_values)

    def look(self, part: int, value: float) -> bool:
        """Record the mIoU (percent) after a part of the training; return whether to stop it.

        The default and repetitions are never stopped: they are compared by seed. A storage that is away for a moment is
        passed over.
        """
        try:
            with self.keeper.storage.speaking():
                if part not in self._reported:
                    self.trial.report(value, part)
                    self._reported.add(part)
                return not (self.default or self.repeated) and bool(self.trial.should_prune())
        except UnfitError as error:
            self.keeper.complain(error)
            return False

    def tell(self, state: str, value: float | None, facts: Mapping[str, object]) -> None:
        """End the trial: 'complete', 'pruned' or 'failed'. Raise UnfitError where the storage stays away."""
        from optuna.trial import TrialState

        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}

        def end() -> None:
            if self.keeper.frozen(self.number).state.is_finished():
                return  # whoever took us for dead has told it
            for key, fact in facts.items():
                self.trial.set_user_attr(key, fact)
            score = value if state == "complete" else None
            self.keeper.optuna.tell(self.number, score, states[state], skip_if_finished=True)

        self.keeper.patiently(end)


class Keeper:
    """One study in its storage, as one process sees it. Raises UsageError where the stored study is another one."""

    def __init__(self, study: Study, storage: Storage) -> None:
        self.study, self.storage = study, storage
        self._claims: dict[int, Claim] = {}
        self._complained = False
        opened = storage.open()
        import optuna

        with storage.speaking(), storage.turn():
            names = [summary.study_name for summary in optuna.get_all_study_summaries(opened)]
            self.optuna = optuna.create_study(
                storage=opened,
                study_name=study.name,
                direction="maximize",
                load_if_exists=True,
                pruner=build(optuna.pruners, study.pruner, "PRUNER"),
            )
            self._settle(names)

    def _settle(self, names: list[str]) -> None:
        """Write down what a new study is, and put the default first; refuse a study that is another one."""
        stored = self.optuna.user_attrs
        if IDENTITY in stored:
            refuse(self.study, stored[IDENTITY], names)
        if ROOT in stored and stored[ROOT] != self._root():
            raise elsewhere(self.study, self.storage, self._root())
        trials = [record(trial) for trial in self.optuna.get_trials(deepcopy=False)]
        begun = {trial.facts.get("seed") for trial in trials if trial.default}
        first = self.study.config["seed"]
        for seed in range(first, first + self.study.seeds):
            if seed not in begun:
                self.optuna.enqueue_trial(self.study.default, user_attrs={"seed": seed, "default": True})
        for key, value in ((ROOT, self._root()), (IDENTITY, self.study.identity)):
            if key not in stored:
                self.optuna.set_user_attr(key, value)

    def _root(self) -> str:
        """Return the names the root, wherever it is moved."""
        path = self.storage.folder / "root"
        if not path.is_file():
            path.write_text(uuid.uuid4().hex)
        return path.read_text()

    def take(self, total: int) -> Live | None:
        """Return a trial to run: one whose holder died, else a new one; None while others run the last of `total`."""
        with self.storage.speaking(), self.storage.turn():
            trials = self.optuna.get_trials(deepcopy=False)
            running = [trial.number for trial in trials if trial.state.name == "RUNNING"]
            ended = sum(trial.state.is_finished() for trial in trials)
            if ended >= total:
                return None
            for number in running:
                if (lease := self._claim(number)) is not None:
                    return Live(self, self._trial(number), lease, resumed=True)
            if ended + len(running) >= total:
                return None
            repetition = self.study.repetition([record(trial) for trial in trials], total)
            if repetition is not None:
                params, seed = repetition
                self.optuna.enqueue_trial(dict(params), user_attrs={"seed": seed, "repeated": True})
            self.optuna.sampler = build_sampler(self.study, len(trials))
            trial = self.optuna.ask()
            lease = self._claim(trial.number)
            assert lease is not None  # nobody else can know of it yet
            return Live(self, trial, lease, resumed=False)

    def _claim(self, number: int) -> Lease | None:
        return self._claims.setdefault(number, Claim(self._directory(number))).take()

    def _directory(self, number: int) -> Path:
        return StudyDir(self.storage.folder).trials / f"{number:03d}"

    def at_work(self) -> bool:
        """Return whether a process has a trial that has not ended."""
        return any(current_holder(self._directory(trial.number)) for trial in self.trials() if trial.state == "running")

    def _trial(self, number: int) -> Any:
        import optuna

        self.optuna.sampler = build_sampler(self.study, number)  # for values that its first holder did not draw
        return optuna.Trial(self.optuna, self.frozen(number)._trial_id)

    def frozen(self, number: int) -> Any:
        """Return Optuna's own record of a trial."""
        return self.optuna.get_trials(deepcopy=False)[number]

    def trials(self) -> list[Trial]:
        """Return all that were begun, by number. Raise UnfitError where the storage does not answer."""
        with self.storage.speaking():
            return [record(frozen) for frozen in self.optuna.get_trials(deepcopy=False)]

    def trial(self, number: int) -> Trial:
        """Return a trial by its number."""
        with self.storage.speaking():
            return record(self.frozen(number))

    def importance(self) -> dict[str, float]:
        """Return how much each key decides whether a setting is among the best (PED-ANOVA), adding up to 1.

        A setting counts once, under the first seed; keys that never varied are left out. Empty for fewer than
        `IMPORTANCE_FROM` settings, and where fewer than two keys varied.
        """
        import optuna

        with self.storage.speaking():
            stored = self.optuna.get_trials(deepcopy=False)
        first = self.study.config["seed"]
        settings = self.study.settings([record(trial) for trial in stored])
        complete = [setting for setting in settings if first in setting.by_seed]
        keys = [key for key in self.study.space if len({setting.params[key] for setting in complete}) > 1]
        if len(complete) < IMPORTANCE_FROM or len(keys) < 2:
            return {}
        distinct = optuna.create_study(direction="maximize")
        for setting in complete:
            axes = stored[setting.trials[0].number].distributions
            distinct.add_trial(
                optuna.trial.create_trial(params=dict(setting.params), distributions=axes, value=setting.by_seed[first])
            )
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        few = (ValueError, RuntimeError, ZeroDivisionError, UserWarning)
        with suppress(*few), warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # of trials too few: all keys would be called equal
            return dict(optuna.importance.get_param_importances(distinct, evaluator=evaluator, params=keys))
        return {}

    def confirmed(self) -> Confirmation | None:
        """Return what `remember` was given last."""
        with self.storage.speaking():
            stored = self.optuna.user_attrs.get(CONFIRMED)
        return Confirmation(**stored) if stored else None

    def remember(self, confirmation: Confirmation) -> None:
        """Save the confirmation of the study's best with the study."""
        self.patiently(lambda: self.optuna.set_user_attr(CONFIRMED, asdict(confirmation)))

    def patiently(self, action: Callable[[], None]) -> None:
        """Do it again until the storage is back. Raise UnfitError after AWAY seconds."""
        deadline = time.monotonic() + AWAY
        while True:
            try:
                with self.storage.speaking():
                    return action()
            except UnfitError as error:
                if time.monotonic() > deadline:
                    raise
                self.complain(error)
                time.sleep(AGAIN)

    def complain(self, error: UnfitError) -> None:
        """Warn once that the storage is away."""
        if not self._complained:
            self._complained = True
            log.warning(f"{error}; trying again")


def elsewhere(study: Study, storage: Storage, root: str) -> UsageError:
    """Return the error for an output directory other than the study's."""
    return UsageError(
        f"the study '{study.name}' in {storage.shown} belongs to another output directory; all its workers share "
        f"one (--root), or take a new name: --study {study.search}_{root[:6]}"
    )


def stored_trials(study: Study, storage: Storage) -> list[Trial]:
    """Return a study's trials without making or writing anything; none where it is not there yet.

    Raise UsageError where the stored study is another one, UnfitError where the storage does not answer.
    """
    opened = storage.look()
    if opened is None:
        return []
    import optuna

    with storage.speaking():
        names = [summary.study_name for summary in optuna.get_all_study_summaries(opened)]
        if study.name not in names:
            return []
        stored = optuna.load_study(study_name=study.name, storage=opened)
        attributes, path = stored.user_attrs, storage.folder / "root"
        refuse(study, attributes.get(IDENTITY, study.identity), names)
        root = path.read_text() if path.is_file() else study.digest
        if attributes.get(ROOT, root) != root:
            raise elsewhere(study, storage, root)
        return [record(frozen) for frozen in stored.get_trials(deepcopy=False)]


def suggest(trial: Any, key: str, axis: Axis) -> Any:
    """Return a trial's value for a key: the one it has, else a new one."""
    if isinstance(axis, Choice):
        return trial.suggest_categorical(key, axis.options)
    draw = trial.suggest_int if isinstance(axis, Whole) else trial.suggest_float
    return draw(key, axis.low, axis.high, log=axis.log)


def build(module: Any, named: Named, what: str, **more: Any) -> Any:
    """Return one of Optuna's samplers or pruners. Raise UsageError for a name or an option that it does not have."""
    names = [name for name in module.__all__ if not name.startswith("Base")]
    if named.name not in names:
        raise UsageError(f"{what}: Optuna has no '{named.name}'; it has {', '.join(names)}")
    try:
        return getattr(module, named.name)(**named.options, **more)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what} {named.name}: {one_line(error)}") from error


def build_sampler(study: Study, number: int) -> Any:
    """Return a trial's sampler, its generator seeded by the trial's number, so that no two workers draw the same."""
    import optuna

    seed = hashlib.sha256(f"{study.config['seed']} {number}".encode()).digest()
    seeded = {} if study.sampler.name == "GridSampler" else {"seed": int.from_bytes(seed[:4], "big")}
    return build(optuna.samplers, study.sampler, "SAMPLER", **seeded)


def record(frozen: Any) -> Trial:
    """Return Optuna's record as ours."""
    begun, ended = frozen.datetime_start, frozen.datetime_complete
    return Trial(
        number=frozen.number,
        state=STATES[frozen.state.name],
        params=dict(frozen.params or frozen.system_attrs.get("fixed_params", {})),  # of a waiting one
        value=frozen.value,
        looks=dict(sorted(frozen.intermediate_values.items())),
        facts=dict(frozen.user_attrs),
        seconds=(ended - begun).total_seconds() if begun and ended else None,
    )
