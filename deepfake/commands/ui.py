"""``deepfake ui [RUN|SWEEP]``: MLflow's page of a run, or the one that compares the runs of a sweep."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from deepfake.config import is_environment_key
from deepfake.errors import UserError, masked
from deepfake.hydra_app import compose_run
from deepfake.runs.console import Console
from deepfake.tracking.pages import Page, find_page
from deepfake.tracking.server import serving
from deepfake.tracking.store import locate

EXAMPLES = (
    ("deepfake ui", "what was begun last"),
    ("deepfake ui lr_batch_demo", "the runs of a sweep beside each other"),
    ("deepfake ui best:lr_batch_demo --no-browser", "one run; prints the address and opens nothing"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which page, and where."""
    parser.add_argument(
        "run",
        nargs="*",
        metavar="RUN|SWEEP|key=value",
        help="a sweep's name or folder, or a run's name, id, folder, STUDY:NUMBER or best:STUDY (default: what was "
        "begun last); and where things lie: paths.outputs, tracking.uri",
    )
    parser.add_argument("--port", type=int, metavar="N", help="where the server listens (default: any free port)")
    parser.add_argument("--no-browser", action="store_true", help="print the address, and open no browser")


def main(arguments: argparse.Namespace) -> int:
    """Find the page, serve it where no server does, and open it; until Ctrl-C where it is served."""
    console = Console()
    typed = [text for text in arguments.run if is_environment_key(text) and "=" in text]
    named = [text for text in arguments.run if text not in typed]
    if len(named) > 1:
        raise UserError(
            f"{len(named)} runs are named, and a page is of one run or one sweep",
            f"name one; to set runs side by side: deepfake compare {' '.join(named)}",
        )
    config = compose_run(typed)
    store = locate(config.tracking, config.outputs)
    page = find_page(named[0] if named else None, store, config.outputs)
    if store.serves:
        _show(page, store.uri, console, browser=not arguments.no_browser)
        return 0
    with _until_told(), serving(store, arguments.port) as server:
        _show(page, server.address, console, browser=not arguments.no_browser)
        console.say("it is served until Ctrl-C")
        sys.stdout.flush()
        server.wait()
    return 0


def _show(page: Page, server: str, console: Console, *, browser: bool) -> None:
    console.say(f"{page.name}: {page.address(masked(server))}")
    if charts := page.charts(masked(server)):
        console.say(f"in charts: {charts}")
    # Who reads it may be a program that waits for the address.
    sys.stdout.flush()
    if browser and not _opened(page.address(server)):
        console.warn("no browser could be opened here: open the address in yours")


def _opened(address: str) -> bool:
    """Whether a browser was told of a page: one with a window, for one in the terminal would take it over."""
    windows = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
    if sys.platform.startswith("linux") and not windows:
        return False
    try:
        return webbrowser.open(address)
    except (webbrowser.Error, OSError):
        return False


@contextmanager
def _until_told() -> Iterator[None]:
    """End the block quietly at Ctrl-C or SIGTERM, or when the terminal is closed: that is how a server is ended."""

    def hang_up(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGHUP, hang_up) if hasattr(signal, "SIGHUP") else None
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        if before is not None:
            signal.signal(signal.SIGHUP, before)
