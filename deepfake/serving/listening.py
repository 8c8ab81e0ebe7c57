"""A service on a port until it is told to stop: requests that run end first, for as long as they may."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from deepfake.errors import UserError
from deepfake.serving.limits import Limits

_BACKLOG = 512
#: Seconds in which an idle connection is closed.
_KEEP_ALIVE = 20


def listen(host: str, port: int) -> socket.socket:
    """A socket that nobody else has; who connects waits until the service answers.

    Args:
        host: A name or an address of this machine.
        port: 0 takes any that is free.

    Raises:
        UserError: The port is taken, or there is no such address here.
    """
    made = None
    try:
        if not 0 <= port < 65536:
            raise OverflowError("ports go from 0 to 65535")
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
        # Connections of a service that ended a moment ago do not keep its port from the next one.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        # Two sockets may be bound to one port until one of them listens.
        made.listen(_BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        if made is not None:
            made.close()
        raise UserError(
            f"cannot listen on port {port} of {host}: {getattr(error, 'strerror', None) or error}",
            "another program has it, another deepfake serve say: give another --port, or 0 for any that is free",
        ) from error
    return made


def address_of(bound: socket.socket) -> str:
    """Where a browser of this machine finds it."""
    host, port = bound.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{shown}:{port}"


class _Server(uvicorn.Server):
    """Says when it has begun, and refuses new work from the moment that it is told to stop."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None], stopping: Callable[[], None]) -> None:
        super().__init__(config)
        self._told_started = started
        self._told_stopping = stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._told_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._told_stopping()
        await super().shutdown(sockets)


class _Patient(H11Protocol):
    """Closes connections whose headers do not come: each would hold a file of this process for ever."""

    patience = Limits.patience

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch: asyncio.TimerHandle | None = None
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_watching()
        elif self._watch is None:
            self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def _await_headers(self) -> None:
        self._watch = self.loop.call_later(self.patience, self._give_up)

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _give_up(self) -> None:
        self._watch = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()


def server_config(app: FastAPI, limits: Limits) -> uvicorn.Config:
    """How a service is served."""
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    return uvicorn.Config(
        app,
        http=_protocol(limits),
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=int(limits.stopping),
        backlog=_BACKLOG,
        # Whoever is before it says in headers who asked; nothing here depends on that.
        proxy_headers=False,
    )


def run_until_stopped(app: FastAPI, bound: socket.socket, limits: Limits, started: Callable[[], None]) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        app: As :func:`deepfake.serving.app.create_app` makes it.
        bound: As :func:`listen` makes it; closed at the end.
        limits: How long running requests may go on at the end.
        started: Called once requests are answered.
    """
    config = server_config(app, limits)
    desk = app.state.desk

    def stopping() -> None:
        desk.stopping = True

    try:
        # Uvicorn raises the signal again once it has stopped, for whoever caught it before.
        with suppress(KeyboardInterrupt):
            _Server(config, started, stopping).run([bound])
    finally:
        bound.close()


def _protocol(limits: Limits) -> type[H11Protocol]:
    made: Any = type("_Patient", (_Patient,), {"patience": limits.patience})
    return made


@contextmanager
def stopped_by_hang_up() -> Iterator[None]:
    """While entered, a terminal that is closed ends the service as SIGTERM does."""
    if not hasattr(signal, "SIGHUP"):
        yield
        return
    before = signal.signal(signal.SIGHUP, lambda number, frame: signal.raise_signal(signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
