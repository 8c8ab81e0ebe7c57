"""The picture of what training sees: which clips it shows, as what, and when there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deepfake.data.augment import apply_draws
from deepfake.data.clips import ClipSet
from deepfake.data.options import AugmentOptions
from deepfake.runs import seen
from deepfake.runs.build import Run
from deepfake.runs.seen import SEEN, draw_seen
from tests.runs.begun import run_of


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return run_of(tmp_path)


def trained_with(run: Run, **augment: Any) -> Run:
    """The run with clips that are changed at random."""
    train = run.data.splits["train"]
    clips = ClipSet(run.data.store, train.table, augment=AugmentOptions(**augment), seed=run.config.seed)
    return replace(run, data=replace(run.data, splits={**run.data.splits, "train": clips}))


def test_it_is_a_picture_in_the_runs_folder(run: Run) -> None:
    draw_seen(run)
    assert (run.folder.figures / SEEN).read_bytes().startswith(b"\xff\xd8\xff")


def test_unchanged_clips_look_as_they_are_stored(run: Run) -> None:
    found = seen._looks(run)
    assert [any(clip.fake) for clip in found] == [False] * 3 + [True] * 3
    for clip in found:
        assert len(clip.looks) == 1 + seen._EPOCHS[False]
        for look in clip.looks:
            np.testing.assert_array_equal(look, run.data.store.clip(clip.name, 0)[0])


def test_changed_clips_look_as_the_device_makes_them(run: Run) -> None:
    run = trained_with(run, brightness=0.5, flip=0.5)
    clips = run.data.splits["train"]
    name = seen._looks(run)[0].name
    item = int(np.flatnonzero(clips.table["sample_id"].to_numpy()[clips.items[:, 0]] == name)[0])
    batch = clips.fetch([item], 1)
    assert batch.draws is not None
    expected = (apply_draws(batch.clips.float() / 255, batch.draws) * 255).round()[0].permute(0, 2, 3, 1).byte()
    np.testing.assert_array_equal(seen._looks(run)[0].looks[2], expected.numpy())


def test_a_real_clip_that_was_made_a_fake_is_framed_as_one(run: Run) -> None:
    run = trained_with(run, self_blend=1.0, self_blend_mask="oval")
    for clip in seen._looks(run):
        assert clip.fake == ([False, True, True] if clip.what == "real" else [True] * 3)


def test_no_more_epochs_are_shown_than_are_trained(run: Run) -> None:
    run = replace(run, config=replace(run.config, trainer=replace(run.config.trainer, epochs=1)))
    assert {len(clip.looks) for clip in seen._looks(run)} == {2}


def test_stored_features_show_nothing(tmp_path: Path) -> None:
    run = run_of(tmp_path, cached=True)
    draw_seen(run)
    assert not (run.folder.figures / SEEN).exists()


@pytest.mark.parametrize(
    ("number", "swept", "drawn"),
    [
        (None, {}, True),
        (0, {"optimizer.lr": "1"}, True),
        (1, {"optimizer.lr": "1"}, False),
        (1, {"augment": "strong"}, True),
        (2, {"augment.crop": "0.5"}, True),
    ],
)
def test_of_a_sweeps_jobs_those_that_differ_in_it_are_drawn(
    run: Run, number: int | None, swept: dict[str, str], drawn: bool
) -> None:
    context: Any = SimpleNamespace(number=number, swept=swept)
    draw_seen(replace(run, context=context))
    assert (run.folder.figures / SEEN).exists() == drawn
