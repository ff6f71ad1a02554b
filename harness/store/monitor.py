"""GPU utilisation, memory and power of this node (and its CPU, disk and network) as system metrics of an MLflow run.

One monitor a node: the supervisor's. Nothing without a GPU, or without the `gpu` extra.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from harness.core import machine

EVERY = 10.0  # seconds


@contextmanager
def watching(uri: str, run_id: str, every: float = EVERY) -> Iterator[None]:
    """MLflow's own monitor while the block runs; a run that goes on goes on counting.

    A store that goes away ends the monitor; the job goes on.
    """
    if machine.gpus() == 0 or find_spec("pynvml") is None:
        yield
        return
    import pynvml  # noqa: F401  MLflow looks whether it was imported
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    node = os.uname().nodename
    monitor = SystemMetricsMonitor(run_id, every, resume_logging=True, node_id=node, tracking_uri=uri)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
