"""Batches of clips from a store."""

from __future__ import annotations

import multiprocessing
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from deepfake.data.clips import ClipSet, PartOfClips
from deepfake.data.crop_records import StoreWriter, pack_landmarks, read_records
from deepfake.data.crop_store import CropStore
from deepfake.data.cropping import FRAME, Crops
from deepfake.data.media import MediaInfo
from deepfake.data.options import AugmentOptions

INFO = MediaInfo(16, 16, 3, 25.0, 0.12, "h264", 1000, "yuv420p", 0)
EVERYTHING = AugmentOptions(flip=0.5, brightness=0.2, contrast=0.2, saturation=0.2, jpeg=1.0, blur=1.0, noise=1.0)


def _crops(seed: int, frames: int = 4) -> Crops:
    pixels = np.random.default_rng(seed).integers(0, 256, (2, frames, 16, 16, 3), np.uint8)
    return Crops(
        pixels,
        np.array([frames, max(frames - 1, 1)]),
        np.zeros((2, frames), FRAME),
        INFO,
        (1, 2),
        np.zeros((16, 16), np.uint8),
    )


@pytest.fixture
def store(tmp_path: Path) -> CropStore:
    writer = StoreWriter(tmp_path)
    for i in range(5):
        writer.append({"sample_id": f"s{i}", "status": "ok", "clips": 2}, _crops(i))
    writer.append({"sample_id": "bad", "status": "no_face"}, None)
    writer.append({"sample_id": "short", "status": "ok", "clips": 2}, _crops(9, frames=1))
    writer.close()
    return CropStore(tmp_path, read_records(tmp_path))


def _table(*names: str) -> pd.DataFrame:
    return pd.DataFrame(
        {"sample_id": names, "label": [i % 2 for i in range(len(names))]}, index=range(7, 7 + len(names))
    )


def test_an_item_is_a_clip_of_a_row(store: CropStore) -> None:
    clips = ClipSet(store, _table("s0", "bad", "s3"))
    assert clips.items.tolist() == [[0, 0], [0, 1], [2, 0], [2, 1]]


def test_failed_samples_stay_in_the_table(store: CropStore) -> None:
    clips = ClipSet(store, _table("s0", "bad", "s3"))
    assert clips.table["sample_id"].tolist() == ["s0", "bad", "s3"]


def test_fetch_gathers_the_stored_pixels(store: CropStore) -> None:
    batch = ClipSet(store, _table("s0", "bad", "s3")).fetch([3, 0])
    assert np.array_equal(batch.clips[0].permute(0, 2, 3, 1).numpy(), store.clip("s3", 1)[0])
    assert np.array_equal(batch.clips[1].permute(0, 2, 3, 1).numpy(), store.clip("s0", 0)[0])


def test_a_batch_says_whose_clips_it_holds(store: CropStore) -> None:
    batch = ClipSet(store, _table("s0", "s1", "s2")).fetch([2, 5])
    assert batch.samples.tolist() == [1, 2]
    assert batch.labels.tolist() == [1.0, 0.0]


def test_fillers_are_masked(store: CropStore) -> None:
    assert ClipSet(store, _table("s0")).fetch([0, 1]).mask.sum(1).tolist() == [4, 3]


def test_shorter_clips_are_filled_with_their_last_frame(store: CropStore) -> None:
    batch = ClipSet(store, _table("s0", "short")).fetch([2])
    assert batch.mask[0].tolist() == [True, False, False, False]
    assert torch.equal(batch.clips[0, 0], batch.clips[0, 3])


def test_no_clips_are_an_empty_set(store: CropStore) -> None:
    assert len(ClipSet(store, _table("bad"))) == 0


def test_draws_do_not_depend_on_the_order_of_items(store: CropStore) -> None:
    clips = ClipSet(store, _table("s0", "s1"), augment=EVERYTHING, seed=3)
    forward, backward = clips.fetch([0, 3], epoch=2), clips.fetch([3, 0], epoch=2)
    assert torch.equal(forward.clips, backward.clips.flip(0))


