"""What a service did, for Prometheus. One registry for each service, so that several live in one process."""

from __future__ import annotations

import re
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_BATCH = (1, 2, 4, 8, 16, 32)
TYPE = CONTENT_TYPE_LATEST


class Counters:
    """Counted since the start."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        own = self._registry
        self._requests = Counter("deepfake_requests", "Requests that were answered.", ["route", "status"], registry=own)
        self._seconds = Histogram(
            "deepfake_request_seconds", "From headers to answer.", ["route"], buckets=_SECONDS, registry=own
        )
        self._files = Counter(
            "deepfake_files", "Files by what was said of them: a class, or a reason.", ["outcome"], registry=own
        )
        self._batch = Histogram(
            "deepfake_batch_files", "Files that were scored together.", buckets=_BATCH, registry=own
        )
        self._gone = Counter("deepfake_clients_gone", "Clients that left before their answer.", registry=own)
        self._received = Counter("deepfake_received_bytes", "Bytes of files that came.", registry=own)
        self._taken = Gauge("deepfake_files_in_service", "Files that wait or are in work.", registry=own)
        self._ready = Gauge("deepfake_files_ready", "Files that were read and wait to be scored.", registry=own)
        self._restarts = Gauge("deepfake_worker_restarts", "Processes that were replaced.", registry=own)
        ProcessCollector(registry=self._registry)

    def watch(self, taken: Callable[[], float], ready: Callable[[], float], restarts: Callable[[], float]) -> None:
        """Where the gauges look."""
        self._taken.set_function(taken)
        self._ready.set_function(ready)
        self._restarts.set_function(restarts)

    def responded(self, route: str, status: int, seconds: float) -> None:
        """A request was answered. ``route`` is one of ours, never what a client made up."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def answered(self, outcome: str) -> None:
        """A file has a result."""
        self._files.labels(outcome if re.fullmatch(r"\w{1,30}", outcome) else "other").inc()

    def scored(self, files: int) -> None:
        """So many files were scored together."""
        self._batch.observe(files)

    def received(self, size: int) -> None:
        """So many bytes of files came."""
        self._received.inc(size)

    def gone(self) -> None:
        """A client left."""
        self._gone.inc()

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self._registry)
