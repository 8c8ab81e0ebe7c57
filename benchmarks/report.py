"""The page that compares 1,000 runs: how large it is, and how soon it can be used in a browser.

    python -m benchmarks.report

Needs playwright and a Chromium; no data, no model and no network. The page is made of numbers drawn on the spot, as
``deepfake compare`` makes it. Wall-clock seconds of a headless browser that opens the file, from the start of loading
to a page that is there, and on to a table that was sorted by a click and drawn again.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.measure import machine, report, row
from deepfake.metrics import metric_names
from deepfake.runs.sweep_card import board_charts, learning_charts, new_board, roc_chart
from deepfake.tracking.page import report_page, write_page
from deepfake.tracking.tables import Report, Section

RUNS, SAMPLES, EPOCHS, ROUNDS = 1_000, 400, 20, 5
#: Megabytes, and seconds to the first sorted table.
SIZE, SOON = 5.0, 2.0
_HEADS = ("gru", "lstm", "convlstm", "vit", "mean")
_KEYS = ("optimizer.lr", "head", "head.hidden")

#: Two frames after a click on a heading, what was clicked is drawn.
_SORTED = """async () => {
    const began = performance.now(), drawn = () => new Promise(done => requestAnimationFrame(done));
    document.querySelector("th button").click();
    await drawn(); await drawn();
    return [performance.getEntriesByType("navigation")[0].domContentLoadedEventEnd, began, performance.now()];
}"""


def make_board(generator: np.random.Generator) -> pd.DataFrame:
    """A leaderboard with what was chosen for each run, its numbers with intervals, and what it cost."""
    board = pd.DataFrame(
        {
            "run": [f"cnn_{_HEADS[number % len(_HEADS)]} #{number}" for number in range(RUNS)],
            "optimizer.lr": 10.0 ** generator.uniform(-5, -2, RUNS),
            "head": [_HEADS[number % len(_HEADS)] for number in range(RUNS)],
            "head.hidden": [str(2**power) for power in generator.integers(4, 9, RUNS)],
        }
    )
    for name in metric_names(headline=True):
        value = generator.uniform(0.5, 0.98, RUNS)
        board[f"test/{name}"] = value
        board[f"test/{name}_low"], board[f"test/{name}_high"] = value - 0.05, np.minimum(value + 0.03, 1)
    costs = {"epochs_run": EPOCHS, "train_seconds": 60.0, "parameters": 1e6, "latency_ms": 9.0}
    board = board.assign(**{name: value * generator.uniform(0.5, 1, RUNS) for name, value in costs.items()})
    return board.sort_values("test/roc_auc", ascending=False, ignore_index=True)


def make_report() -> Report:
    """All that stands on the page of a comparison."""
    generator = np.random.default_rng(0)
    board = make_board(generator)
    names = board["run"].tolist()
    labels = generator.integers(0, 2, SAMPLES)
    scores = {name: generator.random(SAMPLES) / 2 + labels / 2 * generator.random() for name in names}
    drawn = generator.random((RUNS, EPOCHS, 2))
    histories = {
        name: [{"epoch": float(epoch), "train/loss": loss, "val/roc_auc": area} for epoch, (loss, area) in curve]
        for name, curve in zip(names, map(enumerate, drawn.tolist()), strict=True)
    }
    roc, paths = roc_chart(scores, labels, names)
    learning, curves = learning_charts(histories, "val/roc_auc", names)
    difference = generator.random(RUNS - 1) / 5
    differences = pd.DataFrame(
        {
            "run": names[0],
            "against": names[1:],
            "difference": difference,
            "difference_low": difference - 0.1,
            "difference_high": difference + 0.1,
            "p": generator.random(RUNS - 1),
            "p (DeLong)": generator.random(RUNS - 1),
            "real": "not shown",
        }
    )
    return Report(
        title=f"{RUNS} runs compared by ROC-AUC",
        runs=board,
        columns=[name for name in board if not str(name).endswith(("_low", "_high"))],
        by="test/roc_auc",
        sections=[Section("Differences in ROC-AUC", differences, "Told: the best run with each of the others.")],
        charts=[roc, *learning, *board_charts(new_board(board, _KEYS, "test/roc_auc", larger_is_better=True))],
        curves={"roc": paths, **curves},
    )


def opened(page: Path, browser: str) -> pd.DataFrame:
    """Seconds from the start of loading to a page that is there, and to one that was sorted; a row for each round."""
    from playwright.sync_api import sync_playwright

    rows = []
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=browser)
        for _ in range(ROUNDS):
            tab = running.new_page(viewport={"width": 1280, "height": 900})
            tab.goto(page.as_uri(), wait_until="domcontentloaded")
            there, clicked, done = tab.evaluate(_SORTED)
            # What the browser waits between both is ours, not the page's.
            rows.append({"there": there / 1000, "sorted": (there + done - clicked) / 1000})
            tab.close()
        running.close()
    return pd.DataFrame(rows)


def main() -> int:
    """Make the page and open it."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        print("no Chromium is installed here", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as scratch:
        page = write_page(Path(scratch), report_page(make_report()))
        size, found = page.stat().st_size / 1e6, opened(page, browser)
    soon, there = (statistics.median(found[name]) for name in ("sorted", "there"))
    rows = [
        row(f"a page that compares {RUNS:,} runs, MB", size, f"<= {SIZE:g}"),
        row(
            f"seconds until a page of {RUNS:,} runs is there and was sorted by a click",
            soon,
            f"<= {SOON:g}",
            there=there,
            quickest=float(found["sorted"].min()),
            slowest=float(found["sorted"].max()),
        ),
    ]
    method = f"{RUNS} runs of {SAMPLES} samples and {EPOCHS} epochs, median of {ROUNDS} openings in headless Chromium"
    report("report", method, rows, machine("playwright", "pandas"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
