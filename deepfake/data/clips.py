"""Prepared crops into batches of clips, in the order asked for, read ahead by processes that live as long as the set.

Knows no file format, no model and no device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from deepfake.data.augment import Draw, change_pixels, changes_anything, draw, uses_device, uses_pixels
from deepfake.data.crop_store import CropStore
from deepfake.data.faces.base import Landmarks
from deepfake.data.frame_sampling import window
from deepfake.data.media import Pixels
from deepfake.data.options import AugmentOptions
from deepfake.data.self_blend import blend_clip, blended, draw_blend


@dataclass
class Batch:
    """Clips of one step, still uint8: they are normalised, flipped and coloured on the device.

    Attributes:
        clips: uint8 [B, T, C, H, W], RGB. A view of [B, T, H, W, C] memory, so it is channels-last already. Stored
            features [B, T, D] or [B, T, D, h, w] where a detector reads those instead.
        mask: bool [B, T]; False where a short sample was padded (by repeating its last frame).
        labels: float32 [B]; 1 is fake, a real clip that was made one too.
        samples: int64 [B]; the row of each clip's sample in its clip set's table.
        draws: float32 [B, 4] for training with device augmentation, else None: flip (0 or 1), and the
            factors for brightness, contrast and saturation (1 leaves the picture as it is).
        mix: float32 [B] for training with mixtures, else None: each clip's weight against the next one's.
    """

    clips: Tensor
    mask: Tensor
    labels: Tensor
    samples: Tensor
    draws: Tensor | None = None
    mix: Tensor | None = None

    def to(self, device: object, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)  # type: ignore[call-overload]

        return self._each(move)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; torch's DataLoader calls this."""

        def pin(tensor: Tensor) -> Tensor:
            # Only what is in the host's memory is pinned.
            return tensor.pin_memory() if tensor.device.type == "cpu" else tensor

        return self._each(pin)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return replace(self, **{name: change(held) for name, held in vars(self).items() if held is not None})


_Request = tuple[Sequence[int], int]


class ClipSource:
    """Base of what gives a split's clips, batch by batch.

    Attributes:
        table: One row per sample of the split, failed ones included, indexed from 0.
        items: int64 [n, 2]: each clip's row in ``table`` and its number within the sample; one item is one clip.
        labels: float32 [n]; 1 is fake.
        lengths: int64 [n]: how many frames of each clip are no fillers.
        made_fake: How many of the real clips are made fakes as they are read, as a fraction.
        faces: int64 [n]: which of its sample's faces each clip shows, 0 for the largest; None where each shows that.
    """

    #: Whether fetching costs next to nothing, or happens on the device, so that no process reads ahead.
    at_hand = False

    table: pd.DataFrame
    items: np.ndarray
    labels: np.ndarray
    lengths: np.ndarray
    made_fake: float = 0.0
    faces: np.ndarray | None = None

    _kept: _Ahead | None = None

    def __len__(self) -> int:
        """The number of clips."""
        return len(self.items)

    def labels_in(self, epoch: int) -> np.ndarray:
        """What the clips are as they are read in an epoch, float32 [n]: some real ones may be made fakes then."""
        return self.labels

    def fetch(self, items: Sequence[int], epoch: int = 0) -> Batch:
        """The clips of these items; random changes depend only on the source's seed, the epoch and the item."""
        raise NotImplementedError

    def read(
        self, batches: Sequence[Sequence[int]], epoch: int = 0, workers: int = 0, pin: bool = False
    ) -> Iterable[Batch]:
        """Batches in the order given.

        Args:
            batches: The items of each batch.
            epoch: Enters the random changes.
            workers: Processes that read ahead, kept for the next call with as many; 0 reads in this one, when asked.
            pin: Hand batches over in page-locked memory, for a faster way to a GPU.
        """
        if workers == 0 or self.at_hand:
            return _InProcess(self, batches, epoch, pin)
        if self._kept is None or self._kept.kind != (workers, pin):
            self.close()
            self._kept = _Ahead(self, workers, pin)
        return self._kept.of(batches, epoch)

    def describe_as(self, clips: ClipSource) -> None:
        """Take over another source's table, items, labels and lengths: the same clips, held in another form."""
        self.table, self.items, self.labels, self.lengths = clips.table, clips.items, clips.labels, clips.lengths
        self.made_fake, self.faces = clips.made_fake, clips.faces

    def close(self) -> None:
        """End the processes that read ahead; reading again starts new ones."""
        self._kept = None

    def __getstate__(self) -> dict[str, Any]:
        # What travels to a loader process must not bring the processes along.
        return {**self.__dict__, "_kept": None}


