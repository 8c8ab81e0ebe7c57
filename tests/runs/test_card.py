"""A run's page, of whatever is left of the run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deepfake.data.crop_records import StoreWriter
from deepfake.data.crop_store import CropStore
from deepfake.data.cropping import FRAME, Crops
from deepfake.data.manifest import Manifest, make_rows
from deepfake.data.media import MediaInfo
from deepfake.metrics import METRICS, sample_metrics
from deepfake.runs.card import Outcome, open_crops, run_card, thumbnail
from deepfake.tracking import run_folder as files
from deepfake.tracking.run_folder import RunFolder
from deepfake.tracking.run_record import RunRecord, from_folder

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>'
KEY = "0123456789abcdef0123"


def _run(
    place: Path,
    *,
    labels: list[int] | None = None,
    methods: list[str] | None = None,
    names: list[str] | None = None,
    split: str = "test",
    intervals: bool = True,
    config: str = "",
) -> RunRecord:
    """A finished run's folder: half of its samples fake, unless said otherwise."""
    folder = RunFolder(place / "run")
    truth = np.array([0, 1] * 10 if labels is None else labels)
    ids = names or [f"d/{number:02d}" for number in range(len(truth))]
    kinds = methods or ["Blend" if label else "real" for label in truth]
    score = np.clip(0.2 + 0.5 * truth + np.linspace(-0.2, 0.25, len(truth)), 0, 1)
    table = pd.DataFrame(
        {"sample_id": ids, "label": truth, "method": kinds, "split": split, "score": score, "status": "ok"}
    )
    shown = {"kind": "image", "dataset": "d", "split": split}
    rows = [
        {**shown, "sample_id": name, "path": f"{name}.png", "label": int(label), "method": kind, "groups": (name,)}
        for name, label, kind in zip(ids, truth, kinds, strict=True)
    ]
    text = (
        "name: demo run\nbackbone:\n  name: tiny\nhead:\n  _target_: deepfake.models.options.GRU\ndataset:\n  name: d\n"
        "evaluation:\n  level: 0.95\ntrainer:\n  monitor: val/roc_auc\n" + config
    )
    folder.write_config(text, text, ["model=cnn_gru", "tracking.uri=http://me:secret@host"])
    folder.write_manifest(Manifest(make_rows(rows), {"d": place / "data"}))
    folder.write_predictions(table)
    folder.write_history([{"epoch": float(e), "train/loss": 1 / (1 + e), "val/roc_auc": 0.5 + e / 9} for e in range(3)])
    folder.write_provenance(
        {"format": 1, "data": {"crops": KEY, "roots": {"d": str(place / "data")}}, "machine": {"device": "cpu"}}
    )
    decision = {"format": 2, "threshold": 0.4, "method": "youden", "default_threshold": 0.5, "calibrator": None}
    folder.write_calibration({**decision, "pooling": "mean", "fitted_on": {}, "unavailable": {}})
    found = sample_metrics(table)
    values = {f"{split}/{name}": value for name, value in found.values.items()}
    ends = {f"{split}/roc_auc_low": 0.7, f"{split}/roc_auc_high": 0.99} if intervals else {}
    costs = {"best_epoch": 3.0, "train_seconds": 12.5, "parameters": 9e5, "latency_ms": 3.0, "peak_memory_bytes": 2e9}
    called = score >= 0.5
    counts = {
        f"{a}_as_{b}": float(((truth == i) & (called == j)).sum())
        for i, a in enumerate(("real", "fake"))
        for j, b in enumerate(("real", "fake"))
    }
    why = {f"{split}/{name}": reason for name, reason in found.unavailable.items()}
    if not intervals:
        why |= {f"{split}/{name}_low": "only 3 groups of real samples" for name in METRICS}
    folder.write_metrics(
        {
            "metrics": {**values, **ends, **costs},
            "unavailable": why,
            "intervals": {f"{split}/roc_auc": "bootstrap over 20 groups"} if intervals else {},
            "confusion": {f"{split}/default": {"threshold": 0.5, **counts}},
            "notes": [],
        }
    )
    files.write_json(folder.path / files.AUDIT, {"warnings": ["bitrate tells the class"]})
    return from_folder(folder.path)


