"""A path that a client names to a file under the one folder that it may name files in."""

from __future__ import annotations

import stat
from pathlib import Path, PurePosixPath

from deepfake.serving.faults import Fault


def file_under(root: Path, named: str) -> Path:
    """The file that is meant.

    Args:
        root: Nothing outside of it is opened, nor said to be there.
        named: A path relative to it.

    Raises:
        Fault: 400 for a name that leads out, 404 where no file is there; a link that leads out is none.
    """
    parts = PurePosixPath(named).parts
    if "\0" in named or "\\" in named or named.startswith("/") or ".." in parts or len(named) > 4096:
        raise Fault(
            400, "bad_path", "the path leads out of the folder that is served", "name it relative to that folder"
        )
    missing = Fault(404, "not_found", "there is no such file in the folder that is served", "check the path")
    try:
        found = (root / named).resolve(strict=True)
        inside = found.is_relative_to(root.resolve(strict=True))
        if not inside or not stat.S_ISREG(found.stat().st_mode):
            raise missing
        # What may not be read is as good as not there.
        found.open("rb").close()
    except (OSError, ValueError, RuntimeError):
        raise missing from None
    return found
