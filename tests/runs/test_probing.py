"""What a backbone tells before it is trained: when it is asked, what is kept of it, and what a run gains over it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from deepfake.metrics import Interval
from deepfake.runs import probing
from deepfake.runs.artifacts import keep_audit
from deepfake.runs.build import Cache, Run, prepare_reading
from deepfake.runs.probing import add_gain, probe
from deepfake.runs.solved import FACT
from deepfake.tracking.run_folder import AUDIT
from deepfake.training.baselines import Baseline
from deepfake.training.evaluation import Evaluation
from deepfake.training.options import TrainerOptions
from tests.runs.begun import run_of


@pytest.mark.parametrize(
    ("asked", "backbone", "wanted"),
    [
        ("auto", {}, False),
        ("auto", {"pretrained": True}, True),
        ("auto", {"weights": "file.pth"}, True),
        ("false", {"pretrained": True}, False),
        (False, {"pretrained": True}, False),
        (True, {}, True),
        ("true", {}, True),
    ],
    ids=str,
)
def test_a_pretrained_backbone_is_probed_unless_it_is_said_otherwise(
    tmp_path: Path, asked: str | bool, backbone: dict[str, Any], wanted: bool
) -> None:
    assert (probe(run_of(tmp_path, asked, **backbone)) is not None) == wanted


def test_many_clips_are_not_probed_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(probing.CHEAP, "cpu", 63)
    assert probe(run_of(tmp_path, pretrained=True)) is None


def test_a_run_that_begins_with_anothers_weights_is_not_probed_by_itself(tmp_path: Path) -> None:
    run = run_of(tmp_path, pretrained=True)
    run.config = replace(run.config, trainer=TrainerOptions(init_from="best:heads"))
    assert probe(run) is None


def test_the_probe_stands_in_the_audit_and_leaves_the_detector_as_it_was(tmp_path: Path) -> None:
    run = run_of(tmp_path, True)
    before = {name: tensor.clone() for name, tensor in run.detector.state_dict().items()}
    shared = run.data.audit
    found = probe(run)
    assert found is not None
    assert found.how == "train (40) to test (24)"
    assert FACT in run.data.audit.facts
    assert FACT not in shared.facts  # other runs of a sweep have other backbones
    keep_audit(run)
    kept = json.loads((tmp_path / "run" / AUDIT).read_text())
    assert kept[FACT]["probe"]["how"] == found.how
    assert all(parameter.requires_grad for parameter in run.detector.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.detector.state_dict().items())


def test_another_run_of_a_sweep_reads_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path, True)
    found = probe(run)

    def fail(*given: object) -> None:
        raise AssertionError("fitted again")

    monkeypatch.setattr(probing, "_fitted", fail)
    again = probe(run)
    assert found is not None
    assert again is not None
    assert found.scores is not None
    assert again.scores is not None
    assert again.how == found.how
    assert again.scores.to_dict() == pytest.approx(found.scores.to_dict())


def test_another_backbone_and_a_damaged_file_are_fitted_anew(tmp_path: Path) -> None:
    run = run_of(tmp_path, True)
    first = probe(run)
    (file,) = (run.config.cache / "probes").glob("*.json")
    file.write_text("{")
    second = probe(run)
    assert first is not None
    assert second is not None
    assert second.roc_auc == first.roc_auc
    with torch.no_grad():
        next(run.detector.backbone.parameters()).add_(1)
    probe(run)
    assert len(list((run.config.cache / "probes").glob("*.json"))) == 2


def test_stored_features_give_the_same_probe(tmp_path: Path) -> None:
    plain, cached = run_of(tmp_path / "a", True), run_of(tmp_path / "b", True, cached=True)
    prepare_reading(cached, Cache())
    one, other = probe(plain), probe(cached)
    assert one is not None
    assert other is not None
    assert one.roc_auc is not None
    assert other.roc_auc is not None
    assert one.roc_auc.value == pytest.approx(other.roc_auc.value, abs=0.02)


def gained(run: Run, probed: Baseline | None, scores: list[float]) -> Evaluation:
    test = run.data.manifest.split("test")
    table = pd.DataFrame(
        {"sample_id": test["sample_id"], "label": test["label"], "split": "test", "score": scores, "status": "ok"}
    )
    found = Evaluation()
    add_gain(found, probed, run, table, 0.95)
    return found


def test_the_gain_is_the_difference_on_the_test_part(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    test = run.data.manifest.split("test")
    labels = test["label"].to_numpy(float)
    guess = pd.Series(np.random.default_rng(0).random(24), test["sample_id"].to_numpy())
    found = gained(run, Baseline(Interval(0.5, 0.3, 0.7), scores=guess), list(0.1 + 0.8 * labels)).values
    assert found["test/gain_over_probe"] == pytest.approx(1 - found["test/probe_roc_auc"])
    assert found["test/gain_over_probe_low"] > 0
    assert found["test/probe_roc_auc_low"] < found["test/probe_roc_auc"] < found["test/probe_roc_auc_high"]


def test_without_a_probe_nothing_is_said_and_without_its_scores_the_reason_is(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    assert gained(run, None, [0.5] * 24).values == {}
    found = gained(run, Baseline(reason="too small"), [0.5] * 24)
    assert found.unavailable["test/gain_over_probe"] == "too small"
