"""A video's score from its clips'."""

from __future__ import annotations

import numpy as np
import pytest

from deepfake.errors import UserError
from deepfake.training.pooling import pool_clips

ROWS = np.array([0, 0, 0, 2])
LOGITS = np.log(np.array([0.2, 0.5, 0.9, 0.3]) / np.array([0.8, 0.5, 0.1, 0.7]))


@pytest.mark.parametrize(
    ("how", "score"),
    [
        ("mean", (0.2 + 0.5 + 0.9) / 3),
        ("median", 0.5),
        ("topk", (0.5 + 0.9) / 2),
        # The odds are 1/4, 1 and 9.
        ("log_odds", (9 / 4) ** (1 / 3) / (1 + (9 / 4) ** (1 / 3))),
    ],
)
def test_each_way_by_hand(how: str, score: float) -> None:
    pooled = pool_clips(ROWS, LOGITS, 3, how)
    assert pooled[0] == pytest.approx(score, abs=1e-12)
    assert pooled[2] == pytest.approx(0.3, abs=1e-12)


def test_a_sample_without_clips_has_no_score() -> None:
    assert np.isnan(pool_clips(ROWS, LOGITS, 3)).tolist() == [False, True, False]


@pytest.mark.parametrize("how", ["mean", "median", "topk", "log_odds"])
def test_a_nan_clip_makes_the_score_nan(how: str) -> None:
    pooled = pool_clips(ROWS, np.array([0.0, np.nan, 1.0, 2.0]), 3, how)
    assert np.isnan(pooled).tolist() == [True, True, False]


def test_the_order_of_clips_does_not_matter() -> None:
    order = np.array([3, 1, 0, 2])
    np.testing.assert_allclose(pool_clips(ROWS[order], LOGITS[order], 3), pool_clips(ROWS, LOGITS, 3))


def test_topk_of_a_sample_with_fewer_clips_takes_all() -> None:
    assert pool_clips(ROWS, LOGITS, 3, "topk", top_k=10)[0] == pytest.approx(pool_clips(ROWS, LOGITS, 3)[0])


def test_certain_clips_stay_within_one() -> None:
    assert pool_clips(np.zeros(7, int), np.full(7, 800.0), 1)[0] <= 1.0


def test_no_clips_at_all() -> None:
    assert np.isnan(pool_clips(np.zeros(0, int), np.zeros(0), 2)).all()


def test_an_unknown_way_gets_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        pool_clips(ROWS, LOGITS, 3, "medien")
    assert "median" in caught.value.hint
