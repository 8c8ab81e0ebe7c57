"""From a run to a tracking server that may be slow, hang or be gone: logged at once, sent when it can be.

What is logged goes into the run's journal and is sent from there by a thread, in order. No caller waits; only the
end of a run does, and not for long.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from deepfake.errors import harmless, masked
from deepfake.tracking.delivery import SLOWEST, Delivery, comes_again, reason
from deepfake.tracking.spool import Entry, Journal

#: Seconds between two tries while the server is away: doubled from the first to the longest.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
#: At the end of a run: seconds without anything being taken (more for a large file), and seconds in all.
PATIENCE, IN_ALL = 30.0, 120.0
#: Seconds at the end of a run that was told to stop.
HURRIED = 3.0


class AwayError(Exception):
    """The server did not take an entry, and may do so later; says why."""


class Outbox:
    """The way of one run's entries to its server.

    Args:
        open_journal: Opens the run's journal.
        deliver: Sends entries.
        server: How the server is called, for people.
        again: What to type to send what is left.
        background: Whether a thread sends; else each entry is sent as it is logged, until one is not taken.
    """

    def __init__(
        self,
        open_journal: Callable[[], Journal],
        deliver: Callable[[Journal], Delivery],
        server: str,
        again: str,
        *,
        background: bool = True,
    ) -> None:
        self._open_journal = open_journal
        self._deliver = deliver
        self._server = masked(server)
        self._again = again
        self._away: str | None = None
        self._progress = time.monotonic()
        self._in_hand = 0
        self.run_id = ""
        self._wake, self._closing, self._given_up = (threading.Event() for _ in range(3))
        self._journal: Journal | None = None
        self._thread: threading.Thread | None = None
        if background:
            self._journal = open_journal()
            self._thread = threading.Thread(target=self._work, daemon=True, name="tracking")
            self._thread.start()

    @property
    def away(self) -> bool:
        """Whether the server did not take what it was last sent."""
        return self._away is not None

    def put(self, entry: Entry, *files: tuple[str, Path]) -> None:
        """Take an entry; files are kept under the keys they are given with."""
        if self._journal is not None:
            self._append(self._journal, entry, files)
            self._wake.set()
            return
        journal = self._open_journal()
        try:
            self._append(journal, entry, files)
            if self._away is None:
                send_all(journal, self._deliver(journal), self._refused)
        except AwayError as away:
            self._tell_away(journal, str(away), f"send it later: {self._again}")
        finally:
            journal.close()

    def close(self, hurried: bool = False) -> None:
        """Wait until all is sent, a bounded time; what is left stays in the journal, and that is said.

        Args:
            hurried: The run was told to stop: wait for moments only.
        """
        journal, thread = self._journal, self._thread
        if journal is None or thread is None:
            return
        began = self._progress = time.monotonic()
        self._closing.set()
        self._wake.set()
        patience = HURRIED if hurried else PATIENCE
        said = False
        try:
            while thread.is_alive():
                thread.join(0.1)
                now = time.monotonic()
                more = 0.0 if hurried else self._in_hand / SLOWEST
                if now - self._progress > patience + more or now - began > IN_ALL + more:
                    break
                if not said and not hurried and now - began > 2 and thread.is_alive():
                    said = True
                    _say(
                        f"waiting for {self._server} to take {journal.waiting} entries of this run, {patience:g} s at "
                        "most without an answer; Ctrl-C leaves them in its folder"
                    )
        finally:
            self._given_up.set()
            self._wake.set()
            left = journal.waiting
            journal.close()
            if left:
                _say(f"warning: {left} entries of this run were not sent to {self._server}; send them: {self._again}")

    def _append(self, journal: Journal, entry: Entry, files: Sequence[tuple[str, Path]]) -> None:
        journal.append({**entry, **{key: journal.keep(file) for key, file in files}})

    def _work(self) -> None:
        journal = self._journal
        assert journal is not None
        deliver: Delivery | None = None
        pause = FIRST_PAUSE
        while not self._given_up.is_set():
            self._wake.clear()
            try:
                deliver = deliver or self._deliver(journal)
                self.run_id = journal.header["run_id"]
                send_all(journal, deliver, self._refused, self._note)
                # Its run was made there at last, though nothing was logged to it yet.
                self._back()
            except AwayError as away:
                self._tell_away(journal, str(away), "training goes on")
                (self._given_up if self._closing.is_set() else self._closing).wait(pause)
                pause = FIRST_PAUSE if self._closing.is_set() else min(2 * pause, LONGEST_PAUSE)
                continue
            pause = FIRST_PAUSE
            if self._closing.is_set():
                return
            self._wake.wait()

    def _note(self, in_hand: int, done: bool) -> bool:
        """Hear of each step; returns whether to go on."""
        self._in_hand = in_hand
        if done:
            self._progress = time.monotonic()
            self._back()
        return not self._given_up.is_set()

    def _back(self) -> None:
        if self._away is not None and not self._given_up.is_set():
            self._away = None
            _say(f"note: {self._server} takes entries again; what was kept is sent")

    def _tell_away(self, journal: Journal, why: str, then: str) -> None:
        if self._away is None and not self._given_up.is_set():
            place = journal.path.parent
            _say(f"warning: {self._server} does not take what it is sent ({why}): {place} keeps it, {then}")
        self._away = why

    def _refused(self, entry: Entry, why: str) -> None:
        _say(f"warning: {self._server} refuses {entry['kind']} {entry.get('name', '')}: {why}")


def send_all(
    journal: Journal,
    deliver: Callable[[Sequence[Entry]], object],
    refused: Callable[[Entry, str], None],
    note: Callable[[int, bool], bool] = lambda in_hand, done: True,
) -> None:
    """Send what a journal holds, in order, until nothing is left.

    Args:
        journal: Says what was not sent, and is told what was.
        deliver: Sends entries of one kind.
        refused: Hears of each entry that will never be taken; it is put aside.
        note: Hears before and after each step how many bytes are sent in it; False ends it.

    Raises:
        AwayError: An entry was not taken now; it and what follows are kept.
    """
    size = getattr(deliver, "bytes", lambda entry: 0)
    while waiting := journal.next():
        for group in _groups(waiting):
            entries = [entry for entry, _ in group]
            if not note(size(entries[0]), False):
                return
            _send(entries, journal, deliver, refused)
            journal.sent(group[-1][1], len(group))
            if not note(0, True):
                return


def _send(
    entries: list[Entry],
    journal: Journal,
    deliver: Callable[[Sequence[Entry]], object],
    refused: Callable[[Entry, str], None],
) -> None:
    try:
        deliver(entries)
    except Exception as error:
        if comes_again(error):
            raise AwayError(reason(error)) from error
        if len(entries) > 1:
            for entry in entries:
                _send([entry], journal, deliver, refused)
            return
        # Not of this moment: it would stand in the way of all that follows.
        journal.refuse(entries[0], reason(error))
        refused(entries[0], reason(error))


def _groups(waiting: list[tuple[Entry, int]]) -> Iterator[list[tuple[Entry, int]]]:
    """Metrics that follow one another together, everything else one by one."""
    for metrics, run in groupby(waiting, key=lambda pair: pair[0].get("kind") == "metrics"):
        together = list(run)
        yield from [together] if metrics else ([pair] for pair in together)


def _say(text: str) -> None:
    print(harmless(text), file=sys.stderr, flush=True)
