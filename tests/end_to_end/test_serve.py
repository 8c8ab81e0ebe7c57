"""``deepfake serve`` as a client, a person and an operator meet it."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import psutil
import pytest

from deepfake.serving.scratch import service_folder
from tests import PROJECT
from tests.data.making import write_video
from tests.end_to_end.conftest import Command
from tests.end_to_end.using import Here
from tests.serving.making import Scripted, form, serving, until

pytestmark = pytest.mark.slow

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@dataclass
class Service:
    """A process of ``deepfake serve``."""

    process: subprocess.Popen[str]
    address: str
    scratch: Path

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> tuple[int, Any]:
        host = self.address.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=300)
        try:
            connection.request(method, path, body, {"Content-Type": kind} if kind else {})
            answer = connection.getresponse()
            text = answer.read()
            json_told = answer.getheader("Content-Type", "").startswith("application/json")
            return answer.status, json.loads(text) if json_told else text
        finally:
            connection.close()

    def send(self, *files: Path, to: str = "/v2/predict") -> tuple[int, Any]:
        body, kind = form([("file", file.name, file.read_bytes()) for file in files])
        return self.ask("POST", to, body, kind)

    def workers(self) -> list[psutil.Process]:
        """The processes that read files."""
        found = psutil.Process(self.process.pid).children()
        return [one for one in found if any("prepare_worker" in word for word in one.cmdline())]

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@contextmanager
def service(run: str, scratch: Path, outputs: Path, *words: str, command: list[str] | None = None) -> Iterator[Service]:
    """A service on a free port, killed with the block if it still runs."""
    scratch.mkdir(exist_ok=True)
    environment: Mapping[str, str] = {
        **{key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"},
        "DEEPFAKE_OUTPUTS": str(outputs),
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(scratch),
    }
    process = subprocess.Popen(
        command or [sys.executable, "-m", "deepfake.cli", "serve", run, "--port", "0", "--workers", "2", *words],
        cwd=PROJECT,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said = ""
        assert process.stdout is not None
        while "answers at" not in said:
            line = process.stdout.readline()
            assert line, f"it said only {said}"
            said += line
        threading.Thread(target=process.stdout.read, daemon=True).start()
        found = re.search(r"http://[\w.:]+", said)
        assert found
        yield Service(process, found[0], scratch)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def served(kept: Path, outputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service("kept", tmp_path_factory.mktemp("scratch"), outputs, "--queue", "30") as made:
        yield made


@pytest.fixture(scope="module")
def videos(kept: Path) -> list[Path]:
    """Videos of the run's test split."""
    root = Path(json.loads((kept / "provenance.json").read_text())["data"]["roots"]["demo"])
    table = pd.read_parquet(kept / "manifest.parquet")
    return [root / path for path in table[table["split"] == "test"]["path"]]


def test_answers_are_those_of_predict(served: Service, videos: list[Path], here: Here) -> None:
    told = json.loads(here("predict", "kept", "--json", *map(str, videos[:4])).out)
    status, answer = served.send(*videos[:4])
    assert status == 200
    for key in ("schema", "run", "threshold", "threshold_probability", "calibration"):
        assert answer[key] == told[key]
    for ours, theirs in zip(answer["results"], told["results"], strict=True):
        assert ours["class"] == theirs["class"]
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
        assert ours["probability"] == pytest.approx(theirs["probability"], abs=1e-4)
        assert set(theirs) - set(ours) == set()
        assert len(ours["timeline"]) == ours["spread"]["clips"]


def test_many_at_once_get_the_same_answers(served: Service, videos: list[Path]) -> None:
    alone = [served.send(video)[1]["results"][0]["score"] for video in videos[:4]]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: served.send(videos[number % 4]), range(24)))
    assert {status for status, _ in found} == {200}
    for number, (_, answer) in enumerate(found):
        assert answer["results"][0]["score"] == pytest.approx(alone[number % 4], abs=1e-5)


def test_an_overlay_is_a_video(served: Service, videos: list[Path], tmp_path: Path) -> None:
    status, answer = served.send(videos[0], to="/api/v1/predict?overlay=true")
    assert status == 200
    assert answer["output_url"], answer
    status, data = served.ask("GET", answer["output_url"])
    (tmp_path / "overlay.mp4").write_bytes(data)
    frames = int(cv2.VideoCapture(str(tmp_path / "overlay.mp4")).get(cv2.CAP_PROP_FRAME_COUNT))
    assert (status, frames) == (200, int(cv2.VideoCapture(str(videos[0])).get(cv2.CAP_PROP_FRAME_COUNT)))


