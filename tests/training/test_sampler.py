"""Which clips train together."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import numpy as np
import pandas as pd
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
        plan_batches(FakeClips(4), 2, 0, 4)


class Unequal(FakeClips):
    """Two clips each of 4 reals of two people and 12 fakes of them: 10 by A, 2 by B, in two sets."""

    def __init__(self, **columns: object) -> None:
        super().__init__(16, size=8)
        labels = np.array([0] * 4 + [1] * 12)
        people = [f"p{i % 2}" for i in range(16)]
        self.table = pd.DataFrame(
            {
                "sample_id": [f"s{i}" for i in range(16)],
                "label": labels,
                "method": ["real"] * 4 + ["A"] * 10 + ["B"] * 2,
                "dataset": ["one"] * 3 + ["two"] + ["one"] * 11 + ["two"],
                "groups": [(person,) for person in people],
                "status": "ok",
                **columns,
            }
        )
        self.labels = labels[self.items[:, 0]].astype(np.float32)

    def of(self, items: list[int], column: str) -> list[object]:
        return self.table[column].iloc[self.items[items, 0]].tolist()


@pytest.mark.parametrize(("balance", "column"), [("method", "method"), ("set", "dataset"), ("identity", "groups")])
def test_within_a_class_each_is_drawn_equally_often(balance: str, column: str) -> None:
    clips = Unequal()
    plan, notes = plan_batches(clips, 8, 0, 1, balance)
    assert notes == []
    for batch in plan.batches(0):
        counts = Counter(zip(clips.of(batch, "label"), clips.of(batch, column), strict=True))
        assert sum(n for (label, _), n in counts.items() if label == 1) == 4
        assert max(counts.values()) - min(counts.values()) <= (2 if balance == "method" else 0)
        assert {n for (label, _), n in counts.items() if label == 1} == {2}
    assert plan.batches(1) == plan_batches(clips, 8, 0, 1, balance)[0].batches(1) != plan.batches(0)


def test_the_rare_come_again_and_the_frequent_once() -> None:
    clips = Unequal()
    plan, _ = plan_batches(clips, 8, 0, 1, "method")
    drawn = Counter(chain(*plan.batches(0)))
    methods = {item: clips.of([item], "method")[0] for item in drawn}
    assert max(n for item, n in drawn.items() if methods[item] == "A") == 1
    assert {n for item, n in drawn.items() if methods[item] == "B"} == {2}


def test_a_sample_of_two_groups_is_drawn_for_both() -> None:
    clips = Unequal(groups=[("p", "q")] + [("p",)] * 3 + [("q",)] * 12)
    plan, _ = plan_batches(clips, 8, 0, 1, "identity")
    drawn = Counter(clips.of(list(chain(*plan.batches(0))), "sample_id"))
    assert drawn["s0"] > max(drawn["s1"], drawn["s2"], drawn["s3"])


def test_one_class_is_drawn_by_method_too() -> None:
    clips = Unequal(label=1)
    clips.labels[:] = 1
    plan, _ = plan_batches(clips, 6, 0, 1, "method")
    assert all(set(Counter(clips.of(batch, "method")).values()) == {2} for batch in plan.batches(0))


def test_balancing_by_sampler_is_what_it_was() -> None:
    clips = Unequal()
    plan, _ = plan_batches(clips, 8, 5, 1, "sampler")
    assert plan.batches(2) == BatchPlan(clips.labels, 8, 5, balanced=True).batches(2)


@pytest.mark.parametrize("balance", ["none", "pos_weight", "method"])
def test_each_fake_is_in_a_batch_with_its_own_original(balance: str) -> None:
    clips = Unequal(original=[""] * 4 + [f"s{i % 4}" for i in range(12)], dataset="one")
    plan, notes = plan_batches(clips, 8, 0, 1, balance, pairs=True)
    assert notes == []
    assert len(plan) == 4
    for batch in plan.batches(3):
        for pair in zip(batch[::2], batch[1::2], strict=True):
            real, fake = sorted(pair)
            assert clips.of([fake], "original") == clips.of([real], "sample_id")
            assert clips.items[real, 1] == clips.items[fake, 1]  # the same time


def test_originals_are_found_by_groups_where_none_are_named() -> None:
    clips = Unequal(dataset="one")
    plan, _ = plan_batches(clips, 8, 0, 1, pairs=True)
    partners: dict[object, set[object]] = {}
    for real, fake in (sorted(batch[i : i + 2]) for e in range(9) for batch in plan.batches(e) for i in (0, 2, 4, 6)):
        assert clips.of([real], "groups") == clips.of([fake], "groups")
        partners.setdefault(clips.of([fake], "groups")[0], set()).add(clips.of([real], "sample_id")[0])
    assert partners == {("p0",): {"s0", "s2"}, ("p1",): {"s1", "s3"}}


def test_a_fake_without_an_original_stands_beside_any_real() -> None:
    clips = Unequal(original=[""] * 4 + ["s1"] * 11 + ["gone"], dataset="one")
    plan, notes = plan_batches(clips, 8, 0, 1, pairs=True)
    assert notes == ["trainer.pairs=true: 2 of 24 fake clips have no original and stand beside any real one"]
    assert all(sum(clips.labels[batch]) == 4 for batch in plan.batches(0))


@pytest.mark.parametrize("columns", [{"groups": [(str(i),) for i in range(16)]}, {"label": 0}], ids=["apart", "reals"])
def test_pairs_without_pairs_are_refused(columns: dict[str, object]) -> None:
    clips = Unequal(**columns)
    clips.labels = clips.table["label"].to_numpy(np.float32)[clips.items[:, 0]]
    with pytest.raises(UserError, match="has its original among the others"):
        plan_batches(clips, 8, 0, 1, pairs=True)


def test_other_sets_hold_no_originals() -> None:
    clips = Unequal(dataset=["one"] * 4 + ["two"] * 12)
    with pytest.raises(UserError, match="has its original"):
        plan_batches(clips, 8, 0, 1, pairs=True)


def test_an_odd_batch_holds_whole_pairs() -> None:
    plan, notes = plan_batches(Unequal(), 7, 0, 1, pairs=True)
    assert plan.batch_size == 6
    assert "trainer.pairs=true: batches of 7 hold 3 pairs" in notes
    with pytest.raises(UserError, match="a batch of 0") as caught:
        plan_batches(Unequal(), 1, 0, 1, pairs=True)
    assert "at least 2" in caught.value.hint


def test_balanced_batches_count_real_clips_that_are_made_fakes() -> None:
    def labels_in(epoch: int) -> np.ndarray:
        return np.where(np.arange(len(LABELS)) == epoch, 1.0, LABELS)

    for epoch in range(3):
        for batch in BatchPlan(LABELS, 4, seed=0, balanced=True, labels_in=labels_in).batches(epoch):
            assert labels_in(epoch)[batch].sum() == 2
