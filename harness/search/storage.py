"""Optuna, and nothing else of the harness knows it: a study in a storage, trials taken from it and told to it.

Ask and tell, since a trial may be a job of many ranks and outlive the process that asked for it. What Optuna's storage
does not know is who is alive: a trial that is running belongs to whoever holds its lease (lease.py), and one whose
holder is dead is taken over as it stands, with its number and its values. All processes of a study share one root.
Every failure of a storage is an UnfitError of one line without passwords.
"""

import hashlib
import os
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from harness.common.errors import UnfitError, UsageError
from harness.common.redaction import one_line, redact
from harness.jobdir.lease import Claim, Lease, held
from harness.plan.search_space import Axis, Choice, Named, Whole
from harness.plan.study import Study, Trial, refuse
from harness.tracking.opening import DATABASE, absolute, imported

PATIENCE = 8  # seconds for the first answer of a server
AWAY = 600.0  # seconds that a finished trial waits for a storage that went away
AGAIN = 5.0  # seconds between two attempts
SCHEMES = ("postgresql", "mysql", "sqlite")
OWN = "study.journal"  # in the study's folder, where no other place is asked for
IDENTITY, ROOT, CONFIRMED = "harness.identity", "harness.root", "harness.confirmed"
STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}


class FileTurn:
    """The lock of a journal file: the kernel's, which a process that is killed gives back at once.

    Optuna's own are files that a killed process leaves behind; the others would wait half a minute for each. What a
    process wrote by half when it died is cut off before the next one writes, since a torn line would spoil the file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, FileLock(f"{path}.lock")

    def acquire(self) -> bool:
        """Wait for one's turn to write."""
        self._lock.acquire()
        with self.path.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            if size and file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Let the next one write."""
        self._lock.release()


class Storage:
    """Where studies are kept: a journal file, or a database by its URL. Opened at the first need.

    Raises UsageError for a URL that Optuna has no storage for.
    """

    def __init__(self, url: str | None, folder: Path) -> None:
        self.folder = folder
        self.url = url or str(folder / OWN)
        scheme = self.url.partition("://")[0].partition("+")[0] if "://" in self.url else ""
        if scheme and scheme not in SCHEMES:
            known = ", ".join(f"{name}://…" for name in SCHEMES)
            raise UsageError(f"--storage {redact(self.url)}: neither a file's path nor one of {known}")
        self.database = bool(scheme)

    @property
    def shown(self) -> str:
        """For people: without a password."""
        return redact(self.url)

    @property
    def whole(self) -> str:
        """The URL or the path as it holds in every directory; with its password."""
        return absolute(self.url) if self.database else str(Path(self.url).resolve())

    @property
    def place(self) -> str:
        """Equal for two ways of saying the same place: `OWN`, an absolute path, or a URL without its password."""
        return OWN if self.whole == str((self.folder / OWN).resolve()) else redact(self.whole)

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Failures of the storage as an UnfitError of one line."""
        try:
            yield
        except failures() as error:
            said = one_line(error.__cause__ or error)
            hint = " (for PostgreSQL: the extra `postgres`)" if isinstance(error, ImportError) else ""
            raise UnfitError(
                f"--storage {self.shown}: {said}{hint}; check that it answers and can be written"
            ) from error

    def open(self) -> Any:
        """Optuna's storage; tables are made by one process."""
        with self.speaking(), self.turn():
            return self._opened()

    def look(self) -> Any:
        """Optuna's storage as `open` has it, or None where there is none yet: nothing is made."""
        with self.speaking():
            return self._opened() if self._there() else None

    def _opened(self) -> Any:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if not self.database:
            path = Path(self.url)
            path.parent.mkdir(parents=True, exist_ok=True)
            from optuna.storages import journal

            backend: Any = journal.JournalFileBackend
            return optuna.storages.JournalStorage(backend(str(path), lock_obj=FileTurn(path)))
        url, options = self._engine
        return optuna.storages.RDBStorage(url, engine_kwargs=options)

    def _there(self) -> bool:
        if not self.database or self.url.startswith("sqlite"):
            place = self.url if not self.database else absolute(self.url).partition(":///")[2].partition("?")[0]
            if not Path(place).is_file():  # SQLite would make it
                return False
        if not self.database:
            return True
        import sqlalchemy

        url, options = self._engine
        engine = sqlalchemy.create_engine(url, **options)
        try:
            return bool(sqlalchemy.inspect(engine).has_table("studies"))
        finally:
            engine.dispose()

    @property
    def _engine(self) -> tuple[str, dict[str, Any]]:
        """SQLAlchemy's URL and options."""
        server = not self.url.startswith("sqlite")
        options = {"connect_args": {"connect_timeout": PATIENCE}, "pool_pre_ping": True} if server else {}
        return self.url.replace("postgresql://", "postgresql+psycopg://", 1), options

    def turn(self) -> FileLock:
        """Held for what one process may do at a time: making tables, and taking a trial."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / "turn.lock")


def failures() -> tuple[type[Exception], ...]:
    """What Optuna and those it stands on raise."""
    return (OSError, ImportError, ValueError, *imported(*DATABASE, "optuna.exceptions.StorageInternalError"))


class Live:
    """A trial that this process holds."""

    def __init__(self, keeper: "Keeper", trial: Any, lease: Lease, resumed: bool) -> None:
        self.keeper, self.trial, self.lease, self.resumed = keeper, trial, lease, resumed
        self.number: int = trial.number
        study = keeper.study
        self.params = {key: suggest(trial, key, axis) for key, axis in study.space.items()}
        facts = trial.user_attrs
        self.default = bool(facts.get("default"))
        self.seed = int(facts.get("seed", study.config["seed"]))
        self._seen = set(keeper.frozen(self.number).intermediate_values)

    def look(self, part: int, value: float) -> bool:
        """Take in the mIoU (percent) after a part of the training; whether the training shall be stopped.

        The default is never stopped: leads are measured against it. A storage that is away for a moment is passed over.
        """
        try:
            with self.keeper.storage.speaking():
                if part not in self._seen:
                    self.trial.report(value, part)
                    self._seen.add(part)
                return not self.default and bool(self.trial.should_prune())
        except UnfitError as error:
            self.keeper.complain(error)
            return False

    def tell(self, state: str, value: float | None, facts: Mapping[str, Any]) -> None:
        """End the trial: 'complete', 'pruned' or 'failed'. Raises UnfitError where the storage stays away."""
        from optuna.trial import TrialState

        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}

        def end() -> None:
            if self.keeper.frozen(self.number).state.is_finished():
                return  # whoever took us for dead has told it
            for key, fact in facts.items():
                self.trial.set_user_attr(key, fact)
            told = value if state == "complete" else None
            self.keeper.optuna.tell(self.number, told, states[state], skip_if_finished=True)

        self.keeper.patiently(end)


class Keeper:
    """One study in its storage, as one process sees it. Raises UsageError where the stored study is another one."""

    def __init__(self, study: Study, storage: Storage, say: Callable[[str], None]) -> None:
        self.study, self.storage, self.say = study, storage, say
        self._claims: dict[int, Claim] = {}
        self._complained = False
        opened = storage.open()
        import optuna

        with storage.speaking(), storage.turn():
            names = [found.study_name for found in optuna.get_all_study_summaries(opened)]
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
        known = self.optuna.user_attrs
        if IDENTITY in known:
            refuse(self.study, known[IDENTITY], names)
        if ROOT in known and known[ROOT] != self._root():
            raise elsewhere(self.study, self.storage, self._root())
        there = {trial.user_attrs.get("seed") for trial in self.optuna.get_trials(deepcopy=False)}
        first = self.study.config["seed"]
        for seed in range(first, first + self.study.seeds):
            if seed not in there:
                self.optuna.enqueue_trial(self.study.default, user_attrs={"seed": seed, "default": True})
        for key, value in ((ROOT, self._root()), (IDENTITY, self.study.identity)):
            if key not in known:
                self.optuna.set_user_attr(key, value)

    def _root(self) -> str:
        """Names the root, wherever it is moved."""
        path = self.storage.folder / "root"
        if not path.is_file():
            path.write_text(uuid.uuid4().hex)
        return path.read_text()

    def take(self, total: int) -> Live | None:
        """A trial to work at: one whose holder died, else a new one; None while others are at the last of `total`."""
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
            self.optuna.sampler = build_sampler(self.study, len(trials))
            trial = self.optuna.ask()
            lease = self._claim(trial.number)
            assert lease is not None  # nobody else can know of it yet
            return Live(self, trial, lease, resumed=False)

    def _claim(self, number: int) -> Lease | None:
        return self._claims.setdefault(number, Claim(self._place(number))).take()

    def _place(self, number: int) -> Path:
        return self.storage.folder / "trials" / f"{number:03d}"

    def at_work(self) -> bool:
        """Whether a process has a trial that has not ended."""
        return any(held(self._place(trial.number)) for trial in self.trials() if trial.state == "running")

    def _trial(self, number: int) -> Any:
        import optuna

        self.optuna.sampler = build_sampler(self.study, number)  # for values that its first holder did not draw
        return optuna.Trial(self.optuna, self.frozen(number)._trial_id)

    def frozen(self, number: int) -> Any:
        """Optuna's own record of a trial."""
        return self.optuna.get_trials(deepcopy=False)[number]

    def trials(self) -> list[Trial]:
        """All that were begun, by number. Raises UnfitError where the storage does not answer."""
        with self.storage.speaking():
            return [record(one) for one in self.optuna.get_trials(deepcopy=False)]

    def trial(self, number: int) -> Trial:
        """One of them."""
        with self.storage.speaking():
            return record(self.frozen(number))

    def importance(self) -> dict[str, float]:
        """How much each key decides whether a trial is among the best (PED-ANOVA), adding up to 1; {} for too few."""
        import optuna

        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        few = (ValueError, RuntimeError, ZeroDivisionError, UserWarning)
        with self.storage.speaking(), suppress(*few), warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # of trials too few: all keys would be called equal
            return dict(optuna.importance.get_param_importances(self.optuna, evaluator=evaluator))
        return {}

    def confirmed(self) -> dict[str, Any]:
        """What `remember` was given last."""
        with self.storage.speaking():
            return dict(self.optuna.user_attrs.get(CONFIRMED, {}))

    def remember(self, confirmed: Mapping[str, Any]) -> None:
        """Keep with the study what its best was found to be worth on other data."""
        self.patiently(lambda: self.optuna.set_user_attr(CONFIRMED, dict(confirmed)))

    def patiently(self, action: Callable[[], None]) -> None:
        """Do it again until the storage is back. Raises UnfitError after AWAY seconds."""
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
        """Say once that the storage is away."""
        if not self._complained:
            self._complained = True
            self.say(f"{error}; trying again")


