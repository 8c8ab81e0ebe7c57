"""A small finished run, and the commands that read one, in this process: what the tests of run folders share."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepfake import cli

#: Eight people, half a second, one epoch: seconds of work.
TINY = ("demo.people=8", "demo.seconds=0.5", "trainer.epochs=1", "evaluation.resamples=100")
#: Past it nothing of the kind takes long: what is refused is refused at once.
QUIET = ("tracking.system_metrics=false", "tracking.log_model=false")


@dataclass(frozen=True)
class Told:
    """What a command came to.

    Attributes:
        status: Its exit status; 1 with the traceback in ``text`` where an exception passed.
        text: Standard output and error.
    """

    status: int
    text: str

    @property
    def crashed(self) -> bool:
        """Whether it ended in an exception that nobody translated."""
        return "Traceback (most recent call last)" in self.text

    @property
    def refused(self) -> bool:
        """Whether it ended as a mistake is told."""
        return self.status == 2 and "error: " in self.text and "hint: " in self.text


def run(words: Sequence[str]) -> Told:
    """``deepfake <words>``, in this process."""
    out = io.StringIO()
    here, handlers = os.getcwd(), list(logging.getLogger().handlers)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            status = cli.main(list(words))
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except Exception:
            traceback.print_exc(file=out)
            status = 1
        finally:
            # Hydra's jobs write their log to the standard output of the time.
            logging.getLogger().handlers[:] = handlers
            os.chdir(here)
    return Told(status, out.getvalue())


def make_run(outputs: Path) -> Path:
    """Train the smallest run there is below ``outputs``; returns its folder."""
    told = run(["train", *TINY, *QUIET, "trainer.num_workers=0", f"paths.outputs={outputs}"])
    assert told.status == 0, told.text
    (folder,) = (outputs / "runs").iterdir()
    return folder


def snapshot(folder: Path) -> dict[str, str]:
    """Every file, link and folder below one, with a digest of what it holds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "folder"
    return found
