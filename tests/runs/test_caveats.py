"""Which data is whose, and what is told of a number that means less than it looks."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from deepfake.runs.caveats import Overlap, caveats, find_overlap
from deepfake.tracking.run_record import RunRecord


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """A run's folder with its manifest, metrics and audit, as far as they are read here."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "metrics.json").write_text('{"metrics": {"test/roc_auc": 0.99}}')
    chance = {"roc_auc": 0.75, "p_value": 0.2}
    (folder / "audit.json").write_text(json.dumps({"framing_shortcut": {"roc_auc": 0.97}, "metadata_shortcut": chance}))
    names = [f"images/{i}" for i in range(10)]
    table = pd.DataFrame({"sample_id": names, "split": ["train"] * 6 + ["test"] * 4, "kind": "image"})
    table["sha256"] = [f"digest{i}" for i in range(10)]
    table["bytes"] = range(100, 110)
    table.assign(groups=[[name] for name in names]).to_parquet(folder / "manifest.parquet")
    return RunRecord("own", None, "FINISHED", None, (folder,))


def scored(names: list[str], first: int = 100) -> pd.DataFrame:
    return pd.DataFrame({"sample_id": names, "bytes": [first + int(name[-1]) for name in names]})


def test_other_names_and_contents_are_another_data_set(run: RunRecord) -> None:
    assert find_overlap(run, scored(["x/1", "x/2"]), pd.Series(["", ""])) == Overlap(other=True, trained=0)


def test_the_same_contents_under_other_names_are_known_again(run: RunRecord) -> None:
    found = find_overlap(run, scored(["x/1", "x/2", "x/3"]), pd.Series(["digest1", "digest2", "digest9"]))
    assert found == Overlap(other=False, trained=2)


def test_training_samples_are_counted_by_name(run: RunRecord) -> None:
    assert find_overlap(run, scored(["images/0", "images/9"]), pd.Series(["", ""])) == Overlap(other=False, trained=1)


def test_the_same_names_on_other_files_are_another_data_set(run: RunRecord) -> None:
    assert find_overlap(run, scored(["images/0", "images/9"], 500), pd.Series(["", ""])) == Overlap(
        other=True, trained=0
    )


def test_a_fall_on_other_data_is_told_with_what_may_have_been_learnt(run: RunRecord) -> None:
    metrics = {"roc_auc": 0.53, "roc_auc_low": 0.4, "roc_auc_high": 0.7, "coverage/share": 0.8}
    told = " ".join(caveats(run, Overlap(True, 0), metrics, 0.95))
    for words in (
        "ROC-AUC 0.530 here, 0.990 on the test part",
        "framing alone tells the class (ROC-AUC 0.970)",
        "interval is wide",
        "holds 0.5",
        "only 80.0% of the samples",
    ):
        assert words in told
    assert "metadata" not in told  # its own audit could not tell it from chance


def test_a_good_number_on_its_own_data_has_no_caveats(run: RunRecord) -> None:
    metrics = {"roc_auc": 0.97, "roc_auc_low": 0.95, "roc_auc_high": 0.98, "coverage/share": 1.0}
    assert caveats(run, Overlap(False, 0), metrics, 0.95) == []
