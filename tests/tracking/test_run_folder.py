from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from deepfake.errors import UserError
from deepfake.tracking.run_folder import RunFolder, refuse_links, write_json, write_text


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.mark.parametrize("overrides", [[], ["model=cnn"], ["name='a: b'", "tags={x: 1}", 'dataset.root=/é \\ "x"']])
def test_overrides_read_back_as_they_were(folder: RunFolder, overrides: list[str]) -> None:
    folder.write_config("a: 1\n", "a: 1\n", overrides)
    assert yaml.safe_load((folder.path / "overrides.yaml").read_text()) == overrides


def test_predictions_keep_every_digit(folder: RunFolder) -> None:
    scores = pd.DataFrame({"sample_id": ["a", "b"], "score": [1 / 3, float("nan")]})
    folder.write_predictions(scores)
    pd.testing.assert_frame_equal(pd.read_parquet(folder.path / "predictions.parquet"), scores)


def test_manifest_keeps_its_groups(folder: RunFolder, manifest) -> None:
    folder.write_manifest(manifest)
    table = pd.read_parquet(folder.path / "manifest.parquet")
    assert [tuple(groups) for groups in table["groups"]] == list(manifest.table["groups"])


def test_numbers_json_cannot_hold_become_null(tmp_path: Path) -> None:
    write_json(tmp_path / "m.json", {"a": float("nan"), "b": [np.float64("inf"), np.float32(0.5)], "c": np.int64(2)})
    assert json.loads((tmp_path / "m.json").read_text()) == {"a": None, "b": [None, 0.5], "c": 2}


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_json(tmp_path / "m.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "m.json", {"a": object()})
    assert [file.name for file in tmp_path.iterdir()] == ["m.json"]


def test_undecodable_names_survive(tmp_path: Path) -> None:
    write_text(tmp_path / "t.txt", b"\xff.mp4".decode("utf-8", "surrogateescape"))
    assert (tmp_path / "t.txt").read_bytes() == b"\xff.mp4"


def test_the_end_of_a_run_leaves_its_best_weights_and_not_its_training_state(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for name in ("best.safetensors", "last.pt"):
        (tmp_path / "checkpoints" / name).touch()
    folder.end()
    folder.end()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["best.safetensors"]


def test_passwords_are_not_kept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    uri = "http://bob:S3cret@host:5000"
    folder.write_config(f"uri: {uri}\n", f"uri: {uri}\n", [f"tracking.uri={uri}"])
    assert not any("S3cret" in path.read_text() for path in tmp_path.iterdir())


@pytest.mark.parametrize("link", ["eval", "eval/demo/predictions.parquet", "checkpoints/last.pt"])
def test_a_link_that_leads_out_of_a_folder_is_refused(link: str, tmp_path: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    outside.mkdir()
    (run / link).parent.mkdir(parents=True)
    (run / link).symlink_to(outside / "not there" if "." in link else outside)
    with pytest.raises(UserError, match=rf"^error: {link} in .* that leads out"):
        refuse_links(run)


def test_links_inside_a_folder_and_the_folder_itself_are_none_that_lead_out(tmp_path: Path) -> None:
    (tmp_path / "run" / "eval").mkdir(parents=True)
    (tmp_path / "run" / "latest").symlink_to("eval")
    (tmp_path / "run" / "loop").symlink_to("loop")
    (tmp_path / "here").symlink_to(tmp_path / "run")
    refuse_links(tmp_path / "here")


def test_only_the_part_that_is_written_to_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path)
    refuse_links(tmp_path / "run", "unsent")
    (tmp_path / "run" / "unsent").symlink_to(tmp_path)
    with pytest.raises(UserError, match="unsent"):
        refuse_links(tmp_path / "run", "unsent")
