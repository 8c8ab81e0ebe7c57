"""``deepfake sync [FOLDER ...]``: send the tracking server what runs logged while it did not answer."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from deepfake.errors import UserError, harmless, masked
from deepfake.hydra_app import compose_run
from deepfake.runs.console import Console
from deepfake.tracking.spool import Entry, Journal, find_journals
from deepfake.tracking.store import Store, locate

#: The exit status when something is still to be sent.
LEFT = 3


@dataclass
class Sent:
    """What became of one journal: entries sent, left and refused, and why some are left."""

    folder: Path
    sent: int = 0
    left: int = 0
    refused: int = 0
    why: str = ""


EXAMPLES = (
    ("deepfake sync", "every run below outputs"),
    ("deepfake sync outputs/sweeps/lr_batch tracking.uri=http://tracking:5000", "one sweep's, to that server"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Run folders, or folders above them, and where to send."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="FOLDER | key=value",
        help="run folders, or folders that hold some (without: every run below outputs); tracking.uri=… says where "
        "to, else MLFLOW_TRACKING_URI: it is never read from a folder",
    )


def main(arguments: argparse.Namespace) -> int:
    """Send, and tell of each run what was sent; 3 where something is left."""
    overrides = [word for word in arguments.words if "=" in word and not Path(word).exists()]
    config = compose_run(overrides)
    store = locate(config.tracking, config.outputs)
    folders = _folders([word for word in arguments.words if word not in overrides], config.outputs)
    console = Console()
    results = [_send(path, store, config.tracking.uri is not None) for path in find_journals(folders)]
    rows = [found for found in results if found is not None]
    if not rows:
        console.say(f"nothing is left to send in {', '.join(str(folder) for folder in folders)}")
        return 0
    console.table(_table(rows))
    for row in rows:
        if row.why:
            console.warn(f"{row.folder}: {row.why}")
    return LEFT if any(row.left for row in rows) else 0


def _folders(words: Sequence[str], outputs: Path) -> list[Path]:
    folders = [Path(word).expanduser().absolute() for word in words] or [outputs / "runs", outputs / "sweeps"]
    for folder in folders:
        if words and not folder.is_dir():
            raise UserError(f"{folder} is no folder", "name a run's folder, such as one below outputs/runs")
    return folders


def _send(path: Path, store: Store, typed: bool) -> Sent | None:
    """Send one journal; None where nothing was left in it."""
    from deepfake.tracking.outbox import AwayError
    from deepfake.tracking.run import send_journal

    found = Sent(path.parent.parent)
    try:
        journal = Journal(path)
    except BlockingIOError:
        found.left, found.why = 1, "its own process is sending it"
        return found
    except UserError as error:
        found.left, found.why = 1, error.message
        return found
    try:
        before = journal.waiting
        if before == 0:
            return None
        uri = str(journal.header.get("store", ""))
        if not typed and uri != masked(store.uri):
            found.left, found.why = before, f"it was tracked in {uri}: to send it there, add tracking.uri={uri}"
            return found

        def refused(entry: Entry, why: str) -> None:
            found.refused += 1
            found.why = f"{entry['kind']} {entry.get('name', '')} refused: {why}"

        try:
            send_journal(store, journal, refused)
        except AwayError as away:
            found.why = str(away)
        found.left = journal.waiting
        found.sent = before - found.left - found.refused
        return found
    finally:
        journal.close()


def _table(rows: Sequence[Sent]) -> Table:
    table = Table("run", title="sent to the tracking server", title_justify="left", header_style="bold")
    for name in ("sent", "left", "refused"):
        table.add_column(name, justify="right")
    for row in rows:
        texts = (str(row.folder), str(row.sent), str(row.left), str(row.refused))
        table.add_row(*(Text(harmless(text)) for text in texts))
    return table
