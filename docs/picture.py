"""The picture of README: MLflow's page of a sweep, as ``deepfake ui`` opens it, in charts.

python docs/picture.py [SWEEP]    # default: what was begun last; writes docs/comparison.png
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from deepfake.hydra_app import compose_run
from deepfake.tracking.pages import find_page
from deepfake.tracking.server import serving
from deepfake.tracking.store import locate

if TYPE_CHECKING:
    from playwright.sync_api import Page

PICTURE = Path(__file__).with_name("comparison.png")
#: Names under which systems keep it.
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
_WIDTH, _HEIGHT = 1400, 1080
#: Milliseconds for a page on a machine that is busy; and in which charts that are there take their places.
_PATIENCE, _DRAWING = 120_000, 3000


def chromium() -> str | None:
    """Where Chromium is; None where it is not installed."""
    return next(filter(None, map(shutil.which, _CHROMIUM)), None)


def opened(page: Page, address: str) -> Page:
    """Open one of MLflow's pages, its chat put away, as on a later visit."""
    page.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
    page.goto(address)
    return page


def draw(address: str, path: Path) -> None:
    """A picture of a sweep's charts."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium())
        fresh = browser.new_page(viewport={"width": _WIDTH, "height": _HEIGHT})
        fresh.set_default_timeout(_PATIENCE)
        page = opened(fresh, address)
        page.get_by_text("Parallel Coordinates").wait_for()
        page.get_by_label("Hide banner").click()
        page.locator(".js-plotly-plot").nth(2).wait_for()
        page.wait_for_timeout(_DRAWING)
        page.screenshot(path=path)
        browser.close()


def main() -> None:
    """Serve the page and draw it."""
    config = compose_run([])
    store = locate(config.tracking, config.outputs)
    found = find_page(sys.argv[1] if len(sys.argv) > 1 else None, store, config.outputs)
    with serving(store) as server:
        draw(found.charts(server.address) or found.address(server.address), PICTURE)
    print(f"written: {PICTURE}")


if __name__ == "__main__":
    main()
