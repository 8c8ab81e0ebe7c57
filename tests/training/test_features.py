"""Stored features: what they depend on, that they are computed once, and that training on them changes no number."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from deepfake.errors import UserError
from deepfake.metrics import sample_metrics
from deepfake.models.detector import Detector
from deepfake.models.options import ConvLstm, Gru, HeadOptions, Lstm, Mean, Vit
from deepfake.training.checkpoint import BEST, LAST, load_weights
from deepfake.training.features import cache, feature_store
from deepfake.training.features.cache import FeatureCache
from deepfake.training.features.extract import FeatureReader, FeatureSet
from deepfake.training.features.feature_store import FeatureLayout
from deepfake.training.scoring import score
from tests.training.fakes import FakeClips, cpu, small_detector, tiny_detector
from tests.training.test_trainer import lasting, run

VIEWS = {"train": 3}


def frozen(head: HeadOptions | None = None, *, seed: int = 1, tiny: bool = False, reads: str | None = None) -> Detector:
    """A detector whose every backbone tensor is away from where it began, batch statistics included."""
    detector = tiny_detector(head or Mean(), 32) if tiny else small_detector(head)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in detector.backbone.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1 + 0.3 * torch.rand(tensor.shape, generator=generator)).add_(0.02)
    return Detector(detector.backbone, detector.head, reads or detector.reads, freeze=True)


def splits(**changes: Any) -> dict[str, FakeClips]:
    return {name: FakeClips(8, seed=seed, name=name, **changes) for seed, name in enumerate(("train", "val"))}


def contents(sources: dict[str, FakeClips]) -> dict[str, str]:
    return {name: f"pixels of {name}" for clips in sources.values() for name in clips.table["sample_id"]}


class Told:
    """A cache in a folder, and what it said."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.lines: list[str] = []
        self.cache = FeatureCache(folder, "small", changes.pop("fabric", cpu()), self.lines.append, **changes)

    def read(
        self, detector: Detector, sources: dict[str, FakeClips], **changes: Any
    ) -> tuple[FeatureReader, dict[str, FeatureSet]]:
        found = self.cache.read(detector, sources, contents(sources), **{"seed": 0, **changes})
        assert found is not None, self.lines
        return found

    @property
    def computed(self) -> int:
        return sum("computed once" in line for line in self.lines)


@pytest.mark.slow
@pytest.mark.parametrize("head", [Mean(dropout=0.2), Lstm(hidden=8), Vit(width=16, depth=1, heads=2)], ids=repr)
def test_cached_training_gives_the_numbers_of_uncached(tmp_path: Path, head: HeadOptions) -> None:
    sources = splits(size=32, frames=3, drawn=False)
    plain, detector = run(tmp_path / "a", frozen(head, tiny=True), **sources)
    reader, sets = Told(tmp_path / "cache").read(frozen(head, tiny=True), sources)
    fast, reader = run(tmp_path / "b", reader, **sets)  # type: ignore[assignment]
    for ours, theirs in zip(lasting(fast.history), lasting(plain.history), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert fast.best_epoch == plain.best_epoch
    one, two = (
        score(model, clips, fabric=cpu(), batch_size=8, split="val").samples
        for model, clips in ((detector, sources["val"]), (reader, sets["val"]))
    )
    assert one["score"].to_numpy() == pytest.approx(two["score"].to_numpy(), abs=1e-5)
    assert one.drop(columns="score").equals(two.drop(columns="score"))


def fabric_of(precision: str) -> Fabric:
    """A fabric on the CPU, in float16 too, which the trainer's options leave to devices that are made for it."""
    if precision != "fp16":
        return cpu(precision=precision)
    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[plugin])
    fabric.launch()
    return fabric


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32", "bf16", "fp16"])
@pytest.mark.parametrize(
    "head",
    [Mean(), Lstm(hidden=8), Gru(hidden=8), Vit(width=16, depth=1, heads=2), ConvLstm(hidden=4)],
    ids=lambda head: type(head).__name__,
)
def test_scores_of_a_cached_run_are_those_of_its_whole_detector(
    tmp_path: Path, head: HeadOptions, precision: str
) -> None:
    fabric = fabric_of(precision)
    sources = splits(size=32, frames=3, drawn=False)
    told = Told(tmp_path / "cache", fabric=fabric)
    reader, sets = told.read(frozen(head, tiny=True), sources)
    result, _ = run(tmp_path, reader, fabric=fabric, epochs=2, **sets)
    assert "val/roc_auc" in result.best_metrics
    logged = score(reader, sets["val"], fabric=fabric, batch_size=8, split="val")
    # As another command finds it: built anew, with the run's weights, on clips, in whatever precision is asked for.
    whole = tiny_detector(head, 32)
    load_weights(whole, tmp_path / "checkpoints" / BEST)
    evaluated = score(whole, sources["val"], fabric=cpu(), batch_size=5, split="val")
    wanted = evaluated.samples["score"].to_numpy()
    assert logged.samples["score"].to_numpy() == pytest.approx(wanted, abs=1e-5)
    values = sample_metrics(evaluated.samples).values | evaluated.frame_metrics().values
    assert sample_metrics(logged.samples).values | logged.frame_metrics().values == pytest.approx(values, abs=1e-5)


