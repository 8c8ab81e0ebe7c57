"""Removing what a tracking server keeps: by MLflow's own means, and said where it does not answer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepfake.errors import UserError
from deepfake.tracking.options import TrackingOptions
from deepfake.tracking.removal import remove_run
from deepfake.tracking.run import track
from deepfake.tracking.run_folder import RESOLVED, UNFINISHED, WEIGHTS, RunFolder
from deepfake.tracking.search import find_run
from deepfake.tracking.store import connect, locate
from deepfake.tracking.weights import Forgetter, References
from tests.servers import TrackingServer
from tests.tracking.test_weights import SPEC

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    found = TrackingServer(tmp_path_factory.mktemp("server"))
    yield found
    found.kill()


def served(server: TrackingServer) -> list[str]:
    return sorted(path.name for path in (server.folder / "served").rglob("*") if path.is_file())


def test_a_server_deletes_weights_then_runs_and_says_so_where_it_does_not(
    server: TrackingServer, tmp_path: Path
) -> None:
    store = locate(TrackingOptions(uri=server.uri), tmp_path)
    folder = RunFolder(tmp_path / "sweeps" / "s" / "0")
    (folder.path / RESOLVED).write_text("name: run\n")
    folder.best_weights.parent.mkdir()
    folder.best_weights.write_bytes(os.urandom(1 << 16))
    options = TrackingOptions(system_metrics=False)
    with track(store, "e", "run", tags={"run_dir": folder.path}, options=options) as run:
        run.folder(folder.path, skip=UNFINISHED)
        assert run.model(folder.best_weights, SPEC) is not None
    assert {"best.safetensors", "detector.safetensors", RESOLVED} <= set(served(server))

    client = connect(store)
    server.freeze()
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "1"
    away = Forgetter(client, store, tmp_path)
    try:
        away.forget(run.id, folder.path, "others were better", References(None, tmp_path))
    finally:
        server.thaw()
        del os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]
    assert (away.total.runs, len(away.total.left)) == (0, 1)
    assert (folder.path / WEIGHTS).is_file()

    forgetter = Forgetter(client, store, tmp_path)
    forgetter.forget(run.id, folder.path, "others were better", References(client, tmp_path))
    assert (forgetter.total.runs, forgetter.total.left) == (1, [])
    left = served(server)
    assert not {"best.safetensors", "detector.safetensors"} & set(left)
    assert {RESOLVED, "weights.json"} <= set(left)
    with pytest.raises(UserError, match="others were better"):
        find_run(run.id, store, tmp_path).weights()

    said: list[str] = []
    remove_run(client, store, client.get_run(run.id), said.append)
    assert said == []
    assert served(server) == []
    assert client.get_run(run.id).info.lifecycle_stage == "deleted"
