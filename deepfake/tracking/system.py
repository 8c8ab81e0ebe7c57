"""CPU, memory, disk, network and GPU use of the machine while a run lasts, as ``system/...`` metrics.

Reads what MLflow's own monitors read; keeps no run alive and knows nothing of training.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

_log = logging.getLogger(__name__)


class SystemSampler:
    """A thread that samples every few seconds and once more at the end, so that the shortest run has a sample.

    MLflow's own monitor drops the sample it holds when a run ends within its first interval, and reads the
    whole run back each time it samples.

    Args:
        tell: Takes the number of a sample and its values.
        seconds: From one sample to the next.
    """

    def __init__(self, tell: Callable[[int, Mapping[str, float]], None], seconds: float) -> None:
        self._tell = tell
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
        step, failing = 0, False
        while True:
            last = self._stop.wait(self._seconds)
            try:
                self._publish(step)
                failing = False
            except Exception as error:
                # A busy database or a driver's fault must not end the training it only looks at.
                if not failing:
                    _log.warning("no system metrics for now: %s", error)
                failing = True
            step += 1
            if last:
                return

    def _publish(self, step: int) -> None:
        metrics: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            metrics |= {f"system/{key}": float(value) for key, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        self._tell(step, metrics)


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