def elsewhere(study: Study, storage: Storage, root: str) -> UsageError:
    """What is said to somebody with another root than the study's."""
    return UsageError(
        f"the study '{study.name}' in {storage.shown} belongs to another root; all its workers share "
        f"one (--root), or take a new name: --study {study.search}_{root[:6]}"
    )


def seen(study: Study, storage: Storage) -> list[Trial]:
    """A study's trials without making or writing anything; none where it is not there yet.

    Raises UsageError where the stored study is another one, UnfitError where the storage does not answer.
    """
    opened = storage.look()
    if opened is None:
        return []
    import optuna

    with storage.speaking():
        names = [found.study_name for found in optuna.get_all_study_summaries(opened)]
        if study.name not in names:
            return []
        stored = optuna.load_study(study_name=study.name, storage=opened)
        known, path = stored.user_attrs, storage.folder / "root"
        refuse(study, known.get(IDENTITY, study.identity), names)
        root = path.read_text() if path.is_file() else study.digest
        if known.get(ROOT, root) != root:
            raise elsewhere(study, storage, root)
        return [record(one) for one in stored.get_trials(deepcopy=False)]


def suggest(trial: Any, key: str, axis: Axis) -> Any:
    """A trial's value for a key: the one it has, else a new one."""
    if isinstance(axis, Choice):
        return trial.suggest_categorical(key, axis.options)
    draw = trial.suggest_int if isinstance(axis, Whole) else trial.suggest_float
    return draw(key, axis.low, axis.high, log=axis.log)


