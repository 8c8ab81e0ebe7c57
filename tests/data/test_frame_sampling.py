"""Which frames of a video a plan takes."""

from __future__ import annotations

import numpy as np
import pytest

from deepfake.data.frame_sampling import ClipPlan


def test_even_frames_span_the_whole_video() -> None:
    chosen = ClipPlan(False, clips=4, frames=8).indices(300).indices
    assert np.abs(np.sort(chosen.reshape(-1)) - (np.arange(32) + 0.5) * 300 / 32).max() <= 1


def test_every_even_clip_spans_the_whole_video() -> None:
    chosen = ClipPlan(False, clips=4, frames=8).indices(300).indices
    assert (chosen[:, 0] < 40).all()
    assert (chosen[:, -1] > 260).all()


def test_runs_are_consecutive_at_the_stride() -> None:
    chosen = ClipPlan(True, clips=3, frames=8, stride=2).indices(300).indices
    assert (np.diff(chosen) == 2).all()


def test_runs_start_evenly_from_the_first_frame_to_the_last() -> None:
    chosen = ClipPlan(True, clips=3, frames=8, stride=2).indices(300).indices
    assert chosen[:, 0].tolist() == [0, 142, 285]
    assert chosen[-1, -1] == 299


def test_one_run_lies_in_the_middle() -> None:
    assert ClipPlan(True, clips=1, frames=10).indices(110).indices[0, 0] == 50


@pytest.mark.parametrize("temporal", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 9, 16, 33])
def test_short_videos_repeat_their_last_frame_and_say_so(temporal: bool, count: int) -> None:
    plan = ClipPlan(temporal, clips=4, frames=8, stride=2)
    chosen = plan.indices(count)
    assert chosen.indices.max() < count
    for run, length in zip(chosen.indices, chosen.lengths, strict=True):
        assert len(set(run[:length])) == length
        assert (run[length:] == run[length - 1]).all()


def test_a_stride_is_never_stretched_or_squeezed_for_a_short_video() -> None:
    chosen = ClipPlan(True, clips=2, frames=8, stride=3).indices(10)
    assert chosen.indices.tolist() == [[0, 3, 6, 9, 9, 9, 9, 9]]
    assert chosen.lengths.tolist() == [4]


@pytest.mark.parametrize("temporal", [True, False])
def test_no_frames_give_no_clips(temporal: bool) -> None:
    assert ClipPlan(temporal, clips=2, frames=4).indices(0).indices.shape == (0, 4)
