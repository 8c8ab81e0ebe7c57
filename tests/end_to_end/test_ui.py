"""MLflow's pages as a person finds them by ``deepfake ui``, read in a browser without a click."""

from __future__ import annotations

import importlib.util
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from deepfake.tracking.options import TrackingOptions
from deepfake.tracking.run import Origin, track
from deepfake.tracking.store import Store, connect, locate
from deepfake.tracking.view import COMPARED, run_page, sweep_page
from tests import PROJECT
from tests.end_to_end.conftest import TWO_EPOCHS, Command

pytestmark = pytest.mark.slow

RUNS = 100
#: Milliseconds for a page on a machine that is busy.
PATIENCE = 120_000
IN_ORDER = """wanted => {
    let at = 0
    return wanted.every(words => (at = document.body.innerText.indexOf(words, at) + 1) > 0)
}"""
LR, BATCH = "optimizer.lr", "trainer.batch_size"
PICTURE = importlib.util.spec_from_file_location("picture", PROJECT / "docs" / "picture.py")


@dataclass
class Found:
    """A server that ``deepfake ui`` started.

    Attributes:
        lines: What the command printed: the page, the same in charts.
        server: Its address.
        store: What it serves.
        parent: The sweep's run.
        children: Its runs.
    """

    lines: list[str]
    server: str
    store: Store
    parent: Any
    children: list[Any]

    @property
    def pages(self) -> list[str]:
        """The addresses that were printed."""
        return [line.partition(": ")[2] for line in self.lines if "http" in line]


@dataclass
class Seen:
    """A page's text, and the columns of its table from left to right."""

    text: str
    columns: list[str]


@pytest.fixture(scope="module")
def sweep(command: Command) -> str:
    """The name of a sweep of two models."""
    done = command("train.py", "-m", *TWO_EPOCHS, "model=cnn_lstm,cnn_gru", "tracking.experiment=seen")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[-1]


