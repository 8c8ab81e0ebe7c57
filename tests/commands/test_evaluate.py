"""Keys of evaluate's own, suites, and what is laid over a run's config."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import yaml

from deepfake.commands.evaluate import _check_names, read_request, read_suite
from deepfake.config import to_plain
from deepfake.errors import UserError
from deepfake.runs.caveats import Kinship, doubts, kinship
from deepfake.runs.evaluate import _place
from deepfake.runs.saved_config import lay_over, typed
from deepfake.tracking.run_folder import RunRecord


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """A run's folder with its config, manifest and metrics, as far as they are read here."""
    folder = tmp_path_factory.mktemp("run")
    overrides = ["dataset=images", "dataset.root=/data/own", "dataset.size=48", "dataset.margin=0.7", "model=cnn"]
    (folder / "resolved.yaml").write_text(yaml.safe_dump(to_plain(typed_config(overrides))))
    (folder / "metrics.json").write_text('{"metrics": {"test/roc_auc": 0.99}}')
    chance = {"roc_auc": 0.75, "p_value": 0.2}
    (folder / "audit.json").write_text(json.dumps({"framing_shortcut": {"roc_auc": 0.97}, "metadata_shortcut": chance}))
    names = [f"images/{i}" for i in range(10)]
    table = pd.DataFrame({"sample_id": names, "split": ["train"] * 6 + ["test"] * 4, "kind": "image"})
    table["sha256"] = [f"digest{i}" for i in range(10)]
    table["bytes"] = range(100, 110)
    table.assign(groups=[[name] for name in names]).to_parquet(folder / "manifest.parquet")
    return RunRecord("own", None, "FINISHED", None, (folder,))


def typed_config(overrides: list[str]):  # type: ignore[no-untyped-def]
    from deepfake.hydra_app import compose_config

    return compose_config(overrides)


def test_own_keys_are_parted_from_a_configs() -> None:
    request = read_request(["dataset=images", "split=all", "min_coverage=0.5", "suite=a=b.yaml"])
    assert (request.split, request.suite) == ("all", "a=b.yaml")
    assert request.overrides == ["dataset=images", "evaluation.min_coverage=0.5"]


def test_another_data_set_is_cut_as_the_run_was_trained(run: RunRecord) -> None:
    config = lay_over(run, typed(["dataset=faceforensics", "dataset.root=/other"]))
    assert (config.dataset.layout, config.dataset.root) == ("faceforensics", "/other")
    assert (config.dataset.size, config.dataset.margin, config.dataset.faces) == (48, 0.7, "none")


def test_what_is_typed_of_the_cutting_counts(run: RunRecord) -> None:
    assert lay_over(run, typed(["dataset=videos", "dataset.faces=mtcnn"])).dataset.faces == "mtcnn"


def test_without_a_data_set_it_is_the_runs_own(run: RunRecord) -> None:
    config = lay_over(run, typed(["dataset.root=/moved"]))
    assert (config.dataset.name, config.dataset.root) == ("images", "/moved")


def test_a_relative_root_means_the_folder_of_then(run: RunRecord, tmp_path: Path) -> None:
    folder = tmp_path / "relative"
    folder.mkdir()
    (folder / "resolved.yaml").write_text(run.file("resolved.yaml").read_text().replace("/data/own", "../own"))
    (folder / "provenance.json").write_text('{"format": 1, "data": {"roots": {"images": "/data/own"}}}')
    moved = RunRecord("relative", None, "FINISHED", None, (folder,))
    assert lay_over(moved, typed([])).dataset.root == "/data/own"


def test_the_model_is_the_runs_own(run: RunRecord) -> None:
    assert type(lay_over(run, typed(["dataset=demo"])).head).__name__ == "Mean"


@pytest.mark.parametrize("override", ["head=gru", "backbone.name=tiny", "trainer.epochs=3", "optimizer.lr=1"])
def test_what_would_change_the_model_is_refused(override: str) -> None:
    with pytest.raises(UserError, match="trained already"):
        typed([override])


def test_another_size_is_refused(run: RunRecord) -> None:
    with pytest.raises(UserError, match="trained on crops of 48 pixels"):
        lay_over(run, typed(["dataset.size=64"]))


