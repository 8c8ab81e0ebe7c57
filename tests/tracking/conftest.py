"""One store for the whole room: MLflow takes seconds to make a database. Each test writes to its own experiment."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from deepfake.data.manifest import Manifest, make_rows
from deepfake.tracking.options import TrackingOptions
from deepfake.tracking.store import Store, connect, locate


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    # A name with a space and an accent: users have those.
    folder = tmp_path_factory.mktemp("tracking é x")
    found = locate(TrackingOptions(uri=f"sqlite:///{folder}/mlflow.db"), folder)
    connect(found)
    return found


@pytest.fixture
def client(store: Store):
    return connect(store)


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> str:
    return f"{request.module.__name__}.{request.node.name}"


@pytest.fixture
def quiet() -> TrackingOptions:
    return TrackingOptions(system_metrics=False)


@pytest.fixture
def manifest() -> Manifest:
    rows = (
        {
            "sample_id": f"demo/m/{i}",
            "path": f"m/{i}.mp4",
            "kind": "video",
            "label": i % 2,
            "method": "swap" if i % 2 else "real",
            "dataset": "demo",
            "split": "train" if i < 4 else "test",
        }
        for i in range(6)
    )
    return Manifest(make_rows(rows), {"demo": Path("/somewhere")})


@pytest.fixture
def predictions() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sample_id": list("abcdef"),
            "label": [0, 0, 0, 1, 1, 1],
            "method": ["real"] * 3 + ["swap", "swap", "blend"],
            "score": [0.1, 0.6, 0.2, 0.9, 0.4, float("nan")],
        }
    )
