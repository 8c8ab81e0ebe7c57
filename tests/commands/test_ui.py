"""What ``deepfake ui`` says where there is nothing to serve, and which browser it tells."""

from __future__ import annotations

import socket
import webbrowser
from pathlib import Path

import pytest

from deepfake.commands import ui
from deepfake.errors import UserError
from deepfake.tracking.options import TrackingOptions
from deepfake.tracking.run import track
from deepfake.tracking.server import serving
from deepfake.tracking.store import locate
from tests.end_to_end.using import Here, told
from tests.tracking.server import FakeServer


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(tmp_path, monkeypatch, capsys)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that a browser was told of."""
    found: list[str] = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(webbrowser, "open", lambda address: not found.append(address))  # type: ignore[func-returns-value]
    return found


@pytest.fixture
def server():
    made = FakeServer()
    yield made
    made.stop()


def test_a_tracking_servers_own_page_is_opened(server: FakeServer, here: Here, opened: list[str]) -> None:
    with track(locate(TrackingOptions(uri=server.uri), Path()), "e", "one", options=TrackingOptions(server.uri)) as run:
        pass
    said = here("ui", f"tracking.uri={server.uri}")
    assert said.status == 0, said.err
    address = f"{server.uri}/#/experiments/1/runs/{run.id}?workflowType=machine_learning"
    assert opened == [address]
    assert f"one: {address}" in said.out
    assert here("ui", f"tracking.uri={server.uri}", "--no-browser").status == 0
    assert len(opened) == 1


def test_a_tracking_server_that_is_gone_is_told(server: FakeServer, here: Here) -> None:
    server.stop()
    said = here("ui", f"tracking.uri={server.uri}")
    assert (said.status, told(said)) == (2, ["error", "hint"])
    assert "does not answer" in said.err


def test_no_store_and_several_runs_are_told(here: Here) -> None:
    said = here("ui")
    assert (said.status, told(said)) == (2, ["error", "hint"])
    assert "no tracking store yet" in said.err
    assert "deepfake compare a b" in here("ui", "a", "b").err


@pytest.mark.parametrize("port", ["taken", "70000", "-1"])
def test_a_port_that_is_taken_or_none_is_told(port: str, tmp_path: Path) -> None:
    store = locate(TrackingOptions(uri=f"sqlite:///{tmp_path}/x.db"), tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1] if port == "taken" else int(port)
        with pytest.raises(UserError, match=f"cannot listen on port {number}") as mistake, serving(store, number):
            pass
    assert "--port" in mistake.value.hint


@pytest.mark.slow
def test_a_server_that_does_not_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("no database")
    store = locate(TrackingOptions(uri=f"sqlite:///{tmp_path}/x.db"), tmp_path)
    with pytest.raises(UserError, match="did not start: "), serving(store):
        pass


def test_where_there_is_no_window_no_browser_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(webbrowser, "open", lambda address: pytest.fail("it would take the terminal over"))
    assert not ui._opened("http://x")


def test_a_browser_that_cannot_be_started_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(address: str) -> bool:
        raise webbrowser.Error("could not locate runnable browser")

    monkeypatch.setenv("BROWSER", "nowhere")
    monkeypatch.setattr(webbrowser, "open", missing)
    assert not ui._opened("http://x")
