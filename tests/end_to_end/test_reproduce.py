"""A run again from MLflow alone, from its folder alone, and with a change: what the verdict says."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from deepfake.cli import main
from tests.end_to_end.conftest import Command


@pytest.fixture
def outputs_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEEPFAKE_OUTPUTS", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def test_from_the_tracking_store_alone_without_a_cache_with_loader_processes_it_is_identical(
    finished: Path, command: Command, outputs: Path
) -> None:
    from mlflow import MlflowClient

    shutil.rmtree(outputs / "cache")
    done = command("-m", "deepfake.cli", "reproduce", "once", "trainer.num_workers=1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("verdict: identical")
    assert "data: the same (36 of 36 samples by SHA-256)" in done.stdout
    client = MlflowClient(f"sqlite:///{outputs / 'mlflow.db'}")
    (first,), (again,) = (
        client.search_runs([client.get_experiment_by_name("demo").experiment_id], f"attributes.run_name = '{name}'")
        for name in ("once", "once-reproduced")
    )
    assert again.data.tags["reproduced_from"] == first.info.run_id
    assert again.data.tags["verdict"] == "identical"
    assert {item.path for item in client.list_artifacts(again.info.run_id)} >= {"reproduction.json", "metrics.json"}


def test_from_its_folder_alone_in_another_place_it_is_identical(
    finished: Path, outputs_elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["reproduce", str(finished)])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert printed.out.rstrip().endswith("verdict: identical")
    (again,) = (outputs_elsewhere / "runs").iterdir()
    report = json.loads((again / "reproduction.json").read_text())
    assert report["reproduced_from"] == str(finished)
    assert report["data"]["moved"].keys() == {"demo"}


def test_with_another_seed_it_is_different_and_says_so(
    finished: Path, outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEEPFAKE_OUTPUTS", str(outputs))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    status = main(["reproduce", str(finished / "config.yaml"), "--set", "seed=1", "name=reseeded"])
    printed = capsys.readouterr().out
    assert status == 1
    assert "changed: seed 0 -> 1" in printed
    assert printed.rstrip().endswith("verdict: different")
    (again,) = (outputs / "runs").glob("*_reseeded_*")
    assert "seed=1" in (again / "overrides.yaml").read_text()


def test_a_check_names_the_files_that_changed_and_trains_nothing(
    finished: Path, outputs: Path, outputs_elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = json.loads((finished / "provenance.json").read_text())["data"]["roots"]
    moved = Path(shutil.copytree(roots["demo"], outputs_elsewhere / "moved"))
    videos = sorted(moved.rglob("*.mp4"))
    videos[0].write_bytes(videos[0].read_bytes() + b"x")
    videos[1].unlink()
    status = main(["reproduce", str(finished), "--check", f"dataset.root={moved}"])
    printed = capsys.readouterr()
    assert status == 1
    assert re.search(rf"{videos[0].stem}\W.*another file: \d+ -> \d+ bytes", printed.out)
    assert re.search(rf"{videos[1].stem}\W.*missing", printed.out)
    assert "2 of 36 samples are not the same" in printed.err
    assert re.search(r"│ 1 +│ data +│ 1 files missing \(.*\), 1 files changed", printed.out)
    assert not (outputs_elsewhere / "runs").exists()


def test_a_run_without_its_scores_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lacking = Path(shutil.copytree(finished, tmp_path / "lacking"))
    (lacking / "metrics.json").unlink()
    assert main(["reproduce", str(lacking)]) == 2
    assert "never finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("section", "key", "value", "kind", "told"),
    [
        ("packages", "torch", "2.0.0", "package", "torch 2.0.0 -> "),
        ("code", "deepfake/models/detector.py", "0" * 16, "code", "deepfake/models/detector.py"),
        ("machine", "device", "cuda:0 NVIDIA H200", "device", "cuda:0 NVIDIA H200 -> cpu"),
        ("seeds", "seed", 7, "seed", "seed 7 -> 0"),
        ("machine", "cpu", "another one", "processor", "another one -> "),
        (None, "", "", "", ""),
    ],
    ids=["torch", "module", "device", "seed", "processor", "nothing"],
)
def test_a_check_names_what_could_make_it_come_out_otherwise(
    finished: Path,
    outputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    section: str | None,
    key: str,
    value: object,
    kind: str,
    told: str,
) -> None:
    monkeypatch.setenv("DEEPFAKE_OUTPUTS", str(outputs))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    made = json.loads((copy / "provenance.json").read_text())
    if section is not None:
        made[section][key] = value
    (copy / "provenance.json").write_text(json.dumps(made))
    assert main(["reproduce", str(copy), "--check"]) == 0
    printed = capsys.readouterr().out
    if section is None:
        assert "what could make it come out otherwise" not in printed
    else:
        assert re.search(rf"│ 1 +│ {kind} +│ {re.escape(told)}", printed), printed
