"""A worker of the pool: ``python -m deepfake.sweeping.worker`` reads its work from standard input and does it.

It pays its imports once and lives as long as its parent holds the pipe open, never longer.
"""

from __future__ import annotations

import _thread
import os
import sys
import threading
import time
from typing import BinaryIO

#: How long a job may take to stop once the parent is gone, before the process is ended from inside.
GRACE_SECONDS = 20.0
_INTERRUPTED = 130


def main() -> int:
    """Returns the exit status: 0 when the study has no more work."""
    pipe = sys.stdin.buffer
    data = pipe.read(int.from_bytes(pipe.read(8), "big"))
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


def _end_with_parent(pipe: BinaryIO) -> None:
    pipe.read()
    _thread.interrupt_main()
    time.sleep(GRACE_SECONDS)
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