@pytest.fixture(scope="module")
def shown(sweep: str, outputs: Path, many: str, patch: pytest.MonkeyPatch) -> Iterator[Found]:
    """``deepfake ui SWEEP``, ended at last by SIGTERM, after which nothing of it may be alive."""
    patch.setenv("DEEPFAKE_OUTPUTS", str(outputs))
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    process = subprocess.Popen(
        [sys.executable, "-m", "deepfake.cli", "ui", sweep, "--no-browser"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    assert process.stdout is not None
    while not lines or "until Ctrl-C" not in lines[-1]:
        line = process.stdout.readline()
        assert line, f"it said only {lines}"
        lines.append(line.strip())
    started = psutil.Process(process.pid).children(recursive=True)
    store = locate(TrackingOptions(), outputs)
    client = connect(store)
    place = client.get_experiment_by_name("seen").experiment_id
    (parent,) = client.search_runs([place], "tags.sweep.kind = 'grid'")
    children = client.search_runs([place], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    yield Found(lines, lines[0].partition(": ")[2].partition("/#")[0], store, parent, list(children))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert started
    assert not [one for one in started if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as made:
        yield made


@pytest.fixture(scope="module")
def many(outputs: Path, patch: pytest.MonkeyPatch, sweep: str) -> str:
    """The id of a sweep's run with a hundred runs that were never trained."""
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store, quiet = locate(TrackingOptions(), outputs), TrackingOptions(system_metrics=False)
    with track(store, "many", "lr_batch: cnn_gru, 100 trials", tags={"sweep": "many"}, options=quiet) as parent:
        parent.compares([LR, BATCH], "val/roc_auc", maximize=True)
        for number in range(RUNS):
            rate, batch = 1e-5 * 1.07**number, (16, 32, 48, 64)[number % 4]
            name = f"cnn_gru lr={rate:.2e} batch={batch}"
            with track(store, "many", name, origin=Origin(parent.id), tags={"job": number}, options=quiet) as run:
                run.params({LR: rate, BATCH: batch, "backbone.lr": 0.1, "a.first": number})
                run.summary(dict.fromkeys(COMPARED, 0.5 + number / 300))
                run.summary({"best/val/roc_auc": number / RUNS, **{f"a/metric_{n}": 0.0 for n in range(20)}})
    return parent.id


@pytest.fixture(scope="module")
def read() -> Iterator[Callable[..., Seen]]:
    """``read(address, wanted, …)``: a page once it holds what is wanted, in that order."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    assert PICTURE is not None
    picture = importlib.util.module_from_spec(PICTURE)
    PICTURE.loader.exec_module(picture)  # type: ignore[union-attr]
    if picture.chromium() is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=picture.chromium())

        def see(address: str, *wanted: str) -> Seen:
            page = picture.opened(browser.new_page(viewport={"width": 1700, "height": 1400}), address)
            page.wait_for_function(IN_ORDER, arg=wanted, timeout=PATIENCE)
            found: str = page.inner_text("body")
            # In the order in which they stand, which is not that of the text.
            heads = sorted(
                (head.bounding_box()["x"], head.inner_text().strip()) for head in page.locator(".ag-header-cell").all()
            )
            page.close()
            return Seen(found, [name for _, name in heads if name])

        yield see
        browser.close()


def test_the_page_that_is_printed_shows_both_runs_and_their_numbers(shown: Found, read: Callable[..., Seen]) -> None:
    page = read(shown.pages[0], "test/roc_auc", "cnn_lstm", "2 matching runs")
    for run in shown.children:
        assert run.info.run_name in page.text
        for name in COMPARED:
            assert str(run.data.metrics[name]) in page.text
    assert page.columns[:6] == ["Run Name", "Created", *COMPARED, "model"]
    # Model training has these where generative models have prompts and judges.
    assert "Runs\nModels\nTraces" in page.text
    assert "Prompts" not in page.text


def test_the_charts_offer_what_was_swept_and_the_same_metrics(shown: Found, read: Callable[..., Seen]) -> None:
    read(shown.pages[1], "Test split", *COMPARED, "What was swept", "Showing all runs", "model", *COMPARED)


def test_the_sweeps_page_tells_which_run_is_best_and_what_to_do_next(shown: Found, read: Callable[..., Seen]) -> None:
    assert shown.parent.info.run_name == "model=cnn_lstm,cnn_gru"
    info = shown.parent.info
    page = read(run_page(shown.server, info.experiment_id, info.run_id), "Best by ROC-AUC (val)").text
    # Rendered: no bars and stars of Markdown.
    assert re.search(r"Run\tAccuracy\tF1\tROC-AUC\tROC-AUC \(val\)", page)
    assert "**Best" not in page
    assert "deepfake compare --sweep" in page
    assert "train.py -m" in page


def test_a_runs_page_tells_its_result_and_what_its_data_lacks(shown: Found, read: Callable[..., Seen]) -> None:
    info = shown.children[0].info
    page = read(run_page(shown.server, info.experiment_id, info.run_id), "The audit of its data warns").text
    assert re.search(r"Test: accuracy \d", page)
    assert f"deepfake reproduce {info.run_id}" in page
    assert "audit.warning.1" not in page


def test_of_a_hundred_runs_what_was_swept_and_three_metrics_come_first(
    shown: Found, many: str, read: Callable[..., Seen]
) -> None:
    place = connect(shown.store).get_experiment_by_name("many").experiment_id
    page = read(sweep_page(shown.server, place, many), "test/roc_auc", "cnn_gru", "100 matching runs")
    assert page.columns[1:7] == ["Created", *COMPARED, LR, BATCH]
    assert "a/metric_0" not in page.text
    assert "a.first" not in page.text
    # The best by what was looked for is the first.
    assert f"cnn_gru lr={1e-5 * 1.07 ** (RUNS - 1):.2e}" in page.text
    address = sweep_page(shown.server, place, many, charts=True)
    charts = read(address, "Test split", *COMPARED, "What was swept", LR, *COMPARED).text
    assert "metric_0" not in charts.partition("What was swept")[0]
