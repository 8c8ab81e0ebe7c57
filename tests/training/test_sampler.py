"""Which clips train together."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

from deepfake.errors import UserError
from deepfake.training.sampler import BatchPlan, part_of, plan_batches
from tests.training.fakes import FakeClips

LABELS = np.array([0.0] * 3 + [1.0] * 20)


def test_an_epoch_holds_each_clip_once_and_drops_the_rest() -> None:
    batches = BatchPlan(LABELS, 5, seed=0).batches(0)
    assert [len(batch) for batch in batches] == [5] * 4
    drawn = list(chain(*batches))
    assert len(set(drawn)) == len(drawn) == 20


def test_the_only_batch_is_kept_though_partial() -> None:
    assert [len(b) for b in BatchPlan(LABELS, 50, seed=0).batches(0)] == [23]


def test_order_follows_seed_and_epoch_alone() -> None:
    plan = BatchPlan(LABELS, 5, seed=1)
    assert plan.batches(3) == BatchPlan(LABELS, 5, seed=1).batches(3)
    assert plan.batches(3) != plan.batches(4)
    assert plan.batches(3) != BatchPlan(LABELS, 5, seed=2).batches(3)


def test_balanced_batches_hold_both_classes_equally_often() -> None:
    for batch in BatchPlan(LABELS, 4, seed=0, balanced=True).batches(0):
        assert LABELS[batch].sum() == 2


def test_balancing_one_class_is_plain_shuffling() -> None:
    plan = BatchPlan(np.ones(8), 4, seed=0, balanced=True)
    assert sorted(chain(*plan.batches(0))) == list(range(8))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_shares_together_are_the_batch(world_size: int) -> None:
    batch = list(range(7))
    assert sorted(chain(*(part_of(batch, rank, world_size) for rank in range(world_size)))) == batch


def test_fewer_clips_than_processes_are_refused() -> None:
    with pytest.raises(UserError, match="cannot be shared by 4"):
        plan_batches(FakeClips(4), 2, 0, False, 4)
