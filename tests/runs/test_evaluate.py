"""Scores to numbers, in training and after; where an evaluation is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deepfake.data.manifest import Manifest, make_rows
from deepfake.runs.evaluate import _place, measure
from deepfake.training.decision import Decision
from deepfake.training.options import EvaluationOptions
from deepfake.training.scoring import Scored

N = 40


def test_intervals_are_drawn_over_the_manifests_groups_in_whatever_order_samples_were_scored() -> None:
    ids, labels = [f"d/{i:02d}" for i in range(N)], np.arange(N) % 2
    row = {"path": "p", "kind": "image", "method": "m", "dataset": "d", "split": "test"}
    rows = [{**row, "sample_id": ids[i], "label": int(labels[i]), "groups": (str(i // 2),)} for i in range(N)]
    manifest = Manifest(make_rows(rows), {})
    scores = np.clip(0.5 * labels + np.random.default_rng(0).random(N) / 2, 0, 1)
    samples = pd.DataFrame({"sample_id": ids, "label": labels, "score": scores, "status": "ok"})
    decision = Decision(0.5, None, "fixed", None, "mean")
    found = [
        measure(Scored(table, None, pd.DataFrame()), manifest, decision, EvaluationOptions(resamples=200))
        for table in (samples, samples.iloc[::-1].reset_index(drop=True))
    ]
    assert [len(one.units) for one in found] == [N // 2, N // 2]
    assert found[0].found.intervals["roc_auc"] == f"bootstrap over {N // 2} groups, 200 draws"
    assert found[0].found.values["roc_auc_delong_low"] == found[1].found.values["roc_auc_delong_low"]


@pytest.mark.parametrize("name", ["", ".", "..", "../..", "a/../b", "/etc"])
def test_a_data_sets_name_leads_nowhere_else(name: str, tmp_path: Path) -> None:
    kept = _place(name, "test")
    assert (tmp_path / "eval" / kept).resolve().parent == tmp_path / "eval"