@pytest.mark.parametrize("data", [[], ["dataset=images", "dataset.root=/b"]])
def test_an_automatic_size_is_the_one_it_was_trained_at(run: RunRecord, data: list[str]) -> None:
    assert lay_over(run, typed([*data, "dataset.size=auto"])).dataset.size == 48


def test_a_suite_in_a_file_finds_data_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "suite.yaml"
    file.write_text("- {dataset: images, root: faces, name: mine, split: all}\n- {dataset: dfdc, root: /b}\n")
    first, second = read_suite(str(file), "test")
    assert first == (["dataset=images", f"dataset.root='{tmp_path / 'faces'}'", "dataset.name='mine'"], "all")
    assert second == (["dataset=dfdc", "dataset.root='/b'"], "test")


def test_two_data_sets_of_one_name_are_told_how_to_differ() -> None:
    target: Any = SimpleNamespace(config=SimpleNamespace(dataset=SimpleNamespace(name="images")), split="test")
    with pytest.raises(UserError, match="two data sets of the suite are called 'images'") as caught:
        _check_names([target, target])
    assert (
        caught.value.hint == "give one a name of its own, {dataset: images, root: /a, name: images_2}, or another split"
    )


def test_a_suite_in_a_line() -> None:
    assert read_suite("[{dataset: demo, limit: 4}]", "val") == [(["dataset=demo", "dataset.limit=4"], "val")]


def test_a_suites_values_survive_the_override_grammar() -> None:
    ((overrides, _),) = read_suite('[{dataset: table, root: "/a b/it\'s", columns: {label: is fake}}]', "test")
    config = typed(overrides).config.dataset
    assert config.root == "/a b/it's"
    assert config.columns == {"label": "is fake"}


@pytest.mark.parametrize("text", ["nowhere.yaml", "[]", "[{root: /a}]", "[1, 2]", "[{dataset: a"])
def test_what_is_no_suite_is_told(text: str) -> None:
    with pytest.raises(UserError):
        read_suite(text, "test")


def scored(names: list[str], first: int = 100) -> pd.DataFrame:
    return pd.DataFrame({"sample_id": names, "bytes": [first + int(name[-1]) for name in names]})


def test_other_names_and_contents_are_another_data_set(run: RunRecord) -> None:
    assert kinship(run, scored(["x/1", "x/2"]), pd.Series(["", ""])) == Kinship(other=True, trained=0)


def test_the_same_contents_under_other_names_are_known_again(run: RunRecord) -> None:
    found = kinship(run, scored(["x/1", "x/2", "x/3"]), pd.Series(["digest1", "digest2", "digest9"]))
    assert found == Kinship(other=False, trained=2)


def test_training_samples_are_counted_by_name(run: RunRecord) -> None:
    assert kinship(run, scored(["images/0", "images/9"]), pd.Series(["", ""])) == Kinship(other=False, trained=1)


def test_the_same_names_on_other_files_are_another_data_set(run: RunRecord) -> None:
    assert kinship(run, scored(["images/0", "images/9"], 500), pd.Series(["", ""])) == Kinship(other=True, trained=0)


def test_a_fall_on_other_data_is_told_with_what_may_have_been_learnt(run: RunRecord) -> None:
    metrics = {"roc_auc": 0.53, "roc_auc_low": 0.4, "roc_auc_high": 0.7}
    told = " ".join(doubts(run, Kinship(True, 0), metrics, 0.8, 0.95, ["of the audit"]))
    for words in (
        "ROC-AUC 0.530 here, 0.990 on the test part",
        "framing alone tells the class (ROC-AUC 0.970)",
        "interval is wide",
        "holds 0.5",
        "only 80.0% of the samples",
        "of the audit",
    ):
        assert words in told
    assert "metadata" not in told  # its own audit could not tell it from chance


def test_a_good_number_on_its_own_data_raises_no_doubt(run: RunRecord) -> None:
    metrics = {"roc_auc": 0.97, "roc_auc_low": 0.95, "roc_auc_high": 0.98}
    assert doubts(run, Kinship(False, 0), metrics, 1.0, 0.95, []) == []


@pytest.mark.parametrize("name", ["", ".", "..", "../..", "a/../b", "/etc"])
def test_a_data_sets_name_leads_nowhere_else(name: str, tmp_path: Path) -> None:
    kept = _place(name, "test")
    assert (tmp_path / "eval" / kept).resolve().parent == tmp_path / "eval"
