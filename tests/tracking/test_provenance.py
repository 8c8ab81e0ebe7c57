from __future__ import annotations

import json

import torch

from deepfake import __version__
from deepfake.tracking.provenance import FORMAT, collect, package_versions


def test_everything_is_plain_json() -> None:
    found = collect(seeds={"seed": 1}, data={"manifest": "abc"}, device="cpu")
    assert json.loads(json.dumps(found)) == found


def test_names_what_a_result_depends_on() -> None:
    found = collect(seeds={"seed": 1}, data={"manifest": "abc"}, device="cpu")
    assert found["format"] == FORMAT
    assert found["version"] == __version__
    assert found["seeds"] == {"seed": 1}
    assert found["data"] == {"manifest": "abc"}
    assert found["machine"]["device"] == "cpu"
    assert found["machine"]["cores"] >= 1
    assert found["command"]


def test_versions_include_what_is_needed_indirectly() -> None:
    versions = package_versions()
    assert versions["torch"] == torch.__version__
    assert "sqlalchemy" in versions


def test_secrets_of_the_environment_stay_out(monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    assert "hunter2" not in json.dumps(collect(seeds={}, data={}, device="cpu"))