class _Ahead:
    """Loader processes and the batches they are asked for."""

    def __init__(self, clips: ClipSource, workers: int, pin: bool) -> None:
        self.kind = (workers, pin)
        self._asked: list[_Request] = []
        self._loader = DataLoader(
            _Requests(clips),
            sampler=_Sampler(self._asked),
            batch_size=None,  # a request is a batch already
            num_workers=workers,
            pin_memory=pin,
            prefetch_factor=2,
            persistent_workers=True,
        )

    def of(self, batches: Sequence[Sequence[int]], epoch: int) -> Iterable[Batch]:
        """These batches; what was asked for before and not taken is dropped."""
        self._asked[:] = [(items, epoch) for items in batches]
        return self._loader


class _Sampler:
    """What is asked for now."""

    def __init__(self, asked: list[_Request]) -> None:
        self._asked = asked

    def __len__(self) -> int:
        return len(self._asked)

    def __iter__(self) -> Iterator[_Request]:
        return iter(list(self._asked))


class _Requests(Dataset[Batch]):
    """Each index says all that a process needs to know, so that it can outlive an epoch."""

    def __init__(self, clips: ClipSource) -> None:
        self._clips = clips

    def __getitem__(self, request: _Request) -> Batch:
        items, epoch = request
        return self._clips.fetch(items, epoch)


class _InProcess:
    """A plain loop that can be run through more than once."""

    def __init__(self, clips: ClipSource, batches: Sequence[Sequence[int]], epoch: int, pin: bool) -> None:
        self._clips = clips
        self._batches = batches
        self._epoch = epoch
        self._pin = pin

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for items in self._batches:
            batch = self._clips.fetch(items, self._epoch)
            yield batch.pin_memory() if self._pin else batch


