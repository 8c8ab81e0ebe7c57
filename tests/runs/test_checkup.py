from __future__ import annotations

import builtins
import importlib.metadata
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import psutil
import pytest

from deepfake.config import RunConfig
from deepfake.hydra_app import compose_run
from deepfake.runs import checkup
from deepfake.runs.checkup import FAILURE, OK, WARNING, Check, check_all
from deepfake.tracking import provenance


def _config(tmp_path: Path, *overrides: str) -> RunConfig:
    return compose_run([f"paths.outputs={tmp_path / 'outputs'}", *overrides])


def _check(name: str, config: RunConfig) -> Check:
    (found,) = (check for check in check_all(config) if check.name == name)
    return found


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_this_machine_can_train_the_demo_and_nothing_is_left_behind(tmp_path: Path) -> None:
    found = list(check_all(_config(tmp_path)))
    assert [check for check in found if check.state == FAILURE] == []
    assert all(check.said for check in found)
    assert all(check.todo for check in found if check.state != OK)
    assert list(tmp_path.iterdir()) == []


def test_a_package_of_another_version_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.1" if name == "timm" else real(name))
    found = _check("packages", _config(tmp_path))
    assert found.state == FAILURE
    assert found.said.startswith("timm is 0.0.1, not ")


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "filelock":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert _check("packages", _config(tmp_path)).said == "filelock is not installed"


def test_two_opencvs_are_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "4.10" if name == "opencv-python" else real(name))
    found = _check("packages", _config(tmp_path))
    assert found.state == WARNING
    assert found.todo.startswith("pip uninstall opencv-python opencv-python-headless")


def test_a_package_that_does_not_load_hides_no_other_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def load(name: str, *rest: Any, **more: Any) -> Any:
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", load)
    found = {check.name: check for check in check_all(_config(tmp_path))}
    assert found["image decoder"].state == FAILURE
    assert "libGL" in found["image decoder"].said
    assert found["tracking store"].state == OK


def test_a_gpu_that_torch_cannot_use_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(provenance, "hardware", lambda: {"gpus": ["NVIDIA H200"]})
    found = _check("device", _config(tmp_path))
    assert (found.state, found.said.startswith("NVIDIA H200 is there, but torch ")) == (WARNING, True)
    assert _check("device", _config(tmp_path, "trainer.accelerator=cpu")).state == OK


def test_a_device_that_is_not_there_stands_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert _check("device", _config(tmp_path, "trainer.accelerator=cuda")).state == FAILURE


def test_little_room_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(64_000_000, 0, 1_000_000_000))
    config = _config(tmp_path)
    assert _check("outputs", config).state == WARNING
    assert _check("shared memory", config).state == WARNING
    assert _check("shared memory", _config(tmp_path, "trainer.num_workers=0")).state == OK


def test_little_memory_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = namedtuple("memory", "total available")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(8_000_000_000, 1_000_000_000))
    assert _check("processor and memory", _config(tmp_path)).state == WARNING


def test_outputs_that_cannot_be_written_stand_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkup.tempfile, "NamedTemporaryFile", refuse)
    assert _check("outputs", _config(tmp_path)).state == FAILURE


def test_a_server_that_is_gone_stands_in_the_way(tmp_path: Path) -> None:
    found = _check("tracking store", _config(tmp_path, "tracking.uri=http://127.0.0.1:9"))
    assert found.state == FAILURE
    assert "does not answer" in found.said
    assert found.todo


def test_data_that_is_not_there_stands_in_the_way(tmp_path: Path) -> None:
    found = _check("data", _config(tmp_path, "dataset=images", f"dataset.root={tmp_path / 'none'}"))
    assert found.state == FAILURE
    assert "does not exist" in found.said


def test_weights_that_would_be_downloaded_are_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, file: None)
    found = _check(
        "pretrained weights", _config(tmp_path, "model=cnn", "backbone=resnet18", "backbone.pretrained=true")
    )
    assert (found.state, "HF_HOME" in found.todo) == (WARNING, True)
    file = tmp_path / "model.safetensors"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, name: str(file))
    config = _config(tmp_path, "model=cnn", "backbone=resnet18", "backbone.pretrained=true")
    assert _check("pretrained weights", config).said == f"resnet18: {file}"


def test_weights_of_ones_own_are_tried(tmp_path: Path) -> None:
    config = _config(tmp_path, "model=cnn", f"backbone.weights={tmp_path / 'none.safetensors'}")
    assert _check("pretrained weights", config).state == FAILURE
