"""What a run is made of: data set, detector, features, and what a process keeps from one trial for the next."""

from __future__ import annotations

import functools
import gc
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from deepfake.config import RunConfig
from deepfake.data.appearance import appearance
from deepfake.data.audit import VERSION, Audit, audit_dataset
from deepfake.data.augment import describe_changes
from deepfake.data.clips import ClipSet, ClipSource
from deepfake.data.crop_store import CropStore, open_store
from deepfake.data.dataset import read_dataset
from deepfake.data.manifest import SPLITS, Manifest
from deepfake.data.options import AugmentOptions
from deepfake.data.prepare import prepare_crops
from deepfake.errors import UserError
from deepfake.metrics import class_counts
from deepfake.runs.checks import check_landmarks
from deepfake.runs.console import Console
from deepfake.runs.context import RunContext
from deepfake.runs.solved import solved_without_faces, some_of, state_solved
from deepfake.tracking.run_folder import RunFolder, write_json
from deepfake.tracking.store import Store

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from deepfake.models.detector import Detector
    from deepfake.tracking.run import RunLog


T = TypeVar("T")

#: Of each kind a cache holds so many: the heads of a sweep need two kinds of clips and two layers of a backbone.
_SIZE = 2
#: In a run's folder: the samples, of any split, that could not be used.
FAILURES = "failures.csv"
#: Fixes the changed versions that are stored, so that runs of all seeds share them.
VIEW_SEED = 0
_AUDITED = ("sample_id", "dataset", "label", "method", "groups", "split")


