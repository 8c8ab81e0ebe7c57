"""MLflow's server over a store of ours, for as long as somebody looks at its pages."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deepfake.errors import UserError
from deepfake.tracking.store import Store, quiet_mlflow

HOST = "127.0.0.1"
#: Seconds until it answers, on a machine that trains beside it; and until it has ended when told to.
_STARTING, _ENDING = 180.0, 10.0
_LOOKING = 0.2


class Server:
    """A server that runs.

    Args:
        process: Its own, at the head of a process group.
        address: Where it answers.
        log: What it printed.
    """

    def __init__(self, process: subprocess.Popen[bytes], address: str, log: Path) -> None:
        self._process = process
        self.address = address
        self._log = log

    def wait(self) -> None:
        """Return once it has ended by itself.

        Raises:
            UserError: Always: nobody told it to.
        """
        self._process.wait()
        raise UserError(f"MLflow's server has ended: {self._last_words()}", "start it again")

    def await_answer(self) -> None:
        """Return once it answers.

        Raises:
            UserError: It ended instead, or does not answer in time.
        """
        until = time.monotonic() + _STARTING
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise UserError(f"MLflow's server did not start: {self._last_words()}", "mend that, or choose a --port")
            with suppress(urllib.error.URLError, OSError):
                # The address is ours.
                urllib.request.urlopen(f"{self.address}/health", timeout=_ENDING).close()  # noqa: S310
                return
            time.sleep(_LOOKING)
        raise UserError(f"MLflow's server did not answer in {_STARTING:.0f} seconds", "try again on an idle machine")

    def stop(self) -> None:
        """End it with all its processes."""
        try:
            self._tell(signal.SIGTERM)
            self._process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            pass
        finally:
            # Whoever is left of its group, and whatever interrupted the waiting.
            self._tell(signal.SIGKILL)
            self._process.wait()

    def _tell(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _last_words(self) -> str:
        lines = [line for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        return lines[-1].strip() if lines else f"status {self._process.returncode}"


@contextmanager
def serving(store: Store, port: int | None = None) -> Iterator[Server]:
    """A server over a store, on this machine only, that has begun to answer; ended when the block is left.

    Args:
        store: A database.
        port: Where it listens; None takes any that is free.

    Raises:
        UserError: The port is taken, or the server does not start.
    """
    chosen = _free_port(port)
    quiet_mlflow()
    environment = {
        **os.environ,
        # Eight workers for jobs that none of our pages asks for.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # Not as a word of the command, which everybody on this machine can read: it may hold a password.
        "MLFLOW_BACKEND_STORE_URI": store.uri,
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    with tempfile.TemporaryDirectory(prefix="deepfake-ui-") as folder:
        log = Path(folder) / "log.txt"
        # MLflow starts four servers otherwise, which takes three times as long and two gigabytes.
        words = ["-m", "mlflow", "server", "--host", HOST, "--port", str(chosen), "--workers", "1"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", *words],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C is for us, who then end it and all its processes.
                start_new_session=True,
            )
        server = Server(process, f"http://{HOST}:{chosen}", log)
        try:
            server.await_answer()
            yield server
        finally:
            server.stop()


def _free_port(port: int | None) -> int:
    with socket.socket() as probe:
        # As the server will: one that was used a moment ago is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port or 0))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"cannot listen on port {port} of {HOST}: {getattr(error, 'strerror', None) or error}",
                "give another --port, or leave it out: a free one is taken",
            ) from error
        return int(probe.getsockname()[1])
