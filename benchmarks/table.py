"""The table of what was measured, made from ``results/*.json``.

python -m benchmarks.table            # prints it
python -m benchmarks.table --write    # puts it into docs/performance.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.aims import AIMS
from benchmarks.measure import RESULTS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- made by python -m benchmarks.table --write -->", "<!-- made so far -->"

#: Files of rows, in the order of the table.
_FILES = (
    "step",
    "loop",
    "features",
    "clips",
    "prepare",
    "evaluate",
    "tracking",
    "report",
    "audit",
    "fuse",
    "fuse-gpu",
    "fuse-gpu-fits",
    "predict",
    "explain",
    "serve",
    "hostile",
)

#: What of a sweep's figures is a ratio or a count: the words, the number, and what it is to reach.
_SWEEP: tuple[tuple[str, str, Callable[[dict[str, Any]], str], str], ...] = (
    (
        "cost",
        "CPU time of a trial in a fresh process / in a worker of ours, training not counted",
        lambda found: _short(found["fresh_over_ours"]),
        ">= 15",
    ),
    (
        "layer",
        "CPU time of claiming, reporting and ending a trial: ours / plain Optuna, random (and TPE), a journal each",
        lambda found: f"{found['random_over_plain']:.2f} ({found['tpe_over_plain']:.2f})",
        "<= 1.2",
    ),
    (
        "workers",
        "trials of unequal length: four workers of ours / batches of four",
        lambda found: _short(found["throughput"]),
        ">= 1.5",
    ),
    (
        "start",
        "trials done by eight processes that start one study at once, of 24",
        lambda found: str(found["COMPLETE"]),
        "24",
    ),
    (
        "pruning",
        "epochs without / with successive halving (and the best ROC-AUC lost by it, to stay below 0.01)",
        lambda found: f"{found['fewer_epochs']:.2f} ({found['mean_loss']:.3f})",
        ">= 2",
    ),
    (
        "kills",
        "trials done, each once, of 40 in a study killed ten times",
        lambda found: str(found["distinct"]),
        "40",
    ),
    (
        "disk",
        "GB on disk of 200 trials of heads on a frozen resnet50 (of 1,000, to stay below 3), reckoned from eight",
        lambda found: f"{found['gb_by_trials']['200']:.2f} ({found['gb_by_trials']['1000']:.2f})",
        "<= 1",
    ),
    (
        "ordered",
        "tables of one study in order that are the same, by 1, 2, 4 and 8 workers and by 2 that are killed ten times",
        lambda found: f"{found['tables']['identical']} of {found['tables']['of']}",
        "5 of 5",
    ),
    (
        "ordered",
        "throughput of a study in order / of a free one, 4 workers, trials whose lengths spread by 0.5",
        lambda found: _short(found["throughput"]["over_free"]),
        ">= 0.93",
    ),
    (
        "ordered",
        "best value of studies in order less that of free ones, in pretended time (95 % interval, to hold 0 or more)",
        lambda found: (
            f"{found['best']['mean_difference']:.4f} ({found['best']['lower']:.4f} to {found['best']['upper']:.4f})"
        ),
        ">= 0",
    ),
    (
        "promotion",
        "epochs without / with pausing and promoting (and the best ROC-AUC lost by it, to stay below 0.005: of 2,000 "
        "studies drawn from six, and of these six)",
        lambda found: (
            f"{found['fewer_epochs']:.2f} ({found['expected']['mean_loss']:.4f}, and {found['mean_loss']:.4f})"
        ),
        ">= 3",
    ),
    (
        "commands",
        "disagreements of study, MLflow and disk after 200 commands from other terminals and 20 kills",
        lambda found: str(len(found["disagreements"])),
        "0",
    ),
)


def lines(results: Path = RESULTS) -> Iterator[str]:
    """The table in Markdown, line by line.

    Args:
        results: The folder of JSON files.
    """
    yield "| what | measured | to reach | in |"
    yield "| --- | --- | --- | --- |"
    for name in _FILES:
        for line in _rows(results / f"{name}.json"):
            if line["reach"]:
                yield _line(line["what"], _short(line["ratio"]), line["reach"], name)
    sweep = _read(results / "sweep.json")
    for key, what, told, reach in _SWEEP:
        yield _line(what, told(sweep[key]) if key in sweep else "not measured", reach, "sweep")
    yield from _gpu(results / "gpu.json")


def table(results: Path = RESULTS) -> str:
    """All of it, with the marks it stands between in the page."""
    return "\n".join([BEGIN, *lines(results), END])


def replaced(text: str, new: str) -> str:
    """A page with the table between the marks exchanged.

    Raises:
        ValueError: It has no such marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN!r} and {END!r} in the page")
    return before + new + after


def _gpu(path: Path) -> Iterator[str]:
    found = _read(path)
    measured = {line["what"]: line for line in found.get("rows", [])}
    device = found.get("machine", {}).get("device")
    for what, reach in AIMS.values():
        value = _short(measured[what]["ratio"]) if what in measured else "not measured"
        yield _line(f"GPU{f' ({device})' if device else ''}: {what}", value, reach, "gpu")


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = _read(path).get("rows", [])
    return rows


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _line(what: str, value: str, reach: str, name: str) -> str:
    return f"| {what} | {value} | {reach.replace('<=', '≤').replace('>=', '≥')} | `{name}` |"


def _short(number: float) -> str:
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


def main() -> None:
    """Print the table, or put it where it belongs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    if parser.parse_args().write:
        PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), table()), encoding="utf-8")
    else:
        print(table())


if __name__ == "__main__":
    main()