class ClipSet(ClipSource):
    """The clips of some samples, read from a crop store a batch at a time.

    Args:
        store: Where their crops are.
        table: Manifest rows; those that could not be prepared are kept, and give no clips.
        augment: Random changes, for training; None leaves clips as they are. Where clips are trained on, a sample's
            largest face is all there is: whoever else is in a fake need not be one.
        seed: Of the random changes.

    Attributes:
        table: The rows, indexed from 0, with a ``status``: ``ok``, or why a sample gives no clips.
        shape: T, H, W, C of a clip; the longest in the set, shorter ones are filled up.
        slack: Frames that the store keeps of each run beyond T.
    """

    def __init__(
        self, store: CropStore, table: pd.DataFrame, *, augment: AugmentOptions | None = None, seed: int = 0
    ) -> None:
        self.store = store
        self.table = table.reset_index(drop=True)
        self.seed = seed
        self.augment = augment
        rows = [(row, store.records.get(key)) for row, key in enumerate(self.table["sample_id"])]
        self.table["status"] = ["missing" if record is None else record["status"] for _, record in rows]
        ready = [(row, record) for row, record in rows if record is not None and record["status"] == "ok"]
        self.slack = store.slack
        kept, *rest = map(max, zip(*(r["shape"][1:] for _, r in ready), strict=True)) if ready else (0, 0, 0, 3)
        self.shape = (_without_slack(kept, self.slack), *rest)
        # Where each item lies, as plain arrays: part, first byte, bytes, frames that are no fillers.
        self._parts = sorted({record["part"] for _, record in ready})
        numbers = {part: i for i, part in enumerate(self._parts)}
        counts = np.array([record["clips"] for _, record in ready], np.int64)
        first = np.cumsum(counts) - counts
        clip = np.arange(counts.sum()) - np.repeat(first, counts)
        self.items = np.stack([_repeat([row for row, _ in ready], counts), clip], 1)
        self.labels = self.table["label"].to_numpy(np.float32)[self.items[:, 0]]
        self._part = _repeat([numbers[record["part"]] for _, record in ready], counts)
        self._size = _repeat([math.prod(record["shape"][1:]) for _, record in ready], counts)
        self._start = _repeat([record["offset"] for _, record in ready], counts) + self._size * clip
        self._runs = np.array([length for _, record in ready for length in record["lengths"]], np.int64)
        self._frames = _repeat([_without_slack(record["shape"][1], self.slack) for _, record in ready], counts)
        if any("faces" in record for _, record in ready):
            shown = [face for _, record in ready for face in record.get("faces", [0] * record["clips"])]
            self.faces = np.array(shown, np.int64)
            if augment is not None:
                self._keep(self.faces == 0)
        self.lengths = np.minimum(self._runs, self._frames)
        self._faces: dict[int, Landmarks] = {}
        self._may_blend = np.zeros(len(self.labels), bool)
        self._made: tuple[int, np.ndarray] = (-1, self._may_blend)
        if augment is not None and augment.self_blend:
            self._prepare_blending(augment)

    def _keep(self, kept: np.ndarray) -> None:
        """Leave out all but some items, bool [n]."""
        for name in ("items", "labels", "faces", "_part", "_size", "_start", "_runs", "_frames"):
            setattr(self, name, getattr(self, name)[kept])

    def _prepare_blending(self, augment: AugmentOptions) -> None:
        """Find the clips that may become fakes: real ones, whose face is known where the mask goes with it."""
        self._may_blend = self.labels == 0
        if augment.self_blend_mask == "landmarks":
            names = self.table["sample_id"].to_numpy()
            reals = np.unique(self.items[self._may_blend, 0]).tolist()
            found = {row: self.store.landmarks(names[row]) for row in reals}
            self._faces = {row: points for row, points in found.items() if points is not None}
            self._may_blend &= np.isin(self.items[:, 0], [*self._faces])
        reals_here = max(int(np.count_nonzero(self.labels == 0)), 1)
        self.made_fake = augment.self_blend * int(np.count_nonzero(self._may_blend)) / reals_here

    def labels_in(self, epoch: int) -> np.ndarray:
        """See :meth:`ClipSource.labels_in`."""
        return np.where(self._blended(epoch), np.float32(1), self.labels)

    def _blended(self, epoch: int) -> np.ndarray:
        """Which items are made fakes in an epoch, bool [n]."""
        if self._made[0] != epoch and self.augment is not None and self.augment.self_blend:
            chosen = blended(self.augment, self.seed, epoch, len(self)) & self._may_blend
            self._made = (epoch, chosen)
        return self._made[1]

    def fetch(self, items: Sequence[int] | np.ndarray, epoch: int = 0) -> Batch:
        """Gather clips and change them at random; an item's changes depend on (seed, epoch, item) only."""
        chosen = np.asarray(items, np.int64)
        drawn, made = self.draw(chosen, epoch), self._blended(epoch)[chosen]
        pixels = self.pixels(chosen, drawn)
        for place in np.flatnonzero(made).tolist():
            self._blend(pixels.numpy()[place], int(chosen[place]), epoch, drawn[place])
        for clip, one in zip(pixels.numpy(), drawn, strict=bool(drawn)):
            if one.changes_pixels:
                change_pixels(clip, one)
        batch = self.batch(chosen, pixels, drawn)
        return replace(batch, labels=batch.labels.masked_fill(torch.from_numpy(made), 1.0)) if made.any() else batch

    def _blend(self, clip: Pixels, item: int, epoch: int, drawn: Draw) -> None:
        assert self.augment is not None
        row, number = self.items[item].tolist()
        points = None
        if row in self._faces:
            points = self._faces[row][number][self._window(item, drawn)]
            points = np.pad(points, ((0, len(clip) - len(points)), (0, 0), (0, 0)), "edge")
        blend_clip(clip, draw_blend(self.augment, self.seed, epoch, item), points)

    @property
    def changes_pixels(self) -> bool:
        """Whether random changes are done here, before the device."""
        return self.augment is not None and (self._moves or uses_pixels(self.augment))

    def pixels(self, items: np.ndarray, drawn: Sequence[Draw] = ()) -> torch.Tensor:
        """Clips uint8 [B, T, H, W, C] as they are in the store, of those frames of each run that were drawn."""
        # numpy asks the kernel for huge pages, torch does not: a batch is fresh memory, and 4 KiB page faults would
        # cost more than the copy.
        pixels = np.empty((len(items), *self.shape), np.uint8)
        self._gather(items, pixels, drawn)
        return torch.from_numpy(pixels)

    def draw(self, items: np.ndarray, epoch: int) -> list[Draw]:
        """What happens to each of these items in an epoch; an empty list where nothing ever does."""
        if self.augment is None or not (self._moves or changes_anything(self.augment)):
            return []
        return [draw(self.augment, self.seed, epoch, item) for item in items.tolist()]

    def batch(self, items: np.ndarray, pixels: torch.Tensor, drawn: list[Draw]) -> Batch:
        """Clips [B, T, H, W, C] with all that belongs to them; what is drawn for the device is not done yet."""
        later = drawn and self.augment is not None and uses_device(self.augment)
        return Batch(
            clips=pixels.permute(0, 1, 4, 2, 3),
            mask=torch.from_numpy(np.arange(self.shape[0]) < self.lengths[items][:, None]),
            labels=torch.from_numpy(self.labels[items]),
            samples=torch.from_numpy(self.items[items, 0]),
            draws=torch.from_numpy(np.stack([one.device for one in drawn])) if later else None,
            mix=torch.tensor([one.mix for one in drawn]) if self.augment is not None and self.augment.mixup else None,
        )

    def __getitem__(self, item: int) -> Batch:
        """One clip, unchanged at random only where ``augment`` is None; for looking at."""
        return self.fetch([item])

    @property
    def _moves(self) -> bool:
        """Whether clips begin elsewhere, or go at another pace, in each epoch."""
        return self.augment is not None and (self.slack > 0 or self.augment.speed > 0)

    def _window(self, item: int, drawn: Draw | None) -> np.ndarray:
        """Which frames of its run a clip shows, int64 [frames]."""
        how = (drawn.start, drawn.speed) if drawn is not None and self._moves else ()
        return window(int(self._runs[item]), int(self._frames[item]), *how)

    def _gather(self, chosen: np.ndarray, out: Pixels, drawn: Sequence[Draw]) -> None:
        flat = out.reshape(len(chosen), -1)
        one = flat.shape[1] // max(out.shape[1], 1)
        for place, item in enumerate(chosen.tolist()):
            start, size, frames = int(self._start[item]), int(self._size[item]), int(self._frames[item])
            run = self.store.pixels(self._parts[self._part[item]])[start : start + size]
            if self._moves or size != frames * one:
                run = run.reshape(-1, one)[self._window(item, drawn[place] if drawn else None)].reshape(-1)
            flat[place, : frames * one] = run
            out[place, frames:] = out[place, frames - 1]


