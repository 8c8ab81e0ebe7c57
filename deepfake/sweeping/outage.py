"""Storages that do not answer for a while: distinguished from mistakes, and waited for.

Knows the errors of files and databases, not what is stored.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from optuna.exceptions import StorageInternalError

from deepfake.errors import UserError, first_line

log = logging.getLogger(__name__)
T = TypeVar("T")

#: How long an outage of the storage is waited out, in seconds: a server's restart, a full disk that is being cleared.
PATIENCE = 300.0
_LONGEST_PAUSE = 5.0


def ride_out(action: Callable[[], T], where: object, patience: float, noticed: Callable[[], None] = lambda: None) -> T:
    """Do something with a storage, again and again while the storage does not answer.

    Args:
        action: May have been done in part when it is done again.
        where: The storage, as it is named to the user.
        patience: Seconds from the first failure on; 0 for a single try.
        noticed: Called at each failure.

    Raises:
        UserError: The storage has not answered for all that time.
    """
    deadline, pause = None, 0.1
    while True:
        try:
            return action()
        except Exception as error:
            if not is_outage(error):
                raise
            noticed()
            now = time.monotonic()
            if patience <= 0:
                raise UserError(
                    f"sweep.storage={where} does not answer: {outage_text(error)}", "start it; the same command goes on"
                ) from error
            if deadline is None:
                deadline = now + patience
                log.warning("%s does not answer (%s): trying for %.0f s", where, outage_text(error), patience)
            if now >= deadline:
                raise UserError(
                    f"sweep.storage={where} has not answered for {patience:.0f} s: {outage_text(error)}",
                    "once it is back, the same command goes on",
                ) from error
        # Workers that were cut off together do not come back together.
        time.sleep(min(pause * random.uniform(0.5, 1.0), max(0.0, deadline - time.monotonic())))
        pause = min(2 * pause, _LONGEST_PAUSE)


def is_outage(error: BaseException) -> bool:
    """Whether an error of a storage may pass: no connection, a database that is locked, a disk that is full."""
    if isinstance(error, OSError):
        # What was removed or forbidden does not come back by itself.
        return not isinstance(error, (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError))
    from sqlalchemy.exc import InterfaceError, InternalError, OperationalError, PendingRollbackError

    passing = (OperationalError, InterfaceError, InternalError, PendingRollbackError)
    return isinstance(error.__cause__ if isinstance(error, StorageInternalError) else error, passing)


def outage_text(error: BaseException) -> str:
    """What is the matter, in one line."""
    return first_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