def bomb(path: Path) -> None:
    """A PNG that says it has 40,000 x 40,000 pixels."""
    import struct
    import zlib

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    body = part(b"IHDR", size) + part(b"IDAT", zlib.compress(bytes(10**6), 9)) + part(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def hostile(folder: Path, video: Path) -> dict[str, str]:
    """Files that have no answer, by name, with the reason that each is to have."""
    (folder / "text.mp4").write_text("no video")
    (folder / "empty.mp4").touch()
    (folder / "cut.mp4").write_bytes(video.read_bytes()[:600])
    (folder / "notes.txt").write_text("x")
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut short \xff\xda")
    (folder / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    bomb(folder / "bomb.png")
    return {
        "text.mp4": "undecodable",
        "empty.mp4": "empty",
        "cut.mp4": "undecodable",
        "notes.txt": "unsupported",
        "cut.jpg": "undecodable",
        "playlist.mp4": "undecodable",
        "bomb.png": "too_large",
    }


def test_hostile_files_get_a_reason_and_no_score(served: Service, videos: list[Path], tmp_path: Path) -> None:
    for name, reason in hostile(tmp_path, videos[0]).items():
        status, answer = served.send(tmp_path / name)
        assert (status, answer["error"]["code"]) == (415 if reason == "unsupported" else 422, reason), name
        assert "score" not in json.dumps(answer)
        assert str(served.scratch) not in json.dumps(answer)
    assert served.send(videos[0])[0] == 200


def test_limits_hold_and_silent_clients_keep_nothing_up(
    kept: Path, videos: list[Path], outputs: Path, tmp_path: Path
) -> None:
    write_video(tmp_path / "long.mp4", 60, steps=[50] * 60)
    write_video(tmp_path / "one.mp4", 1)
    with service("kept", tmp_path / "scratch", outputs, "--duration", "30", "--upload", "1") as served:
        status, answer = served.send(tmp_path / "long.mp4")
        assert (status, answer["error"]["code"]) == (422, "too_long")
        assert served.send(tmp_path / "one.mp4")[0] in (200, 422)
        (tmp_path / "large.mp4").write_bytes(bytes(3 << 20))
        status, answer = served.send(tmp_path / "large.mp4")
        assert (status, answer["error"]["code"]) == (413, "upload_too_large")
        host, _, port = served.address.removeprefix("http://").partition(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(20)]
        assert served.send(videos[0])[0] == 200
        # Nor do clients that say nothing keep it from ending.
        assert served.end(signal.SIGINT) == 0
        for one in silent:
            one.close()


def test_a_frame_of_8k_is_answered_for(served: Service, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (432, 768, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "large.jpg"), cv2.resize(picture, (7680, 4320)))
    status, answer = served.send(tmp_path / "large.jpg")
    assert status == 200
    assert answer["results"][0]["media"]["width"] == 7680


def test_workers_that_are_killed_are_replaced(served: Service, videos: list[Path]) -> None:
    before = {one.pid for one in served.workers()}
    assert len(before) == 2
    for one in served.workers():
        one.kill()
    with ThreadPoolExecutor(4) as pool:
        assert [status for status, _ in pool.map(served.send, videos[:4])] == [200] * 4
    assert not before & {one.pid for one in served.workers()}


def test_sigterm_under_load_lets_running_requests_end(
    kept: Path, videos: list[Path], outputs: Path, tmp_path: Path
) -> None:
    statuses: list[int] = []
    with service("kept", tmp_path / "scratch", outputs, "--queue", "40") as served:
        workers = served.workers()

        def ask() -> None:
            try:
                while True:
                    statuses.append(served.send(videos[0])[0])
            except (OSError, http.client.HTTPException):
                return

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        assert until(lambda: len(statuses) > 10)
        began = time.monotonic()
        assert served.end() == 0
        assert time.monotonic() - began < 35
        for thread in threads:
            thread.join(30)
    assert set(statuses) <= {200, 503}
    assert list((tmp_path / "scratch").iterdir()) == []
    assert until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in workers))


def test_a_service_outlives_its_run_and_leaves_nothing_when_it_is_killed(
    kept: Path, videos: list[Path], outputs: Path, tmp_path: Path
) -> None:
    run, scratch = tmp_path / "run", tmp_path / "scratch"
    shutil.copytree(kept, run)
    with service(str(run), scratch, outputs) as served:
        first = served.send(videos[0])
        shutil.rmtree(run)
        again = served.send(videos[0])
        assert first[0] == again[0] == 200
        assert first[1]["results"] == again[1]["results"]
        workers = served.workers()
        served.process.kill()
        served.process.wait()
    assert until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in workers))
    (left,) = scratch.glob("deepfake-serve-*")
    # The next start.
    with service_folder(scratch):
        assert not left.exists()


