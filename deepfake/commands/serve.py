"""``deepfake serve RUN|FOLDER``: answers over HTTP, a page to drop a video on, until it is told to stop."""

from __future__ import annotations

import argparse
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from deepfake.errors import UserError, harmless
from deepfake.installation import available_cores
from deepfake.runs.console import Console

if TYPE_CHECKING:
    from deepfake.serving.limits import Limits
    from deepfake.serving.model import Model

EXAMPLES = (
    ("deepfake serve cnn_gru", "on http://127.0.0.1:8000"),
    (
        "deepfake serve exported/ --host 0.0.0.0 --port 80",
        "an exported folder, for everybody who can reach this machine",
    ),
    ("deepfake serve best:lr_batch --root /data/videos", "files of a folder too, by their paths"),
)

_NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
_CHANGE = re.compile(r"(dataset|evaluation|trainer|tracking|paths)\.[\w.]+=")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What answers, where, and how much of it."""
    parser.add_argument(
        "run",
        metavar="RUN|FOLDER",
        help="a run's name, id or folder, study:number or best:study; or a folder made by deepfake export",
    )
    parser.add_argument(
        "changes", nargs="*", metavar="key=value", help="changes of a run, as deepfake predict takes them"
    )
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


def main(arguments: argparse.Namespace) -> int:
    """Load, listen, and answer until SIGTERM or Ctrl-C."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(
            f"deepfake serve needs {', '.join(missing)}, which are not installed",
            "pip install 'deepfake-sweeps[serve]'",
        )
    from deepfake.serving.app import Sources, create_app
    from deepfake.serving.listening import address_of, listen, run_until_stopped, stopped_by_hang_up
    from deepfake.serving.scratch import service_folder

    limits, root = read_limits(arguments), _root(arguments.root)
    console = Console()
    # Before anything is loaded, which takes seconds: that the port is taken is soon told.
    with listen(arguments.host, arguments.port) as bound, service_folder() as folder, stopped_by_hang_up():
        model = open_model(arguments.run, arguments.changes, folder, limits, console)
        app = create_app(model, folder, limits, Sources(root, arguments.allow_urls))

        def started() -> None:
            console.say(f"{harmless(model.name)} answers at {address_of(bound)} (Ctrl-C ends it)")
            sys.stdout.flush()

        run_until_stopped(app, bound, limits, started)
    return 0


def read_limits(arguments: argparse.Namespace) -> Limits:
    """What was typed.

    Raises:
        UserError: A number that nothing can be served with.
    """
    from deepfake.serving.limits import MEGABYTE, Limits

    for name, least in (("workers", 1), ("queue", 0), ("upload", 1), ("duration", 0)):
        value = getattr(arguments, name)
        if not value >= least or value > 10**6:
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


def open_model(reference: str, changes: list[str], folder: Path, limits: Limits, console: Console) -> Model:
    """What answers: an exported folder, which is known by its digests, or a run.

    Raises:
        UserError: It cannot be used; see :func:`deepfake.runs.load.open_run`.
    """
    from deepfake.reading.folder import DIGESTS

    for text in changes:
        if not _CHANGE.match(text):
            raise UserError(
                f"{text!r} is no change of a run", "behind RUN come dataset., evaluation. or trainer. keys as key=value"
            )
    if (Path(reference) / DIGESTS).is_file():
        if changes:
            raise UserError(
                f"{changes[0]!r} cannot be changed: an exported folder is what it is",
                "export the run anew, or serve it",
            )
        from deepfake.reading import Detector
        from deepfake.serving.exported import Exported

        return Exported(Detector.load(Path(reference)), folder, limits)
    from deepfake.commands.predict import as_json
    from deepfake.runs.load import open_run
    from deepfake.runs.resident import Resident

    return Resident(open_run(reference, changes, console), changes, folder, limits, as_json)
