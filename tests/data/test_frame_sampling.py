"""Which frames of a video a plan takes."""

from __future__ import annotations

import numpy as np
import pytest

from deepfake.data.frame_sampling import ClipPlan, window
from deepfake.data.options import DatasetOptions


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


def test_slack_makes_runs_longer_and_keeps_where_they_lie() -> None:
    chosen = ClipPlan(True, clips=3, frames=8, stride=2, slack=4).indices(300)
    assert chosen.indices.shape == (3, 12)
    assert chosen.lengths.tolist() == [12, 12, 12]
    assert chosen.indices[-1, -1] == 299


def test_a_stride_in_seconds_is_one_of_frames_at_each_rate() -> None:
    plan = ClipPlan(True, clips=1, frames=4, stride_seconds=0.1)
    assert [plan.at(fps).stride for fps in (10.0, 24.0, 25.0, 60.0, 0.0, 5.0)] == [1, 2, 2, 6, 2, 1]
    assert ClipPlan(True, 1, 4, 3).at(60.0).stride == 3


def test_a_plan_keeps_only_what_matters_to_it() -> None:
    options = DatasetOptions(frames=8, clips=2, stride=5, stride_seconds=0.2, slack=4)
    assert ClipPlan.of(options, temporal=False) == ClipPlan(False, 2, 8)
    assert ClipPlan.of(options, temporal=True) == ClipPlan(True, 2, 8, 1, 0.2, 4)


@pytest.mark.parametrize("length", [1, 2, 3, 8, 12])
@pytest.mark.parametrize("speed", [0.1, 0.5, 1.0, 1.3, 1.9])
@pytest.mark.parametrize("start", [0.0, 0.5, 0.999999, 1.0])
def test_a_window_lies_within_its_run_and_never_goes_back(length: int, speed: float, start: float) -> None:
    places = window(length, 8, start, speed)
    assert places.shape == (8,)
    assert 0 <= places.min() <= places.max() < length
    assert (np.diff(places) >= 0).all()


def test_windows_begin_everywhere_equally_often() -> None:
    starts = [window(12, 8, start)[0] for start in np.random.default_rng(0).random(5000)]
    assert np.abs(np.bincount(starts, minlength=5) / 5000 - 0.2).max() < 0.03


def test_a_faster_window_takes_from_the_slack() -> None:
    assert window(12, 6, 0.0, 2.0).tolist() == [0, 2, 4, 6, 8, 10]
    assert window(6, 6, 0.0, 2.0).tolist() == [0, 2, 4, 5, 5, 5]