def test_what_is_saved_is_the_whole_detector(tmp_path: Path) -> None:
    sources = splits()
    reader, sets = Told(tmp_path / "cache").read(frozen(), sources)
    run(tmp_path, reader, **sets)
    fresh = small_detector().eval()
    load_weights(fresh, tmp_path / "checkpoints" / BEST)
    batch = sources["val"].fetch(range(4))
    features = sets["val"].fetch(range(4))
    reader.eval()
    torch.testing.assert_close(
        fresh(batch.clips, batch.mask).logits, reader(features.clips, features.mask).logits, rtol=1e-5, atol=1e-6
    )


def test_a_batch_of_features_is_what_the_backbone_gives(tmp_path: Path) -> None:
    sources = splits()
    detector = frozen()
    _, sets = Told(tmp_path).read(detector, sources)
    items = [5, 0, 5, 9]
    batch, features = sources["train"].fetch(items), sets["train"].fetch(items)
    wanted = detector.extract(batch.clips)
    torch.testing.assert_close(features.clips[batch.mask], wanted[batch.mask])
    for name in ("mask", "labels", "samples"):
        assert torch.equal(getattr(features, name), getattr(batch, name)), name


def test_a_short_clip_is_filled_up_with_its_last_frame(tmp_path: Path) -> None:
    sources = splits(frames=3)
    _, sets = Told(tmp_path).read(frozen(), sources)
    short = int(sources["train"].lengths.argmin())
    features = sets["train"].fetch([short])
    assert sources["train"].lengths[short] == 2
    assert torch.equal(features.clips[0, 2], features.clips[0, 1])


def test_features_are_computed_once_for_all_who_need_them(tmp_path: Path) -> None:
    first, second = Told(tmp_path), Told(tmp_path)
    first.read(frozen(), splits())
    second.read(frozen(Lstm(hidden=4)), splits())
    assert (first.computed, second.computed) == (1, 0)
    assert "features: read from" in second.lines[0]


def test_those_who_start_together_compute_once(tmp_path: Path) -> None:
    told = [Told(tmp_path) for _ in range(3)]
    threads = [threading.Thread(target=one.read, args=(frozen(), splits())) for one in told]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(one.computed for one in told) == 1
    assert all(one.cache.keys == told[0].cache.keys for one in told)


def test_what_a_process_holds_open_is_not_read_again(tmp_path: Path) -> None:
    held: dict[str, torch.Tensor] = {}

    def keep(key: str, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        return held[key] if key in held else held.setdefault(key, make())

    Told(tmp_path, keep=keep).read(frozen(), splits())
    again = Told(tmp_path, keep=keep)
    again.read(frozen(), splits())
    assert again.lines == []


def test_neither_labels_nor_splits_are_in_the_key() -> None:
    one = splits()
    both = {**contents(one)}
    other = splits()
    for clips in other.values():
        clips.labels = 1 - clips.labels
        clips.table["label"] = 1 - clips.table["label"]
    layout = FeatureLayout.of(list(one.values()), both, drawn=False)
    assert layout == FeatureLayout.of(list(other.values())[::-1], both, drawn=False)


def test_other_pixels_are_in_the_key() -> None:
    one = splits()
    changed = contents(one) | {one["val"].table["sample_id"].iloc[0]: "other pixels"}
    sources = list(one.values())
    assert (
        FeatureLayout.of(sources, contents(one), drawn=False).digest
        != FeatureLayout.of(sources, changed, drawn=False).digest
    )


@pytest.mark.parametrize(
    ("detector", "cache", "changes"),
    [
        ({"seed": 2}, {}, {}),
        ({"reads": "maps"}, {}, {}),
        ({}, {"fabric": cpu(precision="bf16")}, {}),
        ({}, {}, {"views": {"train": 3, "val": 3}, "changes": "flip"}),
    ],
    ids=["weights", "tap", "precision", "views"],
)
def test_whatever_changes_features_changes_the_key(tmp_path: Path, detector: Any, cache: Any, changes: Any) -> None:
    first, second = Told(tmp_path), Told(tmp_path, **cache)
    first.read(frozen(), splits())
    second.read(frozen(**detector), splits(), **changes)
    assert not set(first.cache.keys) & set(second.cache.keys)


def test_features_of_16_bits_stay_so(tmp_path: Path) -> None:
    reader, sets = Told(tmp_path, fabric=cpu(precision="bf16")).read(frozen(), splits())
    assert sets["train"].fetch([0]).clips.dtype == reader.dtype == torch.bfloat16
    # What a precision plugin made float32 on the way is what it was again.
    with torch.autocast("cpu", torch.bfloat16):
        assert reader.extract(torch.zeros(1, 2, 6)).dtype == torch.bfloat16


def test_features_that_are_scored_are_whole_whatever_trains(tmp_path: Path) -> None:
    sources, detector = splits(), frozen()
    _, sets = Told(tmp_path, fabric=cpu(precision="bf16")).read(detector, sources)
    batch, found = sources["val"].fetch(range(8)), sets["val"].fetch(range(8)).clips
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[batch.mask], detector.extract(batch.clips)[batch.mask], rtol=1e-5, atol=1e-6)