class PartOfClips(ClipSource):
    """Some samples of a source, with the very changes that they have there.

    Args:
        clips: The source.
        rows: Which rows of its table.
    """

    def __init__(self, clips: ClipSource, rows: np.ndarray) -> None:
        self._clips = clips
        self.at_hand = clips.at_hand
        self._chosen = np.flatnonzero(np.isin(clips.items[:, 0], rows))
        self.table = clips.table.iloc[rows].reset_index(drop=True)
        place = np.full(len(clips.table), -1, np.int64)
        place[rows] = np.arange(len(rows))
        self._rows = torch.from_numpy(place)
        self.items = clips.items[self._chosen].copy()
        self.items[:, 0] = place[self.items[:, 0]]
        self.labels, self.lengths = clips.labels[self._chosen], clips.lengths[self._chosen]
        self.made_fake = clips.made_fake
        self.faces = None if clips.faces is None else clips.faces[self._chosen]

    def labels_in(self, epoch: int) -> np.ndarray:
        """See :meth:`ClipSource.labels_in`."""
        return self._clips.labels_in(epoch)[self._chosen]

    def fetch(self, items: Sequence[int], epoch: int = 0) -> Batch:
        """The clips of these items, as the source has them in that epoch."""
        batch = self._clips.fetch(self._chosen[np.asarray(items, np.int64)].tolist(), epoch)
        return replace(batch, samples=self._rows.to(batch.samples.device)[batch.samples])


def _without_slack(kept: int, slack: int) -> int:
    """Frames of a clip, of the frames that are kept of it; an image has one, whatever the slack."""
    return kept - slack if kept > slack else kept


def _repeat(values: list[int], counts: np.ndarray) -> np.ndarray:
    """Each sample's value once for each of its clips, int64 [items]."""
    return np.repeat(np.array(values, np.int64), counts)
