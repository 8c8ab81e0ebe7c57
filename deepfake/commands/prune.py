"""``deepfake prune``: free crops, features, probes and artifacts that no living run refers to."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence

from rich.table import Table

from deepfake.hydra_app import compose_run
from deepfake.runs.console import Console, megabytes
from deepfake.runs.pruning import Unused, find_unused, remove_unused
from deepfake.tracking.store import locate

#: The exit status when something was left.
LEFT = 3

EXAMPLES = (
    ("deepfake prune --dry-run", "what would be freed, and how much"),
    ("deepfake prune", "free it, after a question"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where things lie, and whether to ask."""
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="where things lie: paths.outputs, tracking.uri"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be freed; free nothing")
    parser.add_argument("--yes", action="store_true", help="ask nothing")


def main(arguments: argparse.Namespace) -> int:
    """Say what no living run refers to, ask, and free it; 3 where something was left."""
    config = compose_run(arguments.overrides)
    console = Console()
    store = locate(config.tracking, config.outputs)
    unused = find_unused(config.outputs, config.cache, store)
    if not unused:
        console.say(f"every run's data is in use: there is nothing to free in {config.outputs}")
        return 0
    console.table(_table(unused))
    total = megabytes(sum(one.bytes for one in unused))
    if arguments.dry_run:
        console.say(f"{total} would be freed")
        return 0
    if not arguments.yes and not console.confirm(f"free {total}?", "add --yes to free it unasked, --dry-run to look"):
        console.say("nothing was freed")
        return 0
    freed, left = remove_unused(unused, config.cache)
    for line in left:
        console.warn(line)
    console.say(f"{megabytes(freed)} freed")
    return LEFT if left else 0


def _table(unused: Sequence[Unused]) -> Table:
    table = Table("what", title="no living run refers to", title_justify="left", header_style="bold")
    for name in ("count", "frees"):
        table.add_column(name, justify="right")
    table.add_column("such as", overflow="fold")
    counts = Counter(one.kind for one in unused)
    for kind, count in counts.items():
        members = [one for one in unused if one.kind == kind]
        table.add_row(kind, str(count), megabytes(sum(one.bytes for one in members)), members[0].name)
    return table
