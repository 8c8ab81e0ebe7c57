"""CPU, memory, disk, network and GPU use of the machine while a run lasts, as ``system/...`` metrics.

Reads what MLflow's own monitors read; keeps no run alive and knows nothing of training.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

_log = logging.getLogger(__name__)


class SystemSampler:
    """A thread that samples every few seconds and once more at the end, so that the shortest run has a sample.

    MLflow's own monitor drops the sample it holds when a run ends within its first interval, and reads the
    whole run back each time it samples.
    """

    def __init__(self, client: MlflowClient, run_id: str, seconds: float) -> None:
        self._client = client
        self._run_id = run_id
        self._seconds = seconds
        self._monitors = _monitors()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True, name="system-metrics")

    def start(self) -> None:
        """Begin sampling in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Take the last sample and wait until it is written."""
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        step = 0
        while True:
            last = self._stop.wait(self._seconds)
            try:
                self._publish(step)
            except Exception as error:
                # A busy database or a lost server must not end the training it only looks at.
                _log.warning("no system metrics any more: %s", error)
                return
            step += 1
            if last:
                return

    def _publish(self, step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = []
        for monitor in self._monitors:
            monitor.collect_metrics()
            values = monitor.aggregate_metrics()
            metrics += [Metric(f"system/{key}", float(value), now, step) for key, value in values.items()]
            monitor.clear_metrics()
        self._client.log_batch(self._run_id, metrics=metrics)


def _monitors() -> list:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors: list = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    try:
        monitors.append(GPUMonitor())
    except (ImportError, RuntimeError) as error:
        _log.debug("no GPU metrics: %s", error)
    return monitors