@pytest.mark.parametrize(("seed", "epoch"), [(3, 1), (4, 2)])
def test_draws_change_with_seed_and_epoch(seed: int, epoch: int, store: CropStore) -> None:
    first = ClipSet(store, _table("s0"), augment=EVERYTHING, seed=3).fetch([0], epoch=2)
    second = ClipSet(store, _table("s0"), augment=EVERYTHING, seed=seed).fetch([0], epoch=epoch)
    assert not torch.equal(first.clips, second.clips)


def test_augmenting_never_touches_the_store(store: CropStore) -> None:
    before = store.clip("s0", 0)[0].copy()
    ClipSet(store, _table("s0"), augment=EVERYTHING).fetch([0])
    assert np.array_equal(store.clip("s0", 0)[0], before)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_batches_in_order(workers: int, store: CropStore) -> None:
    clips = ClipSet(store, _table("s0", "s1", "s2"), augment=EVERYTHING, seed=1)
    batches = [[4, 1], [0, 5], [2]]
    loaded = list(clips.read(batches, epoch=3, workers=workers))
    wanted = [clips.fetch(items, 3) for items in batches]
    assert all(torch.equal(a.clips, b.clips) for a, b in zip(loaded, wanted, strict=True))
    clips.close()


def test_loader_processes_are_kept_between_epochs(store: CropStore) -> None:
    clips = ClipSet(store, _table("s0", "s1", "s2"), augment=EVERYTHING, seed=1)
    # Those of another test may still be about to end.
    others = set(multiprocessing.active_children())
    first = list(clips.read([[0], [1]], epoch=0, workers=1))
    (process,) = set(multiprocessing.active_children()) - others
    second = list(clips.read([[1], [0], [2]], epoch=1, workers=1))
    assert set(multiprocessing.active_children()) - others == {process}
    assert (len(first), len(second)) == (2, 3)
    assert torch.equal(second[1].clips, clips.fetch([0], 1).clips)
    clips.close()


def test_an_epoch_that_was_left_is_not_gone_on_with(store: CropStore) -> None:
    clips = ClipSet(store, _table("s0", "s1", "s2"))
    next(iter(clips.read([[0], [1], [2], [3]], workers=1)))
    (only,) = clips.read([[4]], workers=1)
    assert torch.equal(only.clips, clips.fetch([4]).clips)
    clips.close()


def test_a_pickled_set_holds_no_pixels(store: CropStore) -> None:
    clips = ClipSet(store, _table("s0"))
    clips.fetch([0])
    assert len(pickle.dumps(clips)) < 20_000


