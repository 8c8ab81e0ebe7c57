"""Real servers on 127.0.0.1 that tests stop, freeze, slow down and bring back: MLflow's and PostgreSQL."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest


def free_port() -> int:
    """A port that nobody listens on."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class TrackingServer:
    """``mlflow server`` on a store in a folder; a second one of the same folder serves the same runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start it, for the first time or again, and wait until it answers."""
        folder = self.folder
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--backend-store-uri", f"sqlite:///{folder}/server.db"]
        command += ["--artifacts-destination", str(folder / "served")]
        with (folder / "server.log").open("ab") as log:
            # Its workers for jobs of its own take seconds to start and serve nothing that is tested.
            environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)
        end = time.monotonic() + 120
        while not self._healthy():
            assert time.monotonic() < end, (folder / "server.log").read_text()
            time.sleep(0.2)

    def _healthy(self) -> bool:
        with suppress(OSError):
            urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
            return True
        return False

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def freeze(self) -> None:
        """Answer nothing, while the kernel goes on taking connections."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._process.wait()

    stop = kill

    def asked(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.folder / "server.db")) as database:
            return database.execute(query).fetchall()


class Postgres:
    """A PostgreSQL server with a cluster of its own in a folder, run by an unprivileged user."""

    def __init__(self, folder: Path) -> None:
        if find_spec("psycopg") is None:
            pytest.skip("pip install -e '.[postgresql]' brings the driver")
        places = os.pathsep.join([os.environ.get("PATH", ""), *map(str, Path("/usr/lib/postgresql").glob("*/bin"))])
        initdb, postgres = (shutil.which(name, path=places) for name in ("initdb", "postgres"))
        if initdb is None or postgres is None:
            pytest.skip("PostgreSQL is not installed: no initdb and postgres")
        self._user = _server_user()
        for path in (folder, *folder.parents):
            if path.owner() == pwd.getpwuid(os.geteuid()).pw_name and path != Path("/tmp"):
                path.chmod(path.stat().st_mode | 0o755)
        if self._user is not None:
            os.chown(folder, pwd.getpwnam(self._user).pw_uid, -1)
        self.port = free_port()
        data = folder / "data"
        command = [initdb, "-D", data, "-A", "trust", "-U", "sweeps"]
        subprocess.run(command, check=True, capture_output=True, user=self._user)
        # A short path: a socket's may not be longer than 107 bytes.
        settings = ["-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        self._command = [postgres, "-D", data, *settings, "-c", "unix_socket_directories="]
        self.url = self.at(self.port)

    def at(self, port: int, database: str = "postgres") -> str:
        """Its URL, by a port and for a database."""
        return f"postgresql+psycopg://sweeps@127.0.0.1:{port}/{database}"

    def start(self) -> None:
        """Come up, and return once it answers."""
        import psycopg

        self._process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL, user=self._user)
        for _ in range(300):
            assert self._process.poll() is None, "the server ended at once"
            try:
                psycopg.connect(host="127.0.0.1", port=self.port, user="sweeps", dbname="postgres").close()
                return
            except psycopg.OperationalError:
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(0.1)
        pytest.fail("the server did not come up")

    def stop(self) -> None:
        """Go, whoever is connected."""
        # Its fast way out; the polite one waits for connections that this process still holds.
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)

    def freeze(self) -> None:
        """Answer nothing, while the kernel goes on taking connections."""
        self._each(signal.SIGSTOP)

    def thaw(self) -> None:
        self._each(signal.SIGCONT)

    def _each(self, number: int) -> None:
        first = psutil.Process(self._process.pid)
        for process in (first, *first.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def create(self, database: str) -> None:
        """Make a database."""
        self._execute("postgres", f'CREATE DATABASE "{database}"')

    def asked(self, query: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        return self._execute(database, query)

    def _execute(self, database: str, query: str) -> list[tuple[Any, ...]]:
        import psycopg

        address = f"host=127.0.0.1 port={self.port} user=sweeps dbname={database}"
        with psycopg.connect(address, autocommit=True) as connection:
            found = connection.execute(query)  # type: ignore[call-overload]
            return found.fetchall() if found.description else []


def _server_user() -> str | None:
    """PostgreSQL refuses to run as root: then its own user runs it."""
    if os.geteuid() != 0:
        return None
    if "postgres" not in {entry.pw_name for entry in pwd.getpwall()}:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    return "postgres"


class Proxy:
    """A way to a server that passes everything on; each answer late, or every third connection cut, if so told.

    Attributes:
        delay: Seconds that each piece of an answer is kept.
        cut: Whether every third connection is closed as soon as it is made.
    """

    def __init__(self, port: int) -> None:
        self.delay, self.cut = 0.0, False
        self._target = port
        self._count = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # Wakes the thread that waits in it, as closing alone does not.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            self._count += 1
            if self.cut and self._count % 3 == 0:
                caller.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
            except OSError:
                caller.close()
                continue
            server.settimeout(None)
            threading.Thread(target=self._pass, args=(caller, server, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, caller, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while piece := source.recv(1 << 16):
                if answers and self.delay:
                    time.sleep(self.delay)
                target.sendall(piece)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
