"""GPU utilisation, memory and power of this node (and its CPU, disk and network) as system metrics of an MLflow run.

The supervisor's node alone, also where ranks are on several. Nothing without a GPU, or without the `gpu` extra.
"""

import os
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from harness.core import machine
from harness.store.tracking import failures

EVERY = 10.0  # seconds
NEEDS = ("pynvml", "psutil")  # of MLflow's monitor


class Monitor:
    """MLflow's own monitor, of one run at a time; a run that goes on goes on counting.

    Where the store goes away MLflow's ends for good and the job goes on: `watch` again once the store is back.
    """

    def __init__(self, uri: str, every: float = EVERY) -> None:
        self._uri, self._every = uri, every
        self._inner: Any = None

    def watch(self, run_id: str) -> None:
        """Begin, or begin again."""
        self.finish()
        if machine.gpus() == 0 or not all(map(find_spec, NEEDS)):
            return
        import pynvml  # noqa: F401  MLflow looks whether it was imported

        with suppress(*failures()):
            self._inner = made(self._uri, run_id, self._every)
            self._inner.start()

    def finish(self) -> None:
        """End; once more does nothing."""
        if self._inner is not None:
            self._inner.finish()
        self._inner = None


def made(uri: str, run_id: str, every: float) -> Any:
    """MLflow's monitor of a run, with the points that the run has already."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    return SystemMetricsMonitor(run_id, every, resume_logging=True, node_id=os.uname().nodename, tracking_uri=uri)