class Cache:
    """In memory, the newest few things of each kind, by what they were made from.

    A single run has one of its own; the trials of a sweep share that of their process (:func:`process_cache`).
    """

    def __init__(self) -> None:
        self._kinds: dict[str, dict[str, Any]] = {}
        self._said: set[str] = set()

    def get(self, kind: str, key: str, make: Callable[[], T]) -> T:
        """The thing of this kind and key; made where it is not there, in the place of the one longest unused."""
        things = self._kinds.setdefault(kind, {})
        if key in things:
            things[key] = things.pop(key)
        else:
            # Room first: what is made may need the memory of what goes. (cachetools would make it before.)
            while len(things) >= _SIZE:
                del things[next(iter(things))]
            things[key] = make()
        found: T = things[key]
        return found

    def is_first(self, text: str) -> bool:
        """Whether none of the runs that share the cache has said this yet."""
        new = text not in self._said
        self._said.add(text)
        return new

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever asked of it."""
        return not self._kinds


@functools.cache
def freeze_heap() -> None:
    """Once, in a process that goes on to a second trial: no later garbage collection walks what is imported by now.

    Each full one would take half a second, for objects that live as long as the process.
    """
    gc.collect()
    gc.freeze()


@functools.cache
def process_cache() -> Cache:
    """The cache that the trials of this process share."""
    return Cache()


def samples_key(config: RunConfig) -> str:
    """What a manifest depends on, and whether it is good enough to be trained on."""
    parts = [asdict(config.dataset), asdict(config.demo), str(config.cache), config.augment.self_blend > 0]
    return json.dumps(parts, sort_keys=True, default=str)


def clips_key(config: RunConfig) -> str:
    """What prepared clips and their random changes depend on."""
    changed = [asdict(config.augment), config.seed, config.head.temporal, asdict(config.selection)]
    return samples_key(config) + json.dumps(changed, sort_keys=True)


@dataclass(frozen=True)
class Inputs:
    """What a run is to read in the place of what its config leads to.

    Attributes:
        manifest: The samples.
        crops: A crop store that holds them all; None prepares them from their files.
        features: The folder in which stored features are looked up; None for the one of the cache.
    """

    manifest: Manifest
    crops: Path | None = None
    features: Path | None = None


@dataclass
class Data:
    """What a run reads: which samples, their crops, what is wrong with them, and the clips of each split.

    Attributes:
        selected: What else it is chosen by, by name, and a digest of each of its samples.
    """

    manifest: Manifest
    store: CropStore
    audit: Audit
    splits: dict[str, ClipSource]
    selected: dict[str, tuple[ClipSource, Mapping[str, str]]] = field(default_factory=dict)


@dataclass
class Run:
    """A training run at work: what it is made of, its files, its tracking run and its console.

    Attributes:
        config: Typed and checked.
        context: Its folder, and what was typed.
        folder: The files in it.
        log: Its tracking run; without effect in any process but the first.
        console: Silent in any process but the first.
        fabric: Where it works.
        data: What it reads.
        detector: What it trains.
    """

    config: RunConfig
    context: RunContext
    folder: RunFolder
    log: RunLog
    console: Console
    fabric: Fabric
    data: Data
    detector: Detector


def failures(store: CropStore) -> pd.DataFrame:
    """The samples that gave no clips: status and reason by sample id."""
    return store.samples.loc[store.samples["status"] != "ok", ["status", "reason"]]


def describe_splits(manifest: Manifest) -> str:
    """One line: how many samples of which class lie in which split."""
    parts = []
    for name in SPLITS:
        counts = class_counts(manifest.split(name)["label"])
        parts.append(f"{name} {counts['real']} real + {counts['fake']} fake")
    return ", ".join(parts)


def read_manifest(config: RunConfig, console: Console) -> Manifest:
    """The manifest of the configured data set; what was noticed on the way is told."""
    makes_fakes = config.augment.self_blend > 0
    manifest = read_dataset(config.dataset, config.cache, config.demo, makes_fakes=makes_fakes)
    for note in manifest.notes:
        console.say(f"note: {note}")
    return manifest


def prepare(config: RunConfig, manifest: Manifest, console: Console, shard: tuple[int, int] = (0, 1)) -> CropStore:
    """Prepare the crops that are missing, with a progress bar; see :func:`deepfake.data.prepare.prepare_crops`.

    Temporal heads get consecutive frames, the others evenly spaced ones: two different stores.
    """
    with console.progress() as bar:
        return prepare_crops(
            manifest,
            config.dataset,
            config.head.temporal,
            config.cache,
            workers=config.dataset.workers,
            progress=bar,
            shard=shard,
            say=console.say,
        )


def audit(manifest: Manifest, store: CropStore) -> Audit:
    """What is wrong with the data set, and how far it is solved without a detector.

    Found once for the same samples in the same splits, and kept in the store.
    """
    samples = store.samples.reindex(manifest.table["sample_id"])
    digest = hashlib.sha256(f"{VERSION} {manifest.official}".encode())
    for table in (manifest.table[[*_AUDITED]], samples):
        digest.update(pd.util.hash_pandas_object(table.astype(str)).to_numpy().tobytes())
    file = store.path / "audits" / f"{digest.hexdigest()[:20]}.json"
    if not file.is_file():
        file.parent.mkdir(exist_ok=True)
        known = samples.dropna(subset="status")
        seen = appearance(store, some_of(known.index))
        found = audit_dataset(manifest, known.join(seen["colours"]))
        state_solved(found, solved_without_faces(manifest, known, seen))
        write_json(file, found.as_dict())
    return Audit.from_dict(json.loads(file.read_text(encoding="utf-8")))


def open_data(config: RunConfig, manifest: Manifest, console: Console, crops: Path | None = None) -> Data:
    """Prepare the crops that are missing and open them as clips; samples that cannot be used are named.

    Args:
        config: How to cut.
        manifest: The samples.
        console: Told what is done.
        crops: A store that holds all of them; no file is opened then.
    """
    store = prepare(config, manifest, console) if crops is None else open_store(crops, manifest)
    failed = failures(store)
    if not failed.empty:
        named = "; ".join(f"{row.Index}: {row.status}, {row.reason}" for row in failed.head(5).itertuples())
        console.warn(f"{len(failed)} of {len(store.samples)} samples cannot be used ({named}): see {FAILURES}")
    check_landmarks(config.augment, manifest.split("train"), store, console)
    status = store.samples["status"].rename("status")
    splits: dict[str, ClipSource] = {
        name: ClipSet(
            store,
            manifest.split(name).join(status, on="sample_id"),
            augment=config.augment if name == "train" else None,
            seed=config.seed,
        )
        for name in SPLITS
    }
    return Data(manifest, store, audit(manifest, store), splits)


def crops_read(data: Data) -> set[str]:
    """The keys of the crop stores that a run reads, before it reads features in their place."""
    stores = [getattr(clips, "store", None) for clips, _ in data.selected.values()]
    return {data.store.key, *(store.key for store in stores if isinstance(store, CropStore))}


def first_detector(config: RunConfig, store: Store, cache: Cache) -> Detector:
    """Build the configured detector with the weights it begins with.

    Args:
        config: ``trainer.init_from`` names a run, as :func:`deepfake.tracking.search.find_run` takes it, or a
            ``.safetensors`` file of one; all of its weights must fit.
        store: Where runs are remembered.
        cache: Keeps pretrained weights for the next trial.

    Raises:
        UserError: There is no such run, or its detector is another one.
    """
    from deepfake.models.detector import create_detector

    origin = config.trainer.init_from
    if origin is None:
        return create_detector(config.backbone, config.head, config.dataset.size, partial(cache.get, "weights"))
    path = Path(origin).expanduser()
    if path.suffix != ".safetensors":
        from deepfake.tracking.search import find_run

        path = find_run(origin, store, config.outputs).weights()
    detector = load_detector(config, path, anew=True)
    # Its backbone is that run's, whatever becomes of that.
    detector.based = False
    return detector


def load_detector(config: RunConfig, weights: Path, anew: bool = False) -> Detector:
    """The configured detector with the weights of a ``.safetensors`` file.

    Args:
        config: Of the detector.
        weights: The file.
        anew: Additions to a backbone may begin here, though those that the weights were trained with had none.

    Raises:
        UserError: They are another detector's, or a part whose pretrained rest cannot be had.
    """
    from deepfake.models.detector import create_detector
    from deepfake.training.checkpoint import base_digest, load_weights

    backbone = config.backbone
    whole = base_digest(weights) is None
    if whole:
        # All weights come from the file: none are fetched first to be overwritten.
        backbone = replace(backbone, pretrained=False, weights=None)
    try:
        detector = create_detector(backbone, config.head, config.dataset.size)
    except UserError as error:
        if whole:
            raise
        raise UserError(
            f"{weights} holds what was trained (backbone.tune={backbone.tune}), and the rest cannot be had: "
            f"{error.message}",
            "name the file of the backbone's weights with backbone.weights=PATH, or set HF_HOME to a Hugging Face "
            "cache that holds them",
        ) from error
    load_weights(detector, weights, detector.added if anew else ())
    return detector


def size_note(config: RunConfig) -> str:
    """What to say of weights that read images of another size than they were made for; empty where they do not."""
    backbone, size = config.backbone, config.backbone.size or config.dataset.size
    if config.trainer.init_from is not None or not (backbone.pretrained or backbone.weights):
        return ""
    from deepfake.models.backbone import made_for

    made = made_for(backbone.name)
    if made == size:
        return ""
    return f"{backbone.name} was made for images of {made} pixels and reads {size} here; dataset.size=auto takes {made}"


def prepare_reading(run: Run, cache: Cache, folder: Path | None = None) -> None:
    """Let a run read stored features in the place of clips where it may, else clips on the device where they fit.

    Args:
        run: Its detector and data are exchanged.
        cache: Keeps features for the next trial.
        folder: Where features are stored; None for the cache of its config.
    """
    if not run.config.features.cached:
        _move_clips(run)
        return
    import torch

    from deepfake.training.features.cache import FeatureCache

    config, data = run.config, run.data
    if config.trainer.channels_last:
        # As it will be trained: another order in memory is another order of summation.
        run.detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    views = config.features.views
    splits, changes = data.splits, ""
    if views is not None:
        drawn = ClipSet(data.store, splits["train"].table, augment=config.augment, seed=VIEW_SEED)
        splits, changes = {**splits, "train": drawn}, _changes_told(config.augment, drawn, views)
    with run.console.progress() as bar:
        keep = partial(cache.get, "features")
        stored = folder or config.cache / "features"
        features = FeatureCache(stored, config.backbone.name, run.fabric, run.console.say, bar, keep)
        found = features.read(
            run.detector,
            splits,
            data.store.contents,
            seed=config.seed,
            views={} if views is None else {"train": views},
            changes=changes,
        )
    if found is None:
        _move_clips(run)
        return
    whole, (run.detector, sets) = run.detector, found
    selected: dict[str, tuple[ClipSource, Mapping[str, str]]] = {}
    for name, (clips, contents) in data.selected.items():
        read = features.read(whole, {name: clips}, contents, seed=config.seed)
        if read is None:
            raise UserError(
                f"there is no room to store the features of {name}, by which selection chooses",
                "make room, or leave it out",
            )
        selected[name] = (read[1][name], contents)
    if run.fabric.is_global_zero:
        run.folder.write_features(features.keys)
    run.data = replace(data, splits=dict(sets), selected=selected)


def _changes_told(augment: AugmentOptions, clips: ClipSource, views: int) -> str:
    """All that decides how clips are changed in their views; which become fakes, their labels decide too."""
    told = {**describe_changes(augment), "seed": VIEW_SEED}
    if clips.made_fake:
        told["fakes"] = hashlib.sha256(b"".join(clips.labels_in(view).tobytes() for view in range(views))).hexdigest()
    return json.dumps(told, sort_keys=True)


def _move_clips(run: Run) -> None:
    from deepfake.training.autotune import to_device
    from deepfake.training.features.cache import device_room

    if run.config.dataset.on_device == "never":
        return
    device = run.fabric.device
    splits, note = to_device(run.data.splits, device, device_room(device))
    if note:
        run.console.say(note)
    # The data itself may lie in a cache, for runs on other devices.
    run.data = replace(run.data, splits=dict(splits))
