"""Which ends of a run leave a card, and what it says of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from deepfake.errors import Interrupted, TrainingDiverged
from deepfake.runs import train
from deepfake.runs.card import Outcome
from deepfake.sweeping.trial import Paused, Pruned, Taken

EPOCHS = [{"epoch": 0.0, "train/loss": 0.7}]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (TrainingDiverged("the loss is nan"), Outcome("failed", "the loss is nan", EPOCHS)),
        (ValueError("odd\nvery"), Outcome("failed", "odd", EPOCHS)),
        (Pruned(3), Outcome("pruned", "pruned after epoch 3", EPOCHS)),
        (Interrupted("SIGTERM"), None),
        (KeyboardInterrupt(), None),
        (Taken(), None),
        (Paused(3), None),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_run_that_is_cut_short_leaves_a_card_unless_it_goes_on(
    error: BaseException, outcome: Outcome | None, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(train, "keep_card", lambda run, how: kept.append(how))
    run: Any = SimpleNamespace(fabric=SimpleNamespace(is_global_zero=first))
    with pytest.raises(type(error)), train._cut_short(run, EPOCHS):
        raise error
    assert kept == ([outcome] if first and outcome is not None else [])
