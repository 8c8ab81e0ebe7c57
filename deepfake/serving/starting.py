"""What is typed to start a service, and starting it: for the whole project and for an exported folder alone."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from deepfake.errors import UserError, harmless, sigterm_interrupts
from deepfake.installation import available_cores
from deepfake.serving.limits import MEGABYTE, Limits
from deepfake.serving.model import Model

_NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")

#: Makes the detector, once the port is had: given a folder for its own files, and the limits.
Open = Callable[[Path, Limits], Model]


def add_words(parser: argparse.ArgumentParser) -> None:
    """Where a service is, and how much it takes."""
    parser.add_argument("--host", default="127.0.0.1", help="who can reach it: 0.0.0.0 for all (default: this machine)")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="0 takes a free one (default: 8000)")
    parser.add_argument(
        "--workers", type=int, default=available_cores(), metavar="N", help="files read at once (default: one a core)"
    )
    parser.add_argument(
        "--queue", type=int, default=16, metavar="N", help="files that may wait beside them (default: 16)"
    )
    parser.add_argument("--upload", type=int, default=200, metavar="MB", help="largest upload (default: 200)")
    parser.add_argument("--duration", type=float, default=600, metavar="S", help="longest video (default: 600 seconds)")
    parser.add_argument("--root", type=Path, metavar="DIR", help="a folder whose files may be named by path")
    parser.add_argument("--allow-urls", action="store_true", help="fetch files from public addresses that are named")


def serve(arguments: argparse.Namespace, open_model: Open, say: Callable[[str], None]) -> None:
    """Load, listen, and answer until SIGTERM or Ctrl-C.

    Args:
        arguments: Of the words that :func:`add_words` adds.
        open_model: Makes the detector.
        say: Told where it answers, once it does.

    Raises:
        UserError: A word that nothing can be served with, a port that is taken, packages that are not installed.
    """
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise UserError(
            f"deepfake serve needs {', '.join(missing)}, which are not installed",
            "pip install 'deepfake-sweeps[serve]'",
        )
    from deepfake.serving.app import Sources, create_app
    from deepfake.serving.listening import address_of, listen, run_until_stopped, stopped_by_hang_up
    from deepfake.serving.scratch import service_folder

    limits, root = _limits(arguments), _root(arguments.root)
    # The port before the detector, whose loading takes seconds: that it is taken is soon told. A signal that came is
    # raised again once all has ended, and would end the process before its folder is removed.
    with (
        sigterm_interrupts(),
        listen(arguments.host, arguments.port) as bound,
        service_folder() as folder,
        stopped_by_hang_up(),
    ):
        model = open_model(folder, limits)
        app = create_app(model, folder, limits, Sources(root, arguments.allow_urls))
        told = f"{harmless(model.name)} answers at {address_of(bound)} (Ctrl-C ends it)"
        run_until_stopped(app, bound, limits, lambda: say(told))


def open_exported(path: Path, folder: Path, limits: Limits) -> Model:
    """An exported folder as a detector.

    Raises:
        UserError: See :class:`deepfake.reading.Detector`.
    """
    from deepfake.reading import Detector
    from deepfake.serving.exported import Exported

    return Exported(Detector.load(path), folder, limits)


def _limits(arguments: argparse.Namespace) -> Limits:
    for name, least in (("workers", 1), ("queue", 0), ("upload", 1), ("duration", 0)):
        value = getattr(arguments, name)
        if not least <= value <= 10**6:
            raise UserError(f"--{name} {value} is out of range", f"give a number from {least} on")
    return Limits(
        workers=arguments.workers,
        queue=arguments.queue,
        upload=arguments.upload * MEGABYTE,
        duration=arguments.duration,
    )


def _root(root: Path | None) -> Path | None:
    if root is None:
        return None
    if not root.is_dir():
        raise UserError(f"--root {root} is no folder", "name the folder whose files may be asked about")
    return root.resolve()
