"""torchrun, which by itself outlives its parent and leaves its ranks at work: this one dies with the supervisor.

By itself it also ends at the third signal, and its ranks with it, whatever they are saving. So many may come: Slurm
signals all steps, of which it is one, and the supervisor passes on what came to its own.
"""

from harness.common import collector, parent  # first: torch takes seconds

if __name__ == "__main__":
    parent.die_with_parent()
    collector.pause()
    import os
    import signal
    from types import FrameType

    from torch.distributed.elastic.multiprocessing import SignalException, api
    from torch.distributed.run import main

    from harness.common.signals import NUMBERS

    def first(signum: int, frame: FrameType | None) -> None:
        """Hand a signal to the ranks and wait for them; those that follow are passed over."""
        del frame
        for each in NUMBERS:
            signal.signal(each, signal.SIG_IGN)
        raise SignalException(f"got {signal.Signals(signum).name}", signal.Signals(signum))

    os.environ["PET_NODE_RANK"] = os.environ.get("SLURM_PROCID", "0")  # --node-rank: srun runs one a node
    api._terminate_process_handler = first  # what it takes signals with
    parent.die_with_parent()
    collector.resume()
    main()
