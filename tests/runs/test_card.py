"""A run's page, of whatever is left of the run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deepfake.data.crop_store import CropStore
from deepfake.runs.card import Outcome, keep_card, open_crops, run_card, thumbnail
from deepfake.tracking import run_folder as files
from tests.runs.fakes import KEY, full_run, keep_crops

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>'


def test_the_card_shows_the_runs_own_numbers(tmp_path: Path) -> None:
    record = full_run(tmp_path)
    text = run_card(record)
    auc = record.metrics()["test/roc_auc"]
    for shown in (f"<b>{auc:.3f}</b>", "0.700 to 0.990", f"{auc:.3f} [0.700, 0.990]", "bootstrap over 20 groups"):
        assert shown in text
    for shown in ("ROC", "Calibration", "Confusion", "Loss", "12.5 s", "2.00 GB", "900,000", "3.0 ms", "bitrate tells"):
        assert shown in text
    assert "<td>Blend</td>" in text
    assert "secret" not in text


def test_the_gain_over_the_probe_is_shown_with_what_the_probe_had(tmp_path: Path) -> None:
    record = full_run(tmp_path)
    assert "over the probe" not in run_card(record)
    file = tmp_path / "run" / files.METRICS
    numbers = json.loads(file.read_text())
    ends = {"test/gain_over_probe_low": -0.05, "test/gain_over_probe_high": 0.01}
    numbers["metrics"] |= {"test/probe_roc_auc": 0.987, "test/gain_over_probe": -0.021, **ends}
    file.write_text(json.dumps(numbers))
    text = run_card(record)
    for shown in ("Gain over the probe", "<b>-0.021</b>", "0.987 by a linear probe", "-0.050 to +0.010"):
        assert shown in text


def test_faces_come_from_the_crops_and_link_to_the_files(tmp_path: Path) -> None:
    record = full_run(tmp_path)
    keep_crops(tmp_path / "cache", [f"d/{number:02d}" for number in range(20)])
    text = run_card(record, open_crops(record, tmp_path / "cache"))
    assert text.count("data:image/jpeg;base64,") == len(re.findall(r'<li class="(?:real|fake)"', text)) > 10
    linked = re.findall(r'<a href="([^"]+)">(d/\d\d)</a>', text)
    assert len(linked) > 10
    assert all(target == (tmp_path / "data" / f"{name}.png").as_uri() for target, name in linked)
    assert len(text) < 200_000


def test_crops_that_were_pruned_leave_places_without_faces(tmp_path: Path) -> None:
    record = full_run(tmp_path)
    keep_crops(tmp_path / "cache", ["d/00"])
    store = open_crops(record, tmp_path / "cache")
    for part in (tmp_path / "cache" / "crops" / KEY).glob("*.u8"):
        part.unlink()
    for crops in (store, open_crops(record, tmp_path / "elsewhere"), None):
        text = run_card(record, crops)
        assert "data:image" not in text
        assert "no crop" in text


def test_no_key_leads_out_of_the_cache(tmp_path: Path) -> None:
    record = full_run(tmp_path)
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
    text = run_card(full_run(tmp_path, labels=[label] * 6, intervals=False))
    assert f"no curve: only {('real', 'fake')[label]} samples" in text


def test_missing_intervals_are_told_with_their_reason(tmp_path: Path) -> None:
    text = run_card(full_run(tmp_path, intervals=False))
    assert "no interval: only 3 groups of real samples" in text
    assert ">no interval<" in text


def test_without_a_test_split_validation_is_shown_and_said_to_be(tmp_path: Path) -> None:
    text = run_card(full_run(tmp_path, split="val"))
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
    record = full_run(tmp_path)
    for name in gone:
        (record.places[0] / name).unlink()
    assert "<h1>demo run</h1>" in run_card(record)


def test_a_failed_run_says_so_and_shows_the_epochs_it_had(tmp_path: Path) -> None:
    record = full_run(tmp_path)
    for name in (files.METRICS, files.PREDICTIONS, files.HISTORY, files.CALIBRATION):
        (record.places[0] / name).unlink()
    epochs = [{"epoch": 0.0, "train/loss": 0.7}, {"epoch": 1.0, "train/loss": float("nan")}]
    text = run_card(record, None, Outcome("failed", f"loss is NaN {HOSTILE}", epochs))
    assert "This run did not finish: failed: loss is NaN &lt;script&gt;" in text
    assert "Loss" in text
    assert text.count("<script") == 2


def test_metrics_that_are_no_numbers_are_missing(tmp_path: Path) -> None:
    record = full_run(tmp_path)
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
    record = full_run(
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
    text = run_card(full_run(tmp_path, names=names))
    assert sum(name in text for name in names) > 5


@pytest.mark.slow
def test_of_thousands_of_methods_the_largest_are_shown(tmp_path: Path) -> None:
    labels = [0] * 20 + [1] * 3000
    methods = ["real"] * 20 + [f"m{number}" for number in range(3000)]
    text = run_card(full_run(tmp_path, labels=labels, methods=methods))
    assert "The 40 of 3,000 methods" in text
    assert len(text) < 150_000


def test_a_huge_config_is_cut(tmp_path: Path) -> None:
    more = "more:\n" + "".join(f"  key{number}: {'x' * (1000 if number == 0 else 9)}\n" for number in range(5000))
    text = run_card(full_run(tmp_path, config=more))
    assert "more, in resolved.yaml" in text
    assert len(text) < 500_000


class Told:
    """A run's log and console in one: what was kept, and what was warned of."""

    def __init__(self) -> None:
        self.kept: list[Path] = []
        self.warned: list[str] = []

    def files(self, paths: list[Path]) -> None:
        self.kept += paths

    def warn(self, text: str) -> None:
        self.warned.append(text)


def _at_work(folder: Path, told: Told) -> Any:
    return SimpleNamespace(
        folder=SimpleNamespace(path=folder),
        log=told,
        console=told,
        data=SimpleNamespace(store=None),
        context=SimpleNamespace(name="demo run"),
    )


def test_a_card_is_kept_in_the_folder_and_among_the_artifacts(tmp_path: Path) -> None:
    told, folder = Told(), full_run(tmp_path).places[0]
    keep_card(_at_work(folder, told))
    assert told.kept == [folder / "report.html"]
    assert "<h1>demo run</h1>" in told.kept[0].read_text()
    assert told.warned == []


def test_a_card_that_cannot_be_drawn_is_warned_of_and_ends_nothing(
    tmp_path: Path,
) -> None:
    told, folder = Told(), full_run(tmp_path).places[0]
    (folder / files.HISTORY).write_text("[1")
    keep_card(_at_work(folder, told))
    assert len(told.warned) == 1
    assert "report card could not be written" in told.warned[0]
    assert not (folder / "report.html").exists()
    assert told.kept == []


def test_a_run_that_failed_before_it_was_anything_has_no_card(tmp_path: Path) -> None:
    told = Told()
    keep_card(_at_work(tmp_path, told), Outcome("failed", "no data"))
    assert list(tmp_path.iterdir()) == []
    assert told.warned == []
