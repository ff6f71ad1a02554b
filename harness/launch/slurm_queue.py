"""Which of the jobs that were submitted Slurm still has.

A number is believed where cluster, user and name agree: numbers begin anew after a while, and each cluster has its own.
What cannot be asked (another cluster, another user's job where Slurm hides them) is neither there nor gone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.jobdir.paths import SlurmJob
from harness.launch.launchers import _sbatch
from harness.launch.launchers._sbatch import State


@dataclass(frozen=True)
class Queue:
    """An answer of Slurm's."""

    states: Mapping[SlurmJob, State]
    silent: frozenset[SlurmJob] = frozenset()  # those that cannot be asked about

    def live(self, job: SlurmJob) -> bool:
        """Return whether a job waits or runs, as far as can be asked."""
        return job in self.states and self.states[job].live


def ask(jobs: Iterable[SlurmJob]) -> Queue:
    """Ask each job's cluster for it."""
    wanted = set(jobs)
    if not wanted:
        return Queue({})
    here = _sbatch.configuration()
    states: dict[SlurmJob, State] = {}
    silent: set[SlurmJob] = set()
    for cluster in {job.cluster for job in wanted}:
        those = [job for job in wanted if job.cluster == cluster]
        ids = [job.id for job in those]
        local = cluster in (None, here.get("ClusterName"))
        answer = _sbatch.queue(ids) if local else _sbatch.queue(ids, cluster)
        if answer is None:
            silent |= set(those)
            continue
        others = [job for job in those if job.user not in (None, _sbatch.user())]
        private = "jobs" in (here if local or not others else _sbatch.configuration(cluster)).get("PrivateData", "")
        for job in those:
            state = answer.get(job.id)
            if state is not None and agrees(job, state):
                states[job] = state
            elif state is None and private and job in others:  # Slurm shows one's own only
                silent.add(job)
    return Queue(states, frozenset(silent))


def any_live(jobs: Iterable[SlurmJob]) -> bool:
    """Return whether one of some jobs waits or runs, as far as can be asked."""
    jobs = list(jobs)
    queue = ask(jobs)
    return any(queue.live(job) for job in jobs)


def agrees(job: SlurmJob, state: State) -> bool:
    """Return whether what Slurm has under a job's number is that job, as far as both say."""
    pairs = ((job.user, state.user), (job.name, state.name))
    return all(None in pair or pair[0] == pair[1] for pair in pairs)


def cancel(job: SlurmJob, signal: str | None = None) -> bool:
    """Cancel a Slurm job of ours, or send its processes a signal ("INT"), unless it cannot be told from another's.

    Return whether that was done.
    """
    if None in (job.cluster, job.name) or job.user != _sbatch.user():
        return False
    local = job.cluster == _sbatch.configuration().get("ClusterName")
    _sbatch.cancel([job.id], None if local else job.cluster, job.name, signal)  # scancel compares user and name
    return True
