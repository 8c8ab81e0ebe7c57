"""Clips to scores of samples."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from deepfake.errors import UserError
from deepfake.models.options import Gru
from deepfake.training.calibration import log_odds
from deepfake.training.options import EvaluationOptions
from deepfake.training.pooling import pool_clips, pool_faces
from deepfake.training.scoring import average_samples, full_precision, join_clips, score, score_clips
from tests.training.fakes import FakeClips, cpu, small_detector

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


COLUMNS = ["sample_id", "label", "method", "dataset", "split", "score", "frames_used", "status"]


def test_every_sample_has_a_row_with_the_mean_of_its_clips() -> None:
    clips, detector, fabric = FakeClips(6), small_detector(), cpu()
    samples = score(detector, clips, fabric=fabric, batch_size=5, split="val").samples
    assert list(samples.columns) == COLUMNS
    logits = torch.from_numpy(score_clips(detector, clips, fabric=fabric, batch_size=5).logits)
    np.testing.assert_allclose(samples["score"], logits.sigmoid().reshape(6, 2).mean(1), rtol=1e-12)
    assert set(samples["split"]) == {"val"}


def test_failed_samples_keep_their_status_and_no_score() -> None:
    samples = score(small_detector(), FakeClips(6, failed=2), fabric=cpu(), batch_size=4, split="test").samples
    assert samples["status"].tolist() == ["no_face"] * 2 + ["ok"] * 4
    assert samples["score"].isna().tolist() == [True] * 2 + [False] * 4
    assert samples["frames_used"].tolist()[:2] == [0, 0]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_batch_size_does_not_matter(batch_size: int) -> None:
    clips = FakeClips(5)
    one = score(small_detector(), clips, fabric=cpu(), batch_size=batch_size, split="val").samples
    other = score(small_detector(), clips, fabric=cpu(), batch_size=7, split="val").samples
    np.testing.assert_allclose(one["score"], other["score"], rtol=1e-6)


def test_padded_frames_are_no_frames() -> None:
    clips = FakeClips(5)
    scored = score(small_detector(), clips, fabric=cpu(), batch_size=4, split="val")
    assert scored.frames is not None
    assert len(scored.frames) == clips.mask.sum() == scored.samples["frames_used"].sum()
    assert {"clip", "position", "score"} <= set(scored.frames.columns)
    assert "roc_auc" in scored.frame_metrics().values


def test_a_split_without_clips_scores_nothing() -> None:
    scored = score(small_detector(Gru(hidden=4)), FakeClips(3, failed=3), fabric=cpu(), batch_size=4, split="val")
    assert scored.samples["score"].isna().all()
    assert scored.frame_metrics().values == {}


def test_scoring_leaves_the_detector_as_it_was() -> None:
    detector = small_detector()
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    score(detector, FakeClips(3), fabric=cpu(), batch_size=4, split="val")
    assert all(torch.equal(before[name], tensor) for name, tensor in detector.state_dict().items())


def test_kept_scores_are_those_of_full_precision() -> None:
    clips, detector = FakeClips(5), small_detector()
    half, full = (
        score(detector, clips, fabric=cpu(precision=name), batch_size=4, split="val").samples["score"]
        for name in ("bf16", "32")
    )
    np.testing.assert_array_equal(half, full)


def test_scores_in_training_are_as_fast_as_training() -> None:
    clips, detector = FakeClips(5), small_detector()
    half, full = (
        score_clips(detector, clips, fabric=cpu(precision=name), batch_size=4).logits for name in ("bf16", "32")
    )
    assert not np.array_equal(half, full)


def test_full_precision_ends_when_it_is_left() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        with full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(("how", "expected"), [("max", 0.9), ("mean", 0.5), ("topk", 0.75)])
def test_a_samples_faces_are_pooled_after_their_clips(how: str, expected: float) -> None:
    scores = np.array([[0.0, 0.0], [0.8, 1.0], [0.5, 0.7]])  # of three faces with two clips each
    logits = log_odds(scores.reshape(-1))
    rows, faces = np.zeros(6, np.int64), np.repeat([0, 1, 2], 2)
    found = pool_faces(rows, faces, logits, 2, EvaluationOptions(faces=how))
    assert found[0] == pytest.approx(expected, abs=1e-9)
    assert np.isnan(found[1])


def test_one_face_each_is_no_other_than_none_told_apart() -> None:
    rows, logits = np.array([0, 0, 1]), np.array([1.0, -1.0, 2.0])
    options = EvaluationOptions()
    expected = pool_clips(rows, logits, 2)
    np.testing.assert_array_equal(pool_faces(rows, None, logits, 2, options), expected)
    np.testing.assert_array_equal(pool_faces(rows, np.zeros(3, np.int64), logits, 2, options), expected)


def test_a_face_whose_score_is_no_number_takes_its_sample_along() -> None:
    found = pool_faces(np.array([0, 0]), np.array([0, 1]), np.array([1.0, np.nan]), 1, EvaluationOptions())
    assert np.isnan(found[0])


def test_clips_whose_faces_are_not_told_apart_are_of_the_first() -> None:
    joined = join_clips([pd.DataFrame({"logit": [1.0]}), pd.DataFrame({"logit": [2.0], "face": [1]})])
    assert joined["face"].tolist() == [0, 1]
    assert joined["face"].dtype == np.int64


def test_several_detectors_are_averaged_by_their_log_odds() -> None:
    tables = [
        pd.DataFrame({"sample_id": list("abc"), "score": scores, "status": status, "frames_used": used})
        for scores, status, used in (
            ([0.5, 0.9, 0.2], ["ok", "ok", "ok"], [4, 4, 4]),
            ([0.5, 0.5, np.nan], ["ok", "ok", "no_face"], [8, 2, 0]),
        )
    ]
    found = average_samples(tables)
    assert found["score"].tolist() == pytest.approx([0.5, 0.75, np.nan], nan_ok=True)
    assert found["status"].tolist() == ["ok", "ok", "no_face"]
    assert found["frames_used"].tolist() == [8, 4, 4]
