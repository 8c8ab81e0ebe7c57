"""A frozen detector and its splits to the same splits as features, computed where they are not stored yet.

Processes that need the same features at the same time compute them once: the others wait for the first.

Clips that are trained on have their features in the precision of training. Those of clips that are scored are computed
and kept in full precision, as scores that are kept always are: a cached run's metrics are those of its whole detector.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from lightning_fabric import Fabric
from torch import Tensor, nn

from deepfake.data.clips import ClipSource
from deepfake.errors import UserError
from deepfake.models.detector import Detector
from deepfake.progress import Progress
from deepfake.training.autotune import is_out_of_memory
from deepfake.training.features.extract import Extractor, FeatureReader, FeatureSet
from deepfake.training.features.feature_store import (
    FeatureLayout,
    FeatureSpec,
    FrameKind,
    NoRoomError,
    describe,
    open_features,
    trains_exactly,
    why_not_those_beside,
    write_features,
)
from deepfake.training.runtime import loader_workers

#: The fraction of a device's free memory that features may take.
_FRACTION = 0.5


@dataclass
class FeatureCache:
    """Where features are stored, and those that this process holds open.

    Attributes:
        folder: Gets a folder for each key.
        name: What the backbone is called.
        fabric: Device and precision, as in training.
        say: Told in a line what was done.
        progress: Told how far computing is.
        keep: Gives the features opened under a key before, or opens them: how a process keeps them for its next run.
        keys: Of all features that were read.
    """

    folder: Path
    name: str
    fabric: Fabric
    say: Callable[[str], None]
    progress: Progress | None = None
    keep: Callable[[str, Callable[[], Tensor]], Tensor] = lambda key, open_them: open_them()
    keys: list[str] = field(default_factory=list)

    def read(
        self,
        detector: Detector,
        splits: Mapping[str, ClipSource],
        contents: Mapping[str, str],
        *,
        seed: int,
        views: Mapping[str, int] | None = None,
        changes: str = "",
        trained: Collection[str] = ("train",),
    ) -> tuple[FeatureReader, dict[str, FeatureSet]] | None:
        """The splits as features, and the detector that reads them.

        Args:
            detector: Frozen; it is moved to the device.
            splits: Clips by split.
            contents: A digest of each sample's pixels and of how they were cut.
            seed: With epoch and clip, decides which view is read.
            views: How many changed versions of each clip to store, by split; 0 where it is not named.
            changes: How the clips of splits with views are changed.
            trained: Splits that are trained on; all others are scored.

        Returns:
            None where there is no room; that was said, and training can go on without.

        Raises:
            UserError: The backbone's outputs change as it trains; see :func:`check_frozen`.
        """
        check_frozen(detector)
        detector.to(self.fabric.device)
        found: dict[str, FeatureSet] = {}
        whole = trains_exactly(self.fabric)
        kinds = {name: ((views or {}).get(name, 0), whole or name not in trained) for name in splits}
        try:
            for count, exact in sorted(set(kinds.values())):
                group = {name: clips for name, clips in splits.items() if kinds[name] == (count, exact)}
                layout = FeatureLayout.of(list(group.values()), contents, drawn=count > 0)
                how = changes if count else ""
                spec = describe(detector, self.name, layout, self.fabric, views=count, changes=how, exact=exact)
                stored = self._stored(detector, list(group.values()), layout, spec, exact)
                found |= {name: FeatureSet(clips, stored, layout, seed) for name, clips in group.items()}
        except NoRoomError as error:
            self.say(f"{error}: training goes on without stored features")
            return None
        trained_on = (found[name] for name in trained if name in found and len(found[name]))
        return FeatureReader(detector, next((one.dtype for one in trained_on), torch.float32)), found

    def _stored(
        self, detector: Detector, sources: list[ClipSource], layout: FeatureLayout, spec: FeatureSpec, exact: bool
    ) -> Tensor:
        if layout.frames == 0:
            return torch.empty(0, 1)
        self.keys.append(spec.key)

        def open_them() -> Tensor:
            workers = loader_workers("auto", self.fabric)
            extractor = Extractor(detector, sources, layout, spec.views, self.fabric, workers, exact=exact)
            return self._on_device(self._locked(spec, extractor))

        return self.keep(spec.key, open_them)

    def _locked(self, spec: FeatureSpec, extractor: Extractor) -> Tensor:
        folder = self.folder / spec.key
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / f"{spec.key}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                self.say(f"waiting for another process that computes the features {spec.key}")
                lock.acquire()
        except OSError as error:
            raise NoRoomError(f"features cannot be kept in {self.folder}: {error.strerror or error}") from error
        with lock:
            stored = self._opened(folder, spec, extractor)
            return self._computed(folder, spec, extractor) if stored is None else stored

    def _opened(self, folder: Path, spec: FeatureSpec, extractor: Extractor) -> Tensor | None:
        stored, reason = open_features(folder, spec, extractor.frames)
        if stored is not None:
            off = extractor.deviation(stored)
            allowed = extractor.tolerance(FrameKind(tuple(stored.shape[1:]), stored.dtype))
            if off <= allowed:
                self.say(f"features: read from {folder} ({stored.nbytes / 1e6:.1f} MB)")
                return stored
            reason = f"recomputed clips differ by {off:.2g} of their norm, more than {allowed:g}"
        if reason:
            self.say(f"features: {folder} is computed again: {reason}")
        elif why := why_not_those_beside(folder, spec):
            self.say(f"features: computed again: {why}")
        return None

    def _computed(self, folder: Path, spec: FeatureSpec, extractor: Extractor) -> Tensor:
        kind = extractor.kind()
        write_features(folder, spec, extractor.frames, kind, lambda: extractor.all(self.progress))
        stored, reason = open_features(folder, spec, extractor.frames)
        if stored is None:
            raise NoRoomError(f"features in {folder} cannot be read back: {reason or 'they are gone'}")
        self.say(f"features: computed once for {extractor.frames} frames, {stored.nbytes / 1e6:.1f} MB in {folder}")
        return stored

    def _on_device(self, stored: Tensor) -> Tensor:
        """The features on the device where they fit, else the memory map."""
        device = self.fabric.device
        if device.type == "cpu":
            return stored
        free = device_room(device)
        if stored.nbytes <= _FRACTION * free:
            try:
                return stored.to(device)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
        self.say(
            f"features: {stored.nbytes / 1e9:.1f} GB do not fit beside the rest on {device} "
            f"({free / 1e9:.1f} GB free): read from the memory map"
        )
        return stored


def check_frozen(detector: Detector) -> None:
    """Refuse a backbone whose outputs change while the head trains.

    Raises:
        UserError: A parameter needs gradients, or a part is in training mode and so depends on the batch or on chance.
    """
    backbone = detector.backbone
    trained = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    if trained or not detector.freeze:
        what = f"{len(trained)} of the backbone's parameters need gradients, such as {trained[0]!r}" if trained else ""
        raise UserError(
            f"features=cached needs a frozen backbone: {what or 'it is not frozen'}",
            "set backbone.freeze=true to train the head alone, or features=none",
        )
    for name, module in backbone.named_modules():
        if module.training and isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):
            raise UserError(
                f"features=cached: {name!r} of the backbone is in training mode, so that features depend on the batch",
                "set backbone.freeze=true, which keeps the backbone as it is",
            )


def device_room(device: torch.device) -> int:
    """Free bytes of a device's memory; 0 where it does not tell."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 0
