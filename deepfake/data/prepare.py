"""A manifest into a crop store: what is missing is prepared, what is there is reused. Knows no model.

The store's name is a digest of how its crops were cut and of the folders they came from; samples within it are told
apart by id and content, so that a subset or superset of a data set finds what is already there."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout

from deepfake.data.crop_records import Record, StoreWriter, read_records
from deepfake.data.crop_store import CropStore, create_store
from deepfake.data.cropping import CutSettings
from deepfake.data.dataset import settle_faces
from deepfake.data.faces import find_face_model
from deepfake.data.frame_sampling import ClipPlan
from deepfake.data.manifest import Manifest, plain_path
from deepfake.data.options import DatasetOptions
from deepfake.data.prepare_worker import Job, stamp
from deepfake.data.worker_pool import prepare_jobs
from deepfake.errors import DataError
from deepfake.presence import at_work
from deepfake.progress import Progress, bar

_SPARE = 256 << 20  # bytes left free on the disk
_PASSING = (
    "crashed",
    "unreadable",
    "timeout",
)  # may be the machine's fault rather than the file's: tried again each time


def prepare_crops(
    manifest: Manifest,
    options: DatasetOptions,
    temporal: bool,
    cache: Path,
    *,
    workers: int | str = "auto",
    progress: Progress | None = None,
    shard: tuple[int, int] = (0, 1),
    say: Callable[[str], None] | None = None,
) -> CropStore:
    """Decode, find faces and cut, for every sample that is not yet in the store.

    Args:
        manifest: The samples.
        options: How to cut, and which fraction of the samples may fail.
        temporal: Whether clips are runs of consecutive frames; see :class:`deepfake.data.frame_sampling.ClipPlan`.
        cache: Where stores are kept, each in ``crops/<key>``.
        workers: Processes; ``auto`` takes one for each core. 0 works in this one, which a decoder that crashes ends.
        progress: Told of every sample.
        shard: ``(i, n)``: this machine prepares the samples i, i + n, i + 2n, ...
        say: Told in a line what will be done, or what is waited for.

    Returns:
        The store, opened on the samples of the manifest (of this shard).

    Raises:
        DataError: No room on the disk, or more than ``options.max_failed`` of the samples cannot be used; what
            was prepared is kept.
    """
    table = manifest.table.iloc[shard[0] :: shard[1]]
    settings = cut_settings(options, temporal, cache)
    folder = create_store(manifest, settings, cache)
    tell = say or (lambda text: None)
    with at_work(folder):
        # One that was removed before anybody was noticed in it.
        create_store(manifest, settings, cache)
        with _locked(folder, shard, tell):
            records = read_records(folder)
            settled = {key: record for key, record in records.items() if record["status"] not in _PASSING}
            jobs = [replace(job, seconds=options.file_timeout) for job in _missing(manifest, table, folder, settled)]
            if jobs:
                _check_room(folder, jobs, settings)
                tell(_plan_told(jobs, folder, settings))
                prepare_jobs(jobs, folder, settings, workers, progress)
                records = read_records(folder)
        store = _opened(folder, table, records)
    _check_failures(store, options.max_failed)
    return store


def cut_settings(options: DatasetOptions, temporal: bool, cache: Path) -> CutSettings:
    """The part of the options that changes pixels; what a mode does not read is left at rest."""
    options = settle_faces(options)
    finds = options.faces not in ("center", "none")
    model = find_face_model(options, cache)
    moved = "dataset.view=patches" if options.view == "patches" else "dataset.box=clip" if options.box == "clip" else ""
    if moved and options.align and finds:
        raise DataError(f"{moved} cannot be had of faces that are turned upright", "set dataset.align=false")
    steady = options.box == "clip" and temporal and finds and options.view == "face"
    return CutSettings(
        plan=ClipPlan.of(options, temporal),
        faces=options.faces,
        face_model=None if model is None else str(model.absolute()),
        margin=options.margin if finds else 0.0,
        size=options.size,
        align=options.align and finds,
        normalise=options.normalise_format,
        box="clip" if steady else "frame",
        view=options.view,
        max_faces=options.max_faces if finds else 1,
    )


@contextmanager
def _locked(folder: Path, shard: tuple[int, int], say: Callable[[str], None]) -> Iterator[None]:
    """The store, or the part of it that is this machine's, for one process at a time."""
    lock = FileLock(folder / f"shard-{shard[0]}-of-{shard[1]}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"waiting for another process that prepares {folder}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _missing(manifest: Manifest, table: pd.DataFrame, folder: Path, records: dict[str, Record]) -> list[Job]:
    """The samples that are not in the store, or whose files have changed since.

    A file with another time of change but the same content is the same; its new time is noted, so that it is
    read through once only.
    """
    roots = {name: str(root) for name, root in manifest.roots.items()}
    jobs = []
    with closing(StoreWriter(folder)) as writer:
        originals = table.get("original", pd.Series("", index=table.index))
        columns = table[["sample_id", "path", "kind", "dataset"]].assign(original=originals.fillna(""))
        for row in columns.itertuples(index=False):
            file = os.path.join(roots[str(row.dataset)], plain_path(str(row.path)))
            record = records.get(str(row.sample_id))
            if record is None or not _unchanged(file, record, writer):
                jobs.append(Job(str(row.sample_id), Path(file), str(row.kind), str(row.original)))
    return jobs


def _unchanged(file: str, record: Record, writer: StoreWriter) -> bool:
    try:
        facts = os.stat(file)
    except (OSError, ValueError):
        return bool(record["bytes"] == -1)
    if not stat.S_ISREG(facts.st_mode):
        return bool(record["bytes"] == -1)
    if facts.st_size != record["bytes"]:
        return False
    if facts.st_mtime_ns == record["mtime"]:
        return True
    now = stamp(Path(file))
    if now["sha256"] != record["sha256"]:
        return False
    writer.append({**record, **now}, None)
    return True


def _check_room(folder: Path, jobs: list[Job], settings: CutSettings) -> None:
    """Refuse to begin what the disk cannot hold."""
    needed, free = needed_bytes(jobs, settings), shutil.disk_usage(folder).free
    if needed + _SPARE > free:
        raise DataError(
            f"the crops of {len(jobs)} samples need {needed / 1e9:.2f} GB in {folder}, and {_SPARE / 1e9:.2f} GB are "
            f"to stay free; {free / 1e9:.2f} GB are free",
            "free some room (deepfake prepare --prune), set paths.outputs= to a larger disk, or lower dataset.size, "
            "dataset.frames or dataset.clips",
        )


def needed_bytes(jobs: Iterable[Job], settings: CutSettings) -> int:
    """What the crops of these samples take at most."""
    frame = settings.max_faces * settings.size**2 * 3
    video = settings.plan.clips * settings.plan.length * frame
    image = settings.plan.clips * frame if settings.view == "patches" else frame
    return sum(video if job.kind == "video" else image for job in jobs)


def _plan_told(jobs: list[Job], folder: Path, settings: CutSettings) -> str:
    needed, free = needed_bytes(jobs, settings) / 1e9, shutil.disk_usage(folder).free / 1e9
    return f"preparing {len(jobs)} samples: at most {needed:.2f} GB in {folder} ({free:.0f} GB free)"


def _opened(folder: Path, table: pd.DataFrame, records: dict[str, Record]) -> CropStore:
    return CropStore(folder, {key: records[key] for key in table["sample_id"] if key in records})


def _check_failures(store: CropStore, most: float) -> None:
    failed = store.samples[store.samples["status"] != "ok"]
    if len(failed) > most * len(store.samples):
        named = "; ".join(f"{row.Index}: {row.status} {row.reason}" for row in failed.head(5).itertuples())
        raise DataError(
            f"{len(failed)} of {len(store.samples)} samples cannot be used, more than dataset.max_failed={most:g}: "
            f"{named}",
            "look at the files named, try another dataset.faces, or raise dataset.max_failed",
        )


_THREADS = 8


def known_digests(manifest: Manifest, records: Mapping[str, Record]) -> Manifest:
    """The manifest with the digests that a store noted when it read the files; no file is read.

    Args:
        manifest: Its own digests are kept.
        records: By sample id, of a store that was prepared from these files.
    """
    found = [
        own or str(records.get(name, {}).get("sha256", ""))
        for name, own in zip(manifest.table["sample_id"], manifest.table["sha256"], strict=True)
    ]
    return replace(manifest, table=manifest.table.assign(sha256=pd.Series(found, manifest.table.index, dtype=object)))


def digest_files(manifest: Manifest, records: Mapping[str, Record], progress: Progress | None = None) -> Manifest:
    """The manifest with the size and digest of every file as it is now; a missing one has -1 bytes and none.

    Args:
        manifest: Whose files; what it says of their content is not believed.
        records: By sample id: a file of a record's size and time of change is not read again.
        progress: Told of every file.
    """
    rows = manifest.table[["sample_id", "dataset", "path"]].itertuples(index=False)
    files = [(str(row.sample_id), manifest.file(str(row.dataset), str(row.path))) for row in rows]
    found = []
    # Reading and hashing both let other threads work.
    with bar(progress, len(files), "comparing files") as compared, ThreadPoolExecutor(_THREADS) as pool:
        for facts in pool.map(lambda pair: _facts(pair[1], records.get(pair[0])), files):
            found.append(facts)
            compared.advance()
    table = manifest.table.assign(
        bytes=pd.Series([facts["bytes"] for facts in found], manifest.table.index, dtype="int64"),
        sha256=pd.Series([facts["sha256"] for facts in found], manifest.table.index, dtype=object),
    )
    return replace(manifest, table=table)


def _facts(file: Path, record: Record | None) -> Record:
    if record is not None:
        try:
            facts = os.stat(file)
        except OSError:
            return stamp(file)
        if record["sha256"] and (facts.st_size, facts.st_mtime_ns) == (record["bytes"], record["mtime"]):
            return record
    return stamp(file)