def _crops(cache: Path, names: list[str]) -> None:
    """A store with a face for each sample."""
    folder = cache / "crops" / KEY
    folder.mkdir(parents=True)
    writer = StoreWriter(folder)
    for place, name in enumerate(names):
        pixels = np.full((1, 2, 128, 128, 3), place * 10, np.uint8)
        media = MediaInfo(128, 128, 2, 25.0, 0.1, "png", 0, "rgb24", 0)
        crops = Crops(pixels, np.array([2]), np.zeros((1, 2), FRAME), media, (), np.zeros((16, 16), np.uint8))
        writer.append({"sample_id": name, "status": "ok"}, crops)
    writer.close()


def test_the_card_shows_the_runs_own_numbers(tmp_path: Path) -> None:
    record = _run(tmp_path)
    text = run_card(record)
    auc = record.metrics()["test/roc_auc"]
    for shown in (f"<b>{auc:.3f}</b>", "0.700 to 0.990", f"{auc:.3f} [0.700, 0.990]", "bootstrap over 20 groups"):
        assert shown in text
    for shown in ("ROC", "Calibration", "Confusion", "Loss", "12.5 s", "2.00 GB", "900,000", "3.0 ms", "bitrate tells"):
        assert shown in text
    assert "<td>Blend</td>" in text
    assert "secret" not in text


def test_faces_come_from_the_crops_and_link_to_the_files(tmp_path: Path) -> None:
    record = _run(tmp_path)
    _crops(tmp_path / "cache", [f"d/{number:02d}" for number in range(20)])
    text = run_card(record, open_crops(record, tmp_path / "cache"))
    assert text.count("data:image/jpeg;base64,") == len(re.findall(r'<li class="(?:real|fake)"', text)) > 10
    linked = re.findall(r'<a href="([^"]+)">(d/\d\d)</a>', text)
    assert len(linked) > 10
    assert all(target == (tmp_path / "data" / f"{name}.png").as_uri() for target, name in linked)
    assert len(text) < 200_000


def test_crops_that_were_pruned_leave_places_without_faces(tmp_path: Path) -> None:
    record = _run(tmp_path)
    _crops(tmp_path / "cache", ["d/00"])
    store = open_crops(record, tmp_path / "cache")
    for part in (tmp_path / "cache" / "crops" / KEY).glob("*.u8"):
        part.unlink()
    for crops in (store, open_crops(record, tmp_path / "elsewhere"), None):
        text = run_card(record, crops)
        assert "data:image" not in text
        assert "no crop" in text


def test_no_key_leads_out_of_the_cache(tmp_path: Path) -> None:
    record = _run(tmp_path)
    (tmp_path / "cache" / "crops").mkdir(parents=True)
    (tmp_path / "cache" / "abcdef0123").mkdir()
    world = json.loads((record.places[0] / files.PROVENANCE).read_text())
    world["data"]["crops"] = "../abcdef0123"
    (record.places[0] / files.PROVENANCE).write_text(json.dumps(world))
    assert open_crops(record, tmp_path / "cache") is None


def test_an_unknown_sample_has_no_thumbnail(tmp_path: Path) -> None:
    assert thumbnail(CropStore(tmp_path, {}), "x") is None


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_says_why_there_is_no_curve(tmp_path: Path, label: int) -> None:
    text = run_card(_run(tmp_path, labels=[label] * 6, intervals=False))
    assert f"no curve: only {('real', 'fake')[label]} samples" in text


def test_missing_intervals_are_told_with_their_reason(tmp_path: Path) -> None:
    text = run_card(_run(tmp_path, intervals=False))
    assert "no interval: only 3 groups of real samples" in text
    assert ">no interval<" in text