def test_where_training_is_exact_one_file_holds_all(tmp_path: Path) -> None:
    whole, short = Told(tmp_path), Told(tmp_path, fabric=cpu(precision="bf16"))
    whole.read(frozen(), splits())
    short.read(frozen(), splits())
    assert (len(whole.cache.keys), len(short.cache.keys)) == (1, 2)


def test_other_weights_are_computed_again_and_said(tmp_path: Path) -> None:
    Told(tmp_path).read(frozen(), splits())
    told = Told(tmp_path)
    told.read(frozen(seed=2), splits())
    assert "of other weights" in told.lines[0]
    assert told.computed == 1


def test_other_versions_are_computed_again_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Told(tmp_path).read(frozen(), splits())
    monkeypatch.setattr("deepfake.training.features.feature_store.version", lambda package: "99.0")
    told = Told(tmp_path)
    told.read(frozen(), splits())
    assert "of other versions" in told.lines[0]


def damage_size(folder: Path) -> None:
    data = (folder / feature_store.DATA).read_bytes()
    (folder / feature_store.DATA).write_bytes(data[:-100])


def damage_numbers(folder: Path) -> None:
    size = (folder / feature_store.DATA).stat().st_size
    (folder / feature_store.DATA).write_bytes(b"\x01" * size)


def damage_description(folder: Path) -> None:
    (folder / feature_store.META).write_text("{")


def damage_origin(folder: Path) -> None:
    meta = json.loads((folder / feature_store.META).read_text())
    meta["spec"]["weights"] = "others"
    (folder / feature_store.META).write_text(json.dumps(meta))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_size, "bytes instead of"),
        (damage_numbers, "recomputed clips differ"),
        (damage_description, "cannot be read"),
        (damage_origin, "of other weights"),
    ],
)
def test_a_damaged_file_is_computed_again_and_said(tmp_path: Path, damage: Any, said: str) -> None:
    detector, sources = frozen(), splits()
    first = Told(tmp_path)
    first.read(detector, sources)
    damage(tmp_path / first.cache.keys[0])
    again = Told(tmp_path)
    _, sets = again.read(detector, sources)
    assert said in again.lines[0]
    batch = sources["train"].fetch([3])
    torch.testing.assert_close(sets["train"].fetch([3]).clips[batch.mask], detector.extract(batch.clips)[batch.mask])


def test_a_full_disk_is_said_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    told = Told(tmp_path)
    assert told.cache.read(frozen(), splits(), contents(splits()), seed=0) is None
    assert "GB free: training goes on without stored features" in told.lines[0]
    assert list(tmp_path.glob("*/")) == list(tmp_path.glob(".*/")) == []


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = Told(tmp_path / "file")
    assert told.cache.read(frozen(), splits(), contents(splits()), seed=0) is None
    assert "cannot be kept" in told.lines[0]


def test_computing_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    detector = frozen()
    calls = iter(range(2))
    forward = detector.backbone.model.forward_features

    def stopping(x: torch.Tensor) -> torch.Tensor:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        features: torch.Tensor = forward(x)
        return features

    detector.backbone.model.forward_features = stopping
    with pytest.raises(KeyboardInterrupt):
        Told(tmp_path).read(detector, splits())
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_frames_that_do_not_fit_are_read_in_smaller_parts(tmp_path: Path) -> None:
    detector = frozen()
    forward = detector.backbone.model.forward_features

    def guarded(x: torch.Tensor) -> torch.Tensor:
        if len(x) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        features: torch.Tensor = forward(x)
        return features

    detector.backbone.model.forward_features = guarded
    _, sets = Told(tmp_path).read(detector, splits())
    assert len(sets["train"]) == 16


