"""A run's model in MLflow: named, loaded, and asked about files as any program that knows only MLflow would."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.end_to_end.using import Here, told


@pytest.fixture(scope="module")
def video(kept: Path) -> Path:
    """A video of the run."""
    root = json.loads((kept / "provenance.json").read_text())["data"]["roots"]["demo"]
    return Path(root) / pd.read_parquet(kept / "manifest.parquet")["path"].iloc[0]


@pytest.fixture
def model(kept: Path, outputs: Path, here: Here) -> Any:
    """The model as MLflow loads it by its alias."""
    from mlflow import pyfunc, set_tracking_uri

    said = here("register", "kept", "faces@production")
    assert said.status == 0, said.err
    set_tracking_uri(f"sqlite:///{outputs / 'mlflow.db'}")
    return pyfunc.load_model("models:/faces@production")


def test_it_says_of_paths_and_bytes_what_predict_says(model: Any, video: Path, here: Here, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    expected = json.loads(here("predict", "kept", "--json", str(video), str(tmp_path / "text.mp4")).out)["results"]
    content = base64.encodebytes(video.read_bytes()).decode()  # in lines of 76
    rows = {"path": [str(video), str(tmp_path / "text.mp4"), None], "content": [None, None, content]}
    found = model.predict(pd.DataFrame(rows))
    for one, other in zip(found, [*expected, expected[0]], strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-6)
        assert one.keys() == other.keys()
        assert (one["class"], one["reason"]) == (other["class"], other["reason"])
    assert [one["path"] for one in found] == [str(video), str(tmp_path / "text.mp4"), "row 2"]


def test_rows_that_name_no_file_say_why_and_stop_no_others(model: Any, video: Path) -> None:
    rows = {
        "path": [None, str(video), None, None, ""],
        "content": [None, "AAAA", "no base64!", "", None],
    }
    found = model.predict(pd.DataFrame(rows))
    assert [one["reason"]["code"] for one in found] == ["bad_row", "bad_row", "bad_row", "empty", "bad_row"]
    assert [one["path"] for one in found] == ["row 0", str(video), "row 2", "row 3", "row 4"]
    more = model.predict(pd.DataFrame({"path": ["", str(video)], "content": [None, None]}))
    assert [bool(one["reason"]) for one in more] == [True, False]
    with pytest.raises(Exception, match="no row has a path or content"):
        model.predict(pd.DataFrame({"file": [str(video)]}))


def test_it_is_registered_once_and_its_alias_moves(model: Any, here: Here, outputs: Path) -> None:
    from mlflow import MlflowClient

    assert "registered before: faces, version 1, models:/faces@shadow" in here("register", "kept", "faces@shadow").out
    client = MlflowClient(f"sqlite:///{outputs / 'mlflow.db'}")
    assert [str(one.version) for one in client.search_model_versions("name = 'faces'")] == ["1"]
    for words, why in (
        (("kept", "fa/ces@production"), "is no name of a registered model"),
        (("kept", "faces@latest"), "is no alias"),
        (("kept", "faces@"), "is no alias"),
        (("nosuchrun", "faces"), "nosuchrun"),
    ):
        said = here("register", *words)
        assert said.status == 2
        assert told(said) == ["error", "hint"]
        assert why in said.err


def test_weights_lie_once_on_the_disk(model: Any, kept: Path, outputs: Path) -> None:
    # Other runs may have logged theirs.
    logged = {path.stat().st_ino for path in outputs.glob("artifacts/**/detector.safetensors")}
    assert (kept / "checkpoints" / "best.safetensors").stat().st_ino in logged


def test_mlflow_serves_it(model: Any, video: Path, outputs: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["models", "serve", "-m", "models:/faces@production", "--env-manager", "local", "-p", str(port)]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{outputs / 'mlflow.db'}", "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words, "-h", "127.0.0.1"],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        answer = _ask(server, port, {"dataframe_records": [{"path": str(video)}]}, tmp_path / "log")
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)
    (said,) = answer["predictions"]
    assert said["class"] in ("REAL", "FAKE")
    assert np.isfinite(said["score"])


def _ask(server: subprocess.Popen[bytes], port: int, question: dict[str, Any], log: Path) -> dict[str, Any]:
    """What the server answers, once it is up."""
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", json.dumps(question).encode(), {"Content-Type": "application/json"}
    )
    until = time.monotonic() + 300
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(asked, timeout=120) as response:
                return dict(json.load(response))
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error
        except OSError:
            time.sleep(1)
    raise AssertionError(log.read_text())