def test_without_a_test_split_validation_is_shown_and_said_to_be(tmp_path: Path) -> None:
    text = run_card(_run(tmp_path, split="val"))
    assert "No test sample has a score" in text
    assert "Scores on val" in text


@pytest.mark.parametrize(
    "gone",
    [
        (files.METRICS,),
        (files.PREDICTIONS,),
        (files.MANIFEST,),
        (files.HISTORY,),
        (files.CALIBRATION,),
        (files.PROVENANCE,),
        (files.AUDIT,),
        (files.OVERRIDES,),
        (
            files.METRICS,
            files.PREDICTIONS,
            files.MANIFEST,
            files.HISTORY,
            files.CALIBRATION,
            files.PROVENANCE,
            files.AUDIT,
            files.OVERRIDES,
        ),
    ],
)
def test_whatever_is_gone_the_rest_is_shown(tmp_path: Path, gone: tuple[str, ...]) -> None:
    record = _run(tmp_path)
    for name in gone:
        (record.places[0] / name).unlink()
    assert "<h1>demo run</h1>" in run_card(record)


def test_a_failed_run_says_so_and_shows_the_epochs_it_had(tmp_path: Path) -> None:
    record = _run(tmp_path)
    for name in (files.METRICS, files.PREDICTIONS, files.HISTORY, files.CALIBRATION):
        (record.places[0] / name).unlink()
    epochs = [{"epoch": 0.0, "train/loss": 0.7}, {"epoch": 1.0, "train/loss": float("nan")}]
    text = run_card(record, None, Outcome("failed", f"loss is NaN {HOSTILE}", epochs))
    assert "This run did not finish: failed: loss is NaN &lt;script&gt;" in text
    assert "Loss" in text
    assert text.count("<script") == 2


def test_metrics_that_are_no_numbers_are_missing(tmp_path: Path) -> None:
    record = _run(tmp_path)
    path = record.places[0] / files.METRICS
    found = json.loads(path.read_text())
    found["metrics"] |= {"test/roc_auc": None, "test/roc_auc_low": None, "test/roc_auc_high": None}
    found["unavailable"]["test/roc_auc"] = "it is NaN"
    path.write_text(json.dumps(found))
    text = run_card(record)
    assert "it is NaN" in text
    assert ">nan<" not in text


def test_nothing_in_a_name_is_markup(tmp_path: Path) -> None:
    names = [f"{HOSTILE}{number}" for number in range(20)]
    record = _run(
        tmp_path,
        names=names,
        methods=[f"{HOSTILE}{number % 2}" for number in range(20)],
        config=f"more:\n  key: '{HOSTILE}'\n  uri: http://me:secret@host\n",
    )
    text = run_card(record)
    assert text.count("<script") == 2
    assert "<img" not in text
    assert "secret" not in text


def test_names_in_any_alphabet_are_shown(tmp_path: Path) -> None:
    names = [f"視頻/видео/فيديو/{number}" for number in range(20)]
    text = run_card(_run(tmp_path, names=names))
    assert sum(name in text for name in names) > 5


@pytest.mark.slow
def test_of_thousands_of_methods_the_largest_are_shown(tmp_path: Path) -> None:
    labels = [0] * 20 + [1] * 3000
    methods = ["real"] * 20 + [f"m{number}" for number in range(3000)]
    text = run_card(_run(tmp_path, labels=labels, methods=methods))
    assert "The 40 of 3,000 methods" in text
    assert len(text) < 150_000


def test_a_huge_config_is_cut(tmp_path: Path) -> None:
    more = "more:\n" + "".join(f"  key{number}: {'x' * (1000 if number == 0 else 9)}\n" for number in range(5000))
    text = run_card(_run(tmp_path, config=more))
    assert "more, in resolved.yaml" in text
    assert len(text) < 500_000
