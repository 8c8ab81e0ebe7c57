"""A worker of the pool: ``python -m deepfake.sweeping.worker`` reads its work from standard input and does it.

It pays its imports once and lives as long as its parent holds the pipe open, never longer.
"""

from __future__ import annotations

import _thread
import os
import sys
import threading
import time

#: How long a job may take to stop once the parent is gone, before the process is ended from inside.
GRACE_SECONDS = 20.0
_INTERRUPTED = 130


def main() -> int:
    """Returns the exit status: 0 when the study has no more work."""
    # Not through sys.stdin: a thread waiting inside its lock would break the interpreter's own end.
    pipe = sys.stdin.fileno()
    data = _read(pipe, int.from_bytes(_read(pipe, 8), "big"))
    threading.Thread(target=_end_with_parent, args=(pipe,), name="parent", daemon=True).start()
    from deepfake.sweeping.agent import work
    from deepfake.sweeping.payload import unpack
    from deepfake.sweeping.study import Study

    given = unpack(data)
    try:
        study = Study(given.plan, supervisor=given.supervisor, token=given.token)
        work(study, given.runner)
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


def _read(pipe: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(pipe, size)
        if not part:
            sys.exit("the parent left before it had said what to do")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _end_with_parent(pipe: int) -> None:
    while os.read(pipe, 1):
        pass
    _thread.interrupt_main()
    time.sleep(GRACE_SECONDS)
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