def test_huge_pages_are_asked_for_a_large_batch(tmp_path: Path) -> None:
    offered = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not offered.is_file() or "[madvise]" not in offered.read_text():
        pytest.skip("this kernel is not asked for huge pages")
    side = 512
    pixels = np.zeros((1, 16, side, side, 3), np.uint8)
    writer = StoreWriter(tmp_path)
    crops = Crops(pixels, np.array([16]), np.zeros((1, 16), FRAME), INFO, (1, 2), np.zeros((16, 16), np.uint8))
    writer.append({"sample_id": "s0", "status": "ok", "clips": 1}, crops)
    writer.close()
    clips = ClipSet(CropStore(tmp_path, read_records(tmp_path)), _table("s0"))
    batch = clips.fetch([0, 0, 0, 0])
    # Whether there are any is the kernel's affair, whose memory may lie in pieces.
    assert "hg" in _flags_of(batch.clips.data_ptr() + batch.clips.numel() // 2)


def _flags_of(address: int) -> list[str]:
    """What the kernel notes of the mapping in which an address of this process lies."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= address < int(found[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    raise AssertionError("no mapping holds the address")


@pytest.fixture
def slack_store(tmp_path: Path) -> CropStore:
    """Runs of 7 frames, of which a clip is 4, whose frames all hold their own number; and an image."""
    writer = StoreWriter(tmp_path)
    for name, frames, lengths in (("long", 7, [7, 7]), ("short", 7, [5, 3]), ("image", 1, [1, 1])):
        crops = _crops(0, frames)
        crops.pixels[:] = np.arange(frames, dtype=np.uint8)[:, None, None, None]
        for run, length in zip(crops.pixels, lengths, strict=True):
            run[length:] = length - 1
        crops.lengths[:] = lengths
        writer.append({"sample_id": name, "status": "ok", "clips": 2}, crops)
    writer.close()
    (tmp_path / "store.json").write_text('{"settings": {"plan": {"slack": 3}}}')
    return CropStore(tmp_path, read_records(tmp_path))


def test_without_changes_a_clip_is_the_middle_of_its_run(slack_store: CropStore) -> None:
    clips = ClipSet(slack_store, _table("long", "short", "image"))
    batch = clips.fetch(range(6))
    assert clips.shape[0] == 4
    numbers = batch.clips[:, :, 0, 0, 0].tolist()
    assert numbers == [[2, 3, 4, 5], [2, 3, 4, 5], [1, 2, 3, 4], [0, 1, 2, 2], [0] * 4, [0] * 4]
    assert batch.mask.sum(1).tolist() == [4, 4, 4, 3, 1, 1]


def test_in_training_a_clip_begins_elsewhere_in_each_epoch(slack_store: CropStore) -> None:
    clips = ClipSet(slack_store, _table("long", "short"), augment=AugmentOptions(), seed=1)
    firsts = np.array([clips.fetch(range(4), epoch).clips[:, 0, 0, 0, 0].tolist() for epoch in range(80)])
    assert [sorted(set(column)) for column in firsts.T.tolist()] == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1], [0]]
    again = ClipSet(slack_store, _table("long", "short"), augment=AugmentOptions(), seed=1)
    assert again.fetch([1, 0], 5).clips[:, 0, 0, 0, 0].tolist() == firsts[5, [1, 0]].tolist()
    assert again.changes_pixels


def test_pace_repeats_frames_and_leaves_some_out(slack_store: CropStore) -> None:
    clips = ClipSet(slack_store, _table("long"), augment=AugmentOptions(speed=0.8))
    steps = {
        step for epoch in range(60) for step in np.diff(clips.fetch([0], epoch).clips[0, :, 0, 0, 0].int()).tolist()
    }
    assert steps == {0, 1, 2}


def test_pace_without_slack_stays_within_the_clip(store: CropStore) -> None:
    clips = ClipSet(store, _table("s0", "short"), augment=AugmentOptions(speed=0.9))
    stored = {frame.tobytes() for frame in store.clip("s0", 0)[0]}
    for epoch in range(20):
        batch = clips.fetch([0, 2], epoch)
        assert {np.ascontiguousarray(f.permute(1, 2, 0).numpy()).tobytes() for f in batch.clips[0]} <= stored


def _faces(seed: int, landmarks: bool) -> dict[str, object]:
    points = np.random.default_rng(seed).uniform(2, 14, (2, 4, 5, 2)).astype(np.float32)
    return {"landmarks": pack_landmarks(points) if landmarks else None}


@pytest.fixture
def faces(tmp_path: Path) -> CropStore:
    """Four samples, of which the last has no landmarks."""
    writer = StoreWriter(tmp_path)
    for i in range(4):
        writer.append({"sample_id": f"s{i}", "status": "ok", "clips": 2, **_faces(i, i < 3)}, _crops(i))
    writer.close()
    return CropStore(tmp_path, read_records(tmp_path))


BLEND = AugmentOptions(self_blend=0.5)
NAMES = ("s0", "s1", "s2", "s3")


def _labelled(*labels: int) -> pd.DataFrame:
    return pd.DataFrame({"sample_id": NAMES, "label": labels})


def test_a_real_clip_that_is_made_a_fake_has_its_label_and_other_pixels(faces: CropStore) -> None:
    clips, plain = ClipSet(faces, _labelled(0, 0, 0, 0), augment=BLEND), ClipSet(faces, _labelled(0, 0, 0, 0))
    for epoch in range(6):
        batch, before = clips.fetch(range(8), epoch), plain.fetch(range(8))
        changed = (batch.clips != before.clips).flatten(1).any(1)
        assert torch.equal(batch.labels == 1, changed)


def test_about_so_many_real_clips_become_fakes(faces: CropStore) -> None:
    clips = ClipSet(faces, _labelled(0, 0, 0, 1), augment=BLEND)
    made = np.mean([clips.labels_in(epoch)[:6] for epoch in range(200)])
    assert made == pytest.approx(clips.made_fake, abs=0.05)
    assert clips.made_fake == 0.5


def test_fakes_are_not_blended(faces: CropStore) -> None:
    clips = ClipSet(faces, _labelled(1, 1, 1, 1), augment=BLEND)
    assert torch.equal(clips.fetch(range(8)).clips, ClipSet(faces, _labelled(1, 1, 1, 1)).fetch(range(8)).clips)


def test_a_clip_without_landmarks_stays_real(faces: CropStore) -> None:
    clips = ClipSet(faces, _labelled(0, 0, 0, 0), augment=BLEND)
    assert sum(clips.labels_in(epoch)[6:].sum() for epoch in range(30)) == 0
    assert clips.made_fake == 0.5 * 6 / 8


def test_an_oval_needs_no_landmarks(faces: CropStore) -> None:
    oval = AugmentOptions(self_blend=0.5, self_blend_mask="oval")
    clips = ClipSet(faces, _labelled(0, 0, 0, 0), augment=oval)
    assert sum(clips.labels_in(epoch)[6:].sum() for epoch in range(30)) > 10


def test_the_labels_of_an_epoch_are_those_of_its_batches(faces: CropStore) -> None:
    clips = ClipSet(faces, _labelled(0, 1, 0, 0), augment=BLEND, seed=4)
    part = PartOfClips(clips, np.array([1, 2]))
    for epoch in (0, 7, 1):
        assert clips.fetch([5, 0, 3], epoch).labels.tolist() == clips.labels_in(epoch)[[5, 0, 3]].tolist()
        assert part.labels_in(epoch).tolist() == clips.labels_in(epoch)[2:6].tolist()


def test_blending_moves_no_other_change(faces: CropStore) -> None:
    both = replace(EVERYTHING, self_blend=0.5)
    first, second = (ClipSet(faces, _labelled(0, 0, 0, 0), augment=options) for options in (both, EVERYTHING))
    real = np.flatnonzero(first.labels_in(3) == 0).tolist()
    assert torch.equal(first.fetch(real, 3).clips, second.fetch(real, 3).clips)
    draws = [clips.fetch(range(8), 3).draws for clips in (first, second)]
    assert torch.equal(*draws)  # type: ignore[arg-type]


def test_landmarks_of_a_short_clip_are_filled_as_its_frames_are(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path)
    short = pack_landmarks(np.full((2, 1, 5, 2), 8, np.float32))
    writer.append({"sample_id": "s0", "status": "ok", "clips": 2, **_faces(0, True)}, _crops(0))
    writer.append({"sample_id": "s1", "status": "ok", "clips": 2, "landmarks": short}, _crops(1, frames=1))
    writer.close()
    table = pd.DataFrame({"sample_id": ["s0", "s1"], "label": [0, 0]})
    clips = ClipSet(CropStore(tmp_path, read_records(tmp_path)), table, augment=BLEND)
    assert {clips.fetch([2, 3], epoch).labels.sum().item() for epoch in range(8)} == {0.0, 1.0, 2.0}


def test_the_clips_of_each_face_are_told_apart(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path)
    writer.append({"sample_id": "two", "status": "ok", "clips": 2, "faces": [0, 1]}, _crops(1))
    writer.append({"sample_id": "one", "status": "ok", "clips": 2}, _crops(2))
    writer.close()
    store = CropStore(tmp_path, read_records(tmp_path))
    clips = ClipSet(store, _table("two", "one"))
    assert clips.faces is not None
    assert (clips.items.tolist(), clips.faces.tolist()) == ([[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 0, 0])
    trained = ClipSet(store, _table("two", "one"), augment=AugmentOptions())
    assert trained.items.tolist() == [[0, 0], [1, 0], [1, 1]]
    assert torch.equal(trained.fetch([0, 2]).clips, clips.fetch([0, 3]).clips)
    part = PartOfClips(clips, np.array([0]))
    assert part.faces is not None
    assert part.faces.tolist() == [0, 1]


def test_where_each_sample_has_one_face_none_is_told_apart(store: CropStore) -> None:
    assert ClipSet(store, _table("s0")).faces is None
