"""What chooses the best epoch: metrics of held-out parts and of fits without a part, in every epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepfake.data.clips import PartOfClips
from deepfake.errors import Interrupted, UserError
from deepfake.models.options import Gru
from deepfake.training.selection import SELECTED, Fold, Selection
from deepfake.training.trainer import FOLDS
from tests.training.fakes import FakeClips, small_detector
from tests.training.test_trainer import Terminated, interrupted, lasting, run


def _fold(seed: int) -> Fold:
    return Fold(FakeClips(10, seed=seed), FakeClips(8, seed=seed + 1))


BOTH = Selection(sets={"harder": FakeClips(8, seed=5)}, folds={"without A": _fold(6), "without B": _fold(8)})


def _chosen(folder: Path, **changes: Any) -> Any:
    return run(folder, **{"monitor": SELECTED, "selection": BOTH, "epochs": 3, **changes})


@pytest.mark.parametrize(("combine", "area", "loss"), [("mean", 0.7, 0.4), ("worst", 0.6, 0.6)])
def test_what_counts_is_combined(combine: str, area: float, loss: float) -> None:
    parts = {"a": {"roc_auc": 0.6, "log_loss": 0.4, "f1": 1.0}, "b": {"roc_auc": 0.7, "log_loss": 0.6}}
    found = Selection(combine=combine).combined(parts, {"val/roc_auc": 0.8, "val/log_loss": 0.2, "val/f1": 0.1})
    assert {name for name in found if name.count("/") == 2} == {
        f"select/{name}/{measure}" for name in "ab" for measure in ("roc_auc", "log_loss")
    }
    assert (found[SELECTED], found["select/log_loss"]) == (pytest.approx(area), pytest.approx(loss))


def test_validation_counts_only_where_it_is_to() -> None:
    assert Selection(val=False).combined({"a": {"roc_auc": 0.6}}, {"val/roc_auc": 1.0})[SELECTED] == 0.6


def test_the_loss_of_what_counts_can_choose(tmp_path: Path) -> None:
    result, _ = _chosen(tmp_path, monitor="select/log_loss", mode="min")
    losses = [epoch["select/log_loss"] for epoch in result.history]
    assert result.best_epoch == losses.index(min(losses))
    with pytest.raises(UserError, match="worst epoch"):
        _chosen(tmp_path / "other", monitor="select/log_loss", mode="max")


def test_every_epoch_tells_each_part_and_all_of_them(tmp_path: Path) -> None:
    result, _ = _chosen(tmp_path)
    for epoch in result.history:
        parts = [epoch[f"select/{name}/roc_auc"] for name in ("harder", "without A", "without B")]
        assert epoch[SELECTED] == pytest.approx(np.mean([*parts, epoch["val/roc_auc"]]))
    best = max(range(3), key=lambda i: (result.history[i][SELECTED], -i))
    assert result.best_epoch == best


def test_a_fold_is_the_fit_of_its_own_clips_alone(tmp_path: Path) -> None:
    """Nothing of one fit reaches another: a fold's numbers are those that it has by itself."""
    result, _ = _chosen(tmp_path / "all")
    fold = BOTH.folds["without A"]
    alone, _ = run(tmp_path / "alone", train=fold.train, val=fold.held)
    assert [e["select/without A/roc_auc"] for e in result.history] == [e["val/roc_auc"] for e in alone.history]
    plain, _ = run(tmp_path / "plain", monitor="val/roc_auc")
    kept = [{k: v for k, v in e.items() if not k.startswith("select/")} for e in lasting(result.history)]
    assert kept == lasting(plain.history)


@pytest.mark.parametrize("at", [2, 5, 8])
def test_an_interrupted_fit_with_folds_ends_as_if_it_had_not_been(tmp_path: Path, at: int) -> None:
    keys: dict[str, Any] = {"monitor": SELECTED, "selection": BOTH, "epochs": 3}
    whole, one = run(tmp_path / "whole", small_detector(Gru(hidden=4)), **keys)
    resumed, two = interrupted(tmp_path / "cut", at, **keys)
    assert lasting(resumed.history) == lasting(whole.history)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))


def test_a_fit_that_is_stopped_in_a_fold_goes_on_in_it(tmp_path: Path) -> None:
    def keys(train: FakeClips) -> dict[str, Any]:
        folds = {"without A": Fold(train, FakeClips(8, seed=2))}
        return {"monitor": SELECTED, "selection": Selection(folds=folds), "epochs": 3}

    whole, _ = run(tmp_path / "whole", **keys(FakeClips(seed=1)))
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", **keys(Terminated(5)))
    resumed, _ = run(tmp_path / "cut", resume=True, **keys(FakeClips(seed=1)))
    assert lasting(resumed.history) == lasting(whole.history)


def test_what_folds_needed_to_go_on_is_removed(tmp_path: Path) -> None:
    _chosen(tmp_path, epochs=1)
    assert not (tmp_path / FOLDS).exists()


def test_a_metric_of_no_selection_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only validation counts"):
        run(tmp_path, monitor=SELECTED)
    with pytest.raises(UserError, match="select/hardr/roc_auc"):
        _chosen(tmp_path, monitor="select/hardr/roc_auc")


def test_a_part_of_clips_has_the_clips_and_changes_of_the_whole() -> None:
    whole = FakeClips(10, seed=4, failed=2)
    rows = np.array([1, 3, 4, 8])
    part = PartOfClips(whole, rows)
    assert part.table["sample_id"].tolist() == whole.table["sample_id"].iloc[rows].tolist()
    assert len(part) == 6  # two clips of each but the failed one
    batch = part.fetch([0, 3, 5], epoch=2)
    chosen = [part._chosen[i] for i in (0, 3, 5)]
    same = whole.fetch(chosen, epoch=2)
    assert torch.equal(batch.clips, same.clips)
    assert batch.draws is not None
    assert same.draws is not None
    assert torch.equal(batch.draws, same.draws)
    assert part.table["sample_id"].iloc[batch.samples.numpy()].tolist() == [
        whole.table["sample_id"].iloc[whole.items[i, 0]] for i in chosen
    ]
    assert part.labels.tolist() == whole.labels[part._chosen].tolist()