def build(module: Any, named: Named, what: str, **more: Any) -> Any:
    """One of Optuna's samplers or pruners. Raises UsageError for a name or an option that it does not have."""
    known = [name for name in module.__all__ if not name.startswith("Base")]
    if named.name not in known:
        raise UsageError(f"{what}: Optuna has no '{named.name}'; it has {', '.join(known)}")
    try:
        return getattr(module, named.name)(**named.options, **more)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what} {named.name}: {one_line(error)}") from error


def build_sampler(study: Study, number: int) -> Any:
    """A trial's sampler, its generator seeded by the trial's number: two workers never draw the same, none keeps it."""
    import optuna

    seed = hashlib.sha256(f"{study.config['seed']} {number}".encode()).digest()
    seeded = {} if study.sampler.name == "GridSampler" else {"seed": int.from_bytes(seed[:4], "big")}
    return build(optuna.samplers, study.sampler, "SAMPLER", **seeded)


def record(frozen: Any) -> Trial:
    """Optuna's record as ours."""
    begun, ended = frozen.datetime_start, frozen.datetime_complete
    return Trial(
        number=frozen.number,
        state=STATES[frozen.state.name],
        params=dict(frozen.params),
        value=frozen.value,
        looks=dict(sorted(frozen.intermediate_values.items())),
        facts=dict(frozen.user_attrs),
        seconds=(ended - begun).total_seconds() if begun and ended else None,
    )
