"""What a process keeps between trials: the newest of each kind, told apart by what they were made from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deepfake.commands.shelf import Shelf, clips_key, of_process, samples_key
from deepfake.config import RunConfig
from deepfake.data.options import AugmentOptions, DatasetOptions
from deepfake.errors import DataError
from deepfake.models.options import Lstm, Mean
from deepfake.training.options import AdamW


def test_a_thing_is_made_once() -> None:
    shelf = Shelf()
    first = shelf.take("kind", "key", list)
    assert shelf.take("kind", "key", list) is first
    assert shelf.take("other kind", "key", list) is not first


def test_the_one_longest_unused_goes() -> None:
    shelf = Shelf()
    kept, gone = shelf.take("kind", "a", list), shelf.take("kind", "b", list)
    shelf.take("kind", "a", list)
    shelf.take("kind", "c", list)
    assert shelf.take("kind", "a", list) is kept
    assert shelf.take("kind", "b", list) is not gone


def test_what_could_not_be_made_is_tried_again() -> None:
    shelf = Shelf()

    def fail() -> object:
        raise DataError("no such folder", "")

    with pytest.raises(DataError):
        shelf.take("kind", "key", fail)
    assert shelf.take("kind", "key", lambda: "made") == "made"


def test_trials_of_a_process_share_a_shelf() -> None:
    assert of_process() is of_process()


@pytest.mark.parametrize(
    "changed",
    [
        {"dataset": DatasetOptions(frames=5)},
        {"augment": AugmentOptions(flip=0.1)},
        {"seed": 1},
        {"head": Lstm()},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_other_clips_have_another_key(changed: dict[str, object]) -> None:
    config = RunConfig(head=Mean())
    assert clips_key(config) != clips_key(replace(config, **changed))  # type: ignore[arg-type]


def test_rates_and_heads_of_a_kind_share_their_data() -> None:
    config = RunConfig(head=Lstm())
    other = replace(config, head=Lstm(hidden=7), optimizer=AdamW(lr=0.1))
    assert clips_key(config) == clips_key(other)
    assert samples_key(config) == samples_key(other)


def test_a_shelf_tells_whether_a_run_came_before() -> None:
    shelf = Shelf()
    assert shelf.is_empty
    shelf.take("samples", "a", lambda: 1)
    assert not shelf.is_empty
