"""Pages as people see them: opened from the disk in a browser that has no network."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from deepfake.cli import main
from deepfake.runs.card import open_crops, run_card
from deepfake.runs.observer import job_table
from deepfake.runs.sweep_card import write_sweep_card
from deepfake.sweeping.callbacks import COMPLETED, FAILED, Job, Objective, SweepInfo, SweepResult
from deepfake.tracking.page import PAGE, table, write_page
from deepfake.tracking.page import page as page_of
from tests.runs.fakes import finished_run, full_run, keep_crops

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here to open pages in"),
]

#: What a stranger would call a file: each would set ``window.ran``.
HOSTILE = (
    "<script>window.ran=1</script>",
    '"><img src=x onerror="window.ran=1">',
    "</script><script>window.ran=1</script>",
    "<svg onload=window.ran=1>",
    "javascript:window.ran=1",
    "' onmouseover='window.ran=1",
    "{{body}}<iframe srcdoc='<script>parent.ran=1</script>'>",
)


@dataclass
class Opened:
    """A page, what it said on the console, and what it asked for beside itself."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def __call__(self, script: str) -> Any:
        return self.page.evaluate(script)


Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM)
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any) -> Open:
    """``with opened(path, …) as page`` is the page as a person has it before them."""

    @contextmanager
    def show(path: Path, *, scheme: str = "light", width: int = 1200, media: str = "screen") -> Iterator[Opened]:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        shown = Opened(context.new_page())
        shown.page.on("console", lambda message: shown.said.append(message.text))
        shown.page.on("pageerror", lambda error: shown.said.append(str(error)))
        shown.page.on("dialog", lambda dialog: shown.said.append("a dialog"))
        shown.page.on("request", lambda request: shown.asked.append(request.url))
        shown.page.emulate_media(media=media, color_scheme=scheme)
        shown.page.goto(path.as_uri())
        shown.asked = [url for url in shown.asked if url != path.as_uri() and not url.startswith("data:")]
        yield shown
        context.close()

    return show


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run whose files, methods and keys are called whatever a stranger likes."""
    place = tmp_path_factory.mktemp("hostile")
    names = [f"{name} {number}" for number in range(3) for name in HOSTILE]
    record = full_run(
        place,
        names=names,
        labels=[number % 2 for number in range(len(names))],
        methods=[HOSTILE[number % 3] for number in range(len(names))],
        config=f"more:\n  key: {HOSTILE[0]!r}\n  'k{HOSTILE[3]}': 1\n",
    )
    keep_crops(place / "cache", names)
    return write_page(place, run_card(record, open_crops(record, place / "cache")))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a sweep with as hostile names."""
    folder = tmp_path_factory.mktemp("sweep")
    objectives = [Objective("val/roc_auc"), Objective("latency_ms", maximize=False)]
    info = SweepInfo(HOSTILE[0], "study", folder, 40, objectives, space={"lr": "interval(0,1)", "head": HOSTILE[1]})
    jobs = []
    for number in range(30):
        values = [0.5 + number / 100, 10.0 - number % 7]
        metrics = {"val/roc_auc": values[0], "latency_ms": values[1]}
        chosen = [f"lr={10.0 ** (-1 - number % 4)}", f"head={HOSTILE[number % 3]}"]
        jobs.append(Job(number, chosen, COMPLETED, metrics, name=HOSTILE[number % 7], values=values))
    jobs.append(Job(30, ["lr=1"], FAILED, name="failed", reason=HOSTILE[2]))
    result = SweepResult(info, jobs, jobs[25:29], "finished")
    return write_sweep_card(result, job_table(result))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``deepfake compare`` makes of 24 runs, one of them of a hostile name."""
    place = tmp_path_factory.mktemp("comparison")
    names = [f"run {number:02d}" for number in range(23)] + ["<b onclick='window.ran=1'>run</b>"]
    skills = [*(0.012 * number for number in range(23)), 0.9]
    runs = [
        finished_run(place, name, skills[number], f"optimizer.lr={10.0 ** -(number % 5)}", folder=f"r{number}")
        for number, name in enumerate(names)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPFAKE_OUTPUTS", str(place / "outputs"))
        assert main(["compare", *(str(run.places[0]) for run in runs), "--html", "--out", str(place / "page")]) == 0
    return place / "page" / PAGE


def _is_quiet(page: Opened) -> None:
    assert page.said == []
    assert page.asked == []
    assert page("document.documentElement.dataset.ready") == "yes"


def test_a_trained_runs_card_shows_its_result_curves_and_faces(kept: Path, opened: Open) -> None:
    with opened(kept / PAGE) as page:
        _is_quiet(page)
        text = page("document.body.innerText")
        for shown in ("kept", "ROC-AUC on test", "Most wrong", "Most typical", "Calibration", "Confusion", "Cost"):
            assert shown in text
        assert page("document.images.length") > 3
        assert page("[...document.images].every(image => image.naturalWidth > 20 && image.alt)")
        assert page("[...document.querySelectorAll('svg.chart')].every(chart => chart.getAttribute('aria-label'))")
        links = page("[...document.querySelectorAll('.faces a')].map(link => link.href)")
        assert all(re.match("file:///.*demo.*mp4$", link) for link in links)


def test_it_is_among_the_runs_artifacts(kept: Path, outputs: Path) -> None:
    pages = [path for path in (outputs / "artifacts").rglob(PAGE) if path.read_bytes() == (kept / PAGE).read_bytes()]
    assert len(pages) == 1


@pytest.mark.parametrize("which", ["card", "sweep", "comparison"])
def test_hostile_names_do_not_run(which: str, request: pytest.FixtureRequest, opened: Open) -> None:
    with opened(request.getfixturevalue(which)) as page:
        page("document.querySelectorAll('details').forEach(one => one.open = true)")
        for element in page.page.query_selector_all("bdi, td, svg.chart, li")[:80]:
            element.dispatch_event("mouseover")
            element.dispatch_event("click")
        page.page.wait_for_timeout(50)
        _is_quiet(page)
        assert page("window.ran") is None
        assert "run" in page("document.body.innerText")


def test_names_are_shown_as_they_are(card: Path, opened: Open) -> None:
    with opened(card) as page:
        text = page("document.body.innerText")
        assert HOSTILE[0] in text
        assert HOSTILE[1] in text


def test_nothing_may_be_loaded_or_run_beside_the_page(card: Path, opened: Open) -> None:
    with opened(card) as page:
        broken = page(
            """async () => {
                const broken = [];
                document.addEventListener("securitypolicyviolation", event => broken.push(event.effectiveDirective));
                await fetch("http://127.0.0.1:9/").catch(() => 0);
                document.body.append(Object.assign(new Image(), {src: "http://127.0.0.1:9/x.png"}));
                document.body.append(Object.assign(document.createElement("script"), {text: "window.ran = 1"}));
                await new Promise(done => setTimeout(done, 50));
                return broken;
            }"""
        )
        assert {"connect-src", "img-src", "script-src-elem"} <= set(broken)
        assert page("window.ran") is None


def test_tables_sort_filter_and_draw(comparison: Path, opened: Open) -> None:
    with opened(comparison) as page:
        _is_quiet(page)
        first = "document.querySelector('tbody').rows[0].cells[1].textContent"
        rows = "[...document.querySelector('tbody').rows].filter(row => !row.hidden)"
        names = f"{rows}.map(row => row.cells[1].textContent)"
        assert "run</b>" in page(first)  # the best one
        page.page.click("th button:text('Run')")
        assert page(names) == sorted(page(names))
        page.page.click("th button:text('ROC-AUC')")
        assert "run</b>" in page(first)
        page.page.click("th button:text('ROC-AUC')")
        worst = page(first)
        assert worst < "run 09"
        assert page("document.querySelector('[aria-sort]').getAttribute('aria-sort')") == "ascending"
        page.page.fill("input[type=search]", "RUN 0.1000")
        assert sorted(page(names)) == ["run 01", "run 06", "run 11", "run 16", "run 21"]
        assert page("document.querySelector('output').textContent") == "5 of 24"
        page.page.fill("input[type=search]", "")
        before = page("document.querySelector('figure[data-chart=roc] .legend').innerText")
        assert worst not in before
        page.page.check(f"input[aria-label='draw {worst}']")
        assert worst in page("document.querySelector('figure[data-chart=roc] .legend').innerText")
        assert page("document.querySelectorAll('input[data-run]:checked').length") == 7
        assert page("[...document.querySelectorAll('path[data-slot]')].every(path => path.getAttribute('d'))")
        assert page.said == []


def test_of_a_very_long_table_all_rows_can_be_had(tmp_path: Path, opened: Open) -> None:
    rows = pd.DataFrame({"name": [f"run {number}" for number in range(1000)], "value": [float(n) for n in range(1000)]})
    with opened(write_page(tmp_path, page_of("long", [table(rows, ["name", "value"])]))) as page:
        shown = "[...document.querySelector('tbody').rows].filter(row => row.offsetHeight).length"
        assert page(shown) == 200
        page.page.click("th button:text('value')")
        assert page("document.querySelector('tbody').rows[0].cells[0].textContent") == "run 999"
        assert page(shown) == 200
        page.page.fill("input[type=search]", "run 99")
        assert 0 < page(shown) < 200
        assert page("document.querySelector('.more').hidden")
        page.page.fill("input[type=search]", "")
        page.page.click(".more")
        assert page(shown) == 1000
        _is_quiet(page)


def test_a_very_long_table_is_printed_whole(tmp_path: Path, opened: Open) -> None:
    rows = pd.DataFrame({"name": [f"run {number}" for number in range(400)]})
    with opened(write_page(tmp_path, page_of("long", [table(rows, ["name"])]))) as page:
        page("dispatchEvent(new Event('beforeprint'))")
        assert page("[...document.querySelector('tbody').rows].every(row => !row.hidden)")


def _contrast(page: Opened, selector: str) -> float:
    """Of a text against the page, by the WCAG."""
    colours = page(
        f"""[getComputedStyle(document.querySelector("{selector}")).color,
             getComputedStyle(document.body).backgroundColor]"""
    )

    def light(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        even = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * even[0] + 0.7152 * even[1] + 0.0722 * even[2]

    low, high = sorted(map(light, colours))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_can_be_read(card: Path, scheme: str, opened: Open) -> None:
    with opened(card, scheme=scheme) as page:
        paper = page("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
        for selector in ("h1", ".soft", "dt", ".tile span", "a", "summary", "td", ".legend li"):
            assert _contrast(page, selector) >= 4.5, selector
        fill = page("getComputedStyle(document.querySelector('.chart text')).fill")
        assert fill == page("getComputedStyle(document.body).color")


def test_on_paper_it_is_light_and_whole(card: Path, opened: Open) -> None:
    with opened(card, scheme="dark", media="print") as page:
        assert page("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page("getComputedStyle(document.querySelector('.wide')).overflow") == "visible"


@pytest.mark.parametrize("which", ["card", "sweep", "comparison"])
def test_a_narrow_screen_needs_no_sideways_scrolling(which: str, request: pytest.FixtureRequest, opened: Open) -> None:
    with opened(request.getfixturevalue(which), width=360) as page:
        assert page("document.documentElement.scrollWidth") <= 360