def test_two_services_on_one_port(served: Service, kept: Path, here: Here) -> None:
    port = served.address.rpartition(":")[2]
    said = here("serve", "kept", "--port", port)
    assert said.status == 2
    assert f"cannot listen on port {port}" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["no_such_run"], "no_such_run"),
        (["kept", "--workers", "0"], "--workers 0"),
        (["kept", "--queue", "-1"], "--queue -1"),
        (["kept", "--duration", "nan"], "--duration nan"),
        (["kept", "--root", "/no/such/folder"], "--root"),
        (["kept", "head.hidden=3"], "head.hidden=3"),
        (["kept", "evaluation.clips=nonsense"], "nonsense"),
    ],
)
def test_mistakes_are_told_in_two_lines(kept: Path, here: Here, words: list[str], told: str) -> None:
    said = here("serve", *words, "--port", "0")
    assert said.status == 2
    assert told in said.err
    assert "Traceback" not in said.err


def test_memory_and_folders_stay_as_they_are(served: Service, videos: list[Path]) -> None:
    def ask(count: int) -> int:
        with ThreadPoolExecutor(4) as pool:
            assert {status for status, _ in pool.map(lambda n: served.send(videos[n % 4]), range(count))} == {200}
        return int(psutil.Process(served.process.pid).memory_info().rss)

    ask(40)
    before, files = ask(40), psutil.Process(served.process.pid).num_fds()
    after = ask(120)
    assert after < before * 1.1
    assert psutil.Process(served.process.pid).num_fds() <= files + 8
    (folder,) = served.scratch.glob("deepfake-serve-*")
    assert until(lambda: not list(folder.glob("request-*")))
    assert list((folder / "crops").iterdir()) == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed here to open pages in")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM)
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, served: Service) -> Iterator[Any]:
    """The page; nothing may be said on its console, and nothing asked of anybody else."""
    context = browser.new_context(viewport={"width": 900, "height": 900})
    opened = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.set_default_timeout(120_000)
    opened.goto(served.address)
    assert until(lambda: opened.locator("#model").text_content() != "", 120)
    yield opened
    assert [one for one in said if "status of 4" not in one] == []
    assert [url for url in asked if not url.startswith((served.address, "blob:"))] == []
    context.close()


def drop(page: Any, path: Path) -> None:
    """Drag a file from the desktop onto the page."""
    import base64

    page.evaluate(
        """([name, data]) => {
            const bytes = Uint8Array.from(atob(data), each => each.charCodeAt(0)), transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name));
            const target = document.getElementById("drop");
            for (const kind of ["dragenter", "dragover", "drop"])
                target.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
        }""",
        [path.name, base64.b64encode(path.read_bytes()).decode()],
    )


def test_a_video_that_is_dropped_gets_a_verdict_in_words(page: Any, videos: list[Path], served: Service) -> None:
    drop(page, videos[0])
    page.get_by_role("button", name="Look at it").click()
    page.locator("#result").wait_for()
    (result,) = served.send(videos[0])[1]["results"]
    assert f"Called {result['class']}" in page.locator("#verdict").inner_text()
    assert "The probability that it is fake is" in page.locator("#sure").inner_text()
    assert "are fake" in page.locator("#meaning").inner_text()
    assert "FAKE begins at" in page.locator("#chart svg").get_attribute("aria-label")
    assert page.evaluate("document.activeElement.id") == "result"
    shown = json.loads(page.locator("#raw").text_content())
    assert shown["results"][0]["score"] == pytest.approx(result["score"], abs=1e-5)


def test_the_page_is_used_with_the_keyboard_alone(page: Any, videos: list[Path]) -> None:
    page.locator("#file").set_input_files(str(videos[0]))
    page.locator("#file").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.locator("#overlay").is_checked()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "ask"
    page.keyboard.press("Enter")
    page.locator("#painted").wait_for()
    assert until(lambda: page.evaluate("document.getElementById('video').readyState") >= 2, 60)
    assert page.evaluate("document.getElementById('video').videoWidth") > 0


def test_an_overlay_without_a_map_says_so(browser: Any, tmp_path: Path) -> None:
    model = Scripted()
    model.note = "No map is painted: it takes torch"
    (tmp_path / "clip.mp4").write_bytes(b"video")
    with serving(tmp_path / "service", model) as served, browser.new_context() as context:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{served.port}")
        page.locator("#overlay-row").wait_for()
        page.locator("#file").set_input_files(str(tmp_path / "clip.mp4"))
        page.locator("#overlay").check()
        page.get_by_role("button", name="Look at it").click()
        page.locator("#painted").wait_for()
        assert page.locator("#painted-why").inner_text() == "No map is painted: it takes torch."
        assert not page.locator("#painted-caption").is_visible()


