"""How many processes read for a device: as many as keep up with it, none where reading is next to nothing."""

from __future__ import annotations

import time
from typing import Any

import pytest

from deepfake.training import fitting
from deepfake.training.fitting import choose_workers
from tests.training.fakes import FakeClips, cpu, small_detector


class Clips(FakeClips):
    """Clips that take a while to read."""

    def __init__(self, seconds: float) -> None:
        super().__init__(4)
        self.seconds = seconds

    def fetch(self, items: Any, epoch: int = 0) -> Any:
        Clips.now += self.seconds
        return super().fetch(items, epoch)

    now = 0.0


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A device beside four cores on which a step takes 10 ms; a batch takes as long to read as its clips say."""
    monkeypatch.setattr(fitting, "loader_workers", lambda asked, fabric: 4 if asked == "auto" else int(asked))
    monkeypatch.setattr(time, "perf_counter", lambda: Clips.now)

    def step(detector: object, batch: object, fabric: object) -> None:
        Clips.now += 0.010

    monkeypatch.setattr(fitting, "_backward", step)
    return cpu()


@pytest.mark.parametrize(("milliseconds", "workers"), [(0.1, 0), (1, 1), (10, 2), (20, 3), (100, 4)])
def test_auto_measures_how_many_keep_up(device: Any, milliseconds: float, workers: int) -> None:
    count, notes = choose_workers(small_detector(), Clips(milliseconds / 1000), "auto", 4, device)
    assert count == workers
    assert f"trainer.num_workers=auto: {workers}" in notes[0]


def test_too_few_cores_are_said(device: Any) -> None:
    _, notes = choose_workers(small_detector(), Clips(0.1), "auto", 4, device)
    assert "15 would be needed and there are cores for 4" in notes[0]


def test_a_number_is_taken_as_it_is(device: Any) -> None:
    assert choose_workers(small_detector(), Clips(0.1), 3, 4, device) == (3, [])


def test_nothing_reads_ahead_of_what_is_at_hand(device: Any) -> None:
    clips = Clips(0.1)
    clips.at_hand = True
    assert choose_workers(small_detector(), clips, 3, 4, device) == (0, [])


def test_a_cpu_keeps_its_cores_for_training() -> None:
    assert choose_workers(small_detector(), Clips(0.1), "auto", 4, cpu()) == (0, [])


def test_looking_leaves_no_trace(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = small_detector()
    choose_workers(detector, Clips(0.01), "auto", 4, device)
    assert all(parameter.grad is None for parameter in detector.parameters())
