"""How far a set is solved before any detector, as an audit says it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from deepfake.data.audit import Audit
from deepfake.data.manifest import Manifest, make_rows
from deepfake.metrics import Interval
from deepfake.runs.solved import FACT, TITLE, solved_without_faces, some_of, state_solved
from deepfake.training.baselines import Baseline


def set_of(count: int, suffix: str = ".png") -> tuple[Manifest, pd.DataFrame, pd.DataFrame]:
    """A set whose fakes end in ``suffix`` and look no other way: manifest, facts and appearance."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "sample_id": f"s/{i:03d}", "path": f"{i}{suffix if i % 2 else '.png'}", "kind": "image", "label": i % 2,
            "dataset": "s", "method": "m", "split": ("train", "train", "test")[i // 2 % 3], "bytes": 1000,
        }
        for i in range(count)
    ]  # fmt: skip
    names = pd.Index([row["sample_id"] for row in rows], name="sample_id", dtype=object)
    facts = pd.DataFrame({"width": 640, "height": 480, "video_frames": 1, "codec": "png"}, index=names)
    seen = pd.DataFrame(
        {"framing": list(rng.normal(size=(count, 256))), "colours": list(rng.normal(size=(count, 54)))}, index=names
    )
    return Manifest(make_rows(rows), {"s": Path("/nowhere")}), facts, seen


def test_a_files_format_solves_a_set_and_its_pictures_do_not() -> None:
    found = solved_without_faces(*set_of(180, ".jpg"))
    values = {name: one.roc_auc.value for name, one in found.items() if one.roc_auc is not None}
    assert values["metadata"] == 1.0
    assert values["framing"] < 0.75
    assert values["colours"] < 0.75


def test_nothing_looked_at_gives_nothing() -> None:
    manifest, facts, seen = set_of(8)
    assert solved_without_faces(manifest, facts.iloc[:0], seen.iloc[:0]) == {}


def test_an_audit_says_it_in_words_and_for_machines() -> None:
    audit = Audit()
    state_solved(audit, {"metadata": Baseline(Interval(0.9, 0.8, 0.95), "train (9) to test (3)")})
    state_solved(audit, {"probe": Baseline(Interval(0.7, float("nan"), float("nan")), "folds", "too few")})
    state_solved(audit, {"framing": Baseline(reason="fewer than 20 samples")})
    facts = json.loads(json.dumps(audit.as_dict()))[FACT]
    assert facts["metadata"]["low"] == 0.8
    assert facts["probe"]["low"] is None
    assert facts["framing"]["roc_auc"] is None
    assert "linear probe" in Audit.from_dict(audit.as_dict()).text()
    assert len(audit.tables[TITLE]) == 3


def test_of_many_samples_some_are_looked_at_always_the_same() -> None:
    names = pd.Index([f"s{i}" for i in range(5000)])
    assert some_of(names) == some_of(names)
    assert len(some_of(names)) == len(set(some_of(names))) == 4000
    assert some_of(names[:10]) == list(names[:10])
