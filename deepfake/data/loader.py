"""Batches of a clip set in the order asked for, read ahead by processes that live as long as the set.

Knows only that a set can fetch the clips of some items.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset

from deepfake.data.batch import Batch

_Request = tuple[Sequence[int], int]


class Readable:
    """Base of clip sets: what they fetch, batch by batch."""

    #: Whether fetching costs next to nothing, or happens on the device, so that no process reads ahead.
    at_hand = False

    _kept: _Ahead | None = None

    def fetch(self, items: Sequence[int], epoch: int = 0) -> Batch:
        """The clips of these items."""
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

    def close(self) -> None:
        """End the processes that read ahead; reading again starts new ones."""
        self._kept = None

    def __getstate__(self) -> dict[str, Any]:
        # What travels to a loader process must not bring the processes along.
        return {**self.__dict__, "_kept": None}


class _Ahead:
    """Loader processes and the batches they are asked for."""

    def __init__(self, clips: Readable, workers: int, pin: bool) -> None:
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

    def __init__(self, clips: Readable) -> None:
        self._clips = clips

    def __getitem__(self, request: _Request) -> Batch:
        items, epoch = request
        return self._clips.fetch(items, epoch)


class _InProcess:
    """A plain loop that can be run through more than once."""

    def __init__(self, clips: Readable, batches: Sequence[Sequence[int]], epoch: int, pin: bool) -> None:
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
