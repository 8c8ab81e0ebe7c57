"""Overlays made by a process of their own: whoever asks it, and the loop that answers in it.

Maps take gradients, hooks and a decoder of their own, so that it is neither the process that scores nor one that waits
for requests. What it opens, and how it paints, the module says that it runs; one line names a file, one line says where
its overlay lies."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepfake.errors import UserError
from deepfake.installation import child_environment, module_command
from deepfake.reading.along import Moment
from deepfake.reading.file_answers import Input
from deepfake.serving.children import ChildDiedError, ChildLateError, Children, ChildStartError
from deepfake.serving.faults import told_outside
from deepfake.serving.limits import Limits
from deepfake.serving.model import File, Overlay, OverlayError


class Painting:
    """Makes overlays, one at a time.

    Args:
        module: What the process runs; it ends in :func:`work`.
        opens: What it is told to open.
        limits: How long one may take.
        gone: Why there is none where it cannot be opened any more.
    """

    def __init__(self, module: str, opens: Mapping[str, Any], limits: Limits, gone: str) -> None:
        environment = child_environment(os.environ)
        self._children = Children(module_command(module), json.dumps(dict(opens)), 1, environment)
        self._limits = limits
        self._gone = gone

    def start(self) -> None:
        """Let the process start at the first overlay."""
        self._children.start_lazily()

    async def close(self) -> None:
        """End it."""
        await self._children.close()

    async def overlay(self, file: File) -> Overlay:
        """A file's.

        Raises:
            OverlayError: There is none.
        """
        folder = file.folder / "overlay"
        folder.mkdir()
        asked = {"file": str(file.path), "kind": file.kind, "folder": str(folder)}
        try:
            answer = json.loads(await self._children.ask(json.dumps(asked), self._limits.overlay_seconds))
        except (ChildDiedError, ChildLateError):
            raise OverlayError("making it failed or took too long") from None
        except ChildStartError:
            raise OverlayError(self._gone) from None
        if not answer.get("overlay"):
            raise OverlayError(told_outside("", str(answer.get("why") or "there is none of this file")))
        return Overlay(Path(answer["overlay"]), answer["timeline"], answer["note"])


@dataclass(frozen=True)
class Painted:
    """What came of painting a file.

    Attributes:
        overlay: Where it lies; None where there is none.
        why: Why there is none, or why a map is painted or not.
        map: Whether one is.
        timeline: The frames that were looked at, in order.
    """

    overlay: Path | None
    why: str
    map: bool = False
    timeline: tuple[Moment, ...] = ()


#: Paints a file into a folder.
Paint = Callable[[Input, Path], Painted]


def work(opened: Callable[[dict[str, Any]], Paint]) -> int:
    """Open what the first line names, then paint until the input ends; returns the exit status.

    Args:
        opened: Opens it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not be read as an answer
    try:
        paint = opened(json.loads(sys.stdin.readline()))
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return 2
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        try:
            print(json.dumps(_answered(paint, json.loads(line))), file=answers, flush=True)
        except BrokenPipeError:  # whoever asked is gone
            os._exit(1)
    return 0


def _answered(paint: Paint, asked: dict[str, Any]) -> dict[str, Any]:
    """Where an overlay lies and the scores along its time, or why there is none."""
    try:
        found = paint(Input(Path(asked["file"]), asked["kind"]), Path(asked["folder"]))
    except UserError as error:
        return {"why": error.message}
    except Exception as error:
        # Whatever a file breaks, the next one may not.
        print(f"no overlay: {error!r}", file=sys.stderr, flush=True)
        return {"why": "making it failed"}
    if found.overlay is None:
        return {"why": found.why}
    timeline = [{"seconds": round(one.seconds, 3), "score": one.score, "face": one.face} for one in found.timeline]
    note = "" if found.map else f"No map is painted: {found.why}"
    return {"overlay": str(found.overlay), "timeline": timeline, "note": note}