def test_features_that_do_not_fit_the_device_stay_in_their_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "device_room", lambda device: 100)
    told = Told(tmp_path, fabric=SimpleNamespace(device=torch.device("cuda")))
    stored = torch.zeros(1000)
    assert told.cache._on_device(stored) is stored
    assert "read from the memory map" in told.lines[0]


def test_a_trained_backbone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="need gradients") as raised:
        Told(tmp_path).read(small_detector(), splits())
    assert "backbone.freeze=true" in raised.value.hint


def test_batch_statistics_in_the_making_are_refused(tmp_path: Path) -> None:
    detector = frozen(tiny=True)
    detector.backbone.train()
    with pytest.raises(UserError, match="in training mode"):
        Told(tmp_path).read(detector, splits(size=32))


def test_a_split_without_clips_has_no_features(tmp_path: Path) -> None:
    sources = {"train": FakeClips(4), "val": FakeClips(0, name="val")}
    _, sets = Told(tmp_path).read(frozen(), sources)
    assert (len(sets["train"]), len(sets["val"])) == (8, 0)


def test_views_are_drawn_among_by_epoch_and_seed(tmp_path: Path) -> None:
    told = Told(tmp_path)
    (_, one), (_, two) = (told.read(frozen(), splits(), views=VIEWS, changes="flip", seed=seed) for seed in (0, 1))
    first = one["train"].fetch(range(16), 0).clips
    assert torch.equal(first, one["train"].fetch(range(16), 0).clips)
    assert not torch.equal(first, one["train"].fetch(range(16), 1).clips)
    assert not torch.equal(first, two["train"].fetch(range(16), 0).clips)


def test_every_view_is_drawn_and_is_a_changed_clip(tmp_path: Path) -> None:
    sources = splits()
    detector = frozen()
    _, sets = Told(tmp_path).read(detector, sources, views=VIEWS, changes="flip")
    seen = torch.stack([sets["train"].fetch([0], epoch).clips[0, 0] for epoch in range(30)])
    clip = sources["train"].fetch([0]).clips.float() / 255
    wanted = {tuple(detector.extract(changed)[0, 0].tolist()) for changed in (clip, clip.flip(-1))}
    assert {tuple(x) for x in torch.unique(seen, dim=0).tolist()} == wanted


def test_only_training_clips_have_views(tmp_path: Path) -> None:
    sources = splits()
    detector = frozen()
    _, sets = Told(tmp_path).read(detector, sources, views=VIEWS, changes="flip")
    batch = sources["val"].fetch([2])
    for epoch in range(4):
        torch.testing.assert_close(sets["val"].fetch([2], epoch).clips, detector.extract(batch.clips))


def test_a_cached_fit_that_is_resumed_ends_with_the_same_numbers(tmp_path: Path) -> None:
    sources = splits()
    reader, sets = Told(tmp_path / "cache").read(frozen(), sources)
    whole, _ = run(tmp_path / "whole", reader, epochs=4, **sets)

    def stop(epoch: int, metrics: dict[str, float]) -> None:
        if epoch == 2:
            raise InterruptedError

    begun, sets = Told(tmp_path / "cache").read(frozen(), sources)
    with pytest.raises(InterruptedError):
        run(tmp_path / "parts", begun, epochs=4, on_epoch=stop, **sets)
    again, sets = Told(tmp_path / "cache").read(frozen(), sources)
    resumed, _ = run(tmp_path / "parts", again, epochs=4, resume=True, **sets)
    assert lasting(resumed.history) == lasting(whole.history)


def test_the_state_between_epochs_leaves_a_frozen_backbone_out(tmp_path: Path) -> None:
    reader, sets = Told(tmp_path / "cache").read(frozen(), splits())
    run(tmp_path, reader, epochs=1, **sets)
    saved = torch.load(tmp_path / "checkpoints" / LAST, weights_only=True)["detector"]
    assert saved.keys() == {name for name in reader.state_dict() if name.startswith("head.")}


class Blended(FakeClips):
    """Real clips, of which each epoch makes another one a fake."""

    made_fake = 0.1

    def labels_in(self, epoch: int) -> np.ndarray:
        return np.where(np.arange(len(self)) == epoch, np.float32(1), self.labels)


def test_each_view_has_the_labels_it_was_read_with(tmp_path: Path) -> None:
    sources = {"train": Blended(8, only=0, name="train")}
    _, sets = Told(tmp_path).read(frozen(), sources, views=VIEWS, changes="blended")
    clips = sets["train"]
    for epoch in range(5):
        items = list(range(len(clips)))
        labels = clips.fetch(items, epoch).labels
        assert labels.tolist() == clips.labels_in(epoch).tolist()
        views = clips._view(epoch)
        assert labels.tolist() == [float(views[i] == i) for i in items]
    assert clips.made_fake == 0.1