def test_what_has_no_answer_is_told_in_words(page: Any, tmp_path: Path) -> None:
    (tmp_path / "<img src=x onerror=ran=1>.mp4").write_text("no video")
    page.locator("#file").set_input_files(str(tmp_path / "<img src=x onerror=ran=1>.mp4"))
    page.get_by_role("button", name="Look at it").click()
    alert = page.get_by_role("alert")
    assert until(lambda: page.locator("#problem").text_content() != "", 120)
    told = alert.inner_text()
    assert "Invalid data" in told
    assert "renamed file" in told
    assert not page.locator("#result").is_visible()
    assert page.evaluate("typeof ran") == "undefined"


def test_everything_has_a_name_and_can_be_read(page: Any, videos: list[Path]) -> None:
    page.locator("#file").set_input_files(str(videos[0]))
    page.get_by_role("button", name="Look at it").click()
    page.locator("#result").wait_for()
    assert page.get_by_label("Drop a video or picture here").count() == 1
    assert page.get_by_role("status").count() == 1
    assert page.locator("html").get_attribute("lang") == "en"
    unnamed = """() => [...document.querySelectorAll("button, input, a, img, svg, progress")].filter(each => !(
        each.textContent.trim() || each.getAttribute("aria-label") || each.getAttribute("alt") ||
        each.labels && each.labels.length)).map(each => each.outerHTML)"""
    assert page.evaluate(unnamed) == []


@pytest.mark.parametrize("width", [320, 900])
def test_a_narrow_screen_needs_no_sideways_scrolling(page: Any, videos: list[Path], width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.locator("#file").set_input_files(str(videos[0]))
    page.get_by_role("button", name="Look at it").click()
    page.locator("#result").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_page_of_the_interface_opens(page: Any, served: Service) -> None:
    page.goto(f"{served.address}/docs")
    assert page.get_by_role("heading", name="POST /v2/predict").count() == 1


@pytest.fixture(scope="module")
def exported(kept: Path, command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run for others."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("exported") / "kept"
    done = command("-m", "deepfake.cli", "export", "kept", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


def test_an_exported_folder_answers_as_the_run_does(
    exported: Path, videos: list[Path], outputs: Path, here: Here, tmp_path: Path
) -> None:
    told = json.loads(here("predict", "kept", "--json", *map(str, videos[:3])).out)
    # With nothing of the project's own around it, as in a container.
    words = [sys.executable, "-m", "deepfake.serving", str(exported), "--port", "0", "--workers", "2"]
    with service("", tmp_path / "scratch", outputs, command=words) as served:
        status, answer = served.send(*videos[:3])
        assert status == 200
        assert answer["threshold"] == told["threshold"]
        for ours, theirs in zip(answer["results"], told["results"], strict=True):
            assert ours["class"] == theirs["class"]
            assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)
            assert len(ours["timeline"]) == ours["spread"]["clips"]
        status, answer = served.send(videos[0], to="/v2/predict?overlay=true")
        (result,) = answer["results"]
        assert (status, result["overlay"]["reason"]) == (200, None)
        status, data = served.ask("GET", result["overlay"]["url"])
        (tmp_path / "overlay.mp4").write_bytes(data)
        frames = int(cv2.VideoCapture(str(tmp_path / "overlay.mp4")).get(cv2.CAP_PROP_FRAME_COUNT))
        assert (status, frames) == (200, result["media"]["frames"])
        for name, reason in hostile(tmp_path, videos[0]).items():
            status, answer = served.send(tmp_path / name)
            assert (status, answer["error"]["code"]) == (415 if reason == "unsupported" else 422, reason), name
        for one in served.workers():
            one.kill()
        assert served.send(videos[0])[0] == 200
        assert served.end() == 0
    # ONNX Runtime leaves a file of its own beside it.
    assert list((tmp_path / "scratch").glob("deepfake*")) == []


def test_what_an_exported_folder_is_served_by_imports_nothing_that_trains(exported: Path) -> None:
    script = """
import sys
from pathlib import Path
from deepfake.serving.limits import Limits
from deepfake.serving.starting import open_exported
import deepfake.serving.__main__, deepfake.serving.app, deepfake.serving.listening
open_exported(Path(sys.argv[1]), Path(sys.argv[1]), Limits(workers=1))
print([name for name in ("torch", "hydra", "mlflow", "optuna", "pandas", "sklearn", "psutil") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(exported)], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_an_exported_folder_is_not_changed(exported: Path, here: Here) -> None:
    said = here("serve", str(exported), "dataset.faces=center", "--port", "0")
    assert said.status == 2
    assert "is what it is" in said.err
