"""A run of the past into a capsule: its record, its code and environment, its ancestors and, where asked, its data.

Reads a run's files wherever they still are; writes one archive, whole or not at all. The same run makes the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from deepfake import __version__
from deepfake.config import RunConfig, load_values
from deepfake.data.crop_records import Record, read_frames, read_records
from deepfake.data.manifest import Manifest
from deepfake.errors import DataError, UserError, naming
from deepfake.files import appearing
from deepfake.installation import CHECKOUT, PACKAGE
from deepfake.runs.build import load_detector
from deepfake.runs.capsules import (
    ANCESTORS,
    CODE,
    CROPS,
    ENVIRONMENT,
    FEATURES,
    FORMAT,
    KIND,
    LISTING,
    LONE_WEIGHTS,
    MORE,
    MOST_RATIO,
    RECORD,
    RECORD_KEYS,
    RUN,
)
from deepfake.tracking import run_folder as files
from deepfake.tracking.provenance import code_digests
from deepfake.tracking.run_record import RunRecord
from deepfake.tracking.search import find_run
from deepfake.tracking.store import Store

_PACKAGE = "deepfake-sweeps"
#: A run's parent, its parent's parent and so on: more than anybody trains on one another.
_MOST_ANCESTORS = 20
#: Bytes of one file of code that is in no commit, and of all of them.
_MOST_CODE, _MOST_CODES = 256 << 10, 1 << 20
_BLOCK = 1 << 20
_DATE = (1980, 1, 1, 0, 0, 0)
#: What compresses hardly, and is large.
_AS_IT_IS = (".u8", ".bin", ".safetensors")

#: What a member is made of: a file, bytes, or what writes them.
Source = Path | bytes | Callable[[IO[bytes]], None]


@dataclass
class Contents:
    """What a capsule is to hold.

    Attributes:
        members: By name.
        ancestors: As its listing holds them.
        missing: What it does not bring, a line each.
    """

    members: dict[str, Source] = field(default_factory=dict)
    ancestors: list[dict[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def collect(record: RunRecord, store: Store, outputs: Path, *, weights: bool, data: bool) -> Contents:
    """All that a capsule of a run holds.

    Args:
        record: The run, which has a result.
        store: Where its ancestors are looked up.
        outputs: In whose cache its crops and features are.
        weights: Whether to bring its weights.
        data: Whether to bring the crops that it read and, of a run on stored features, these.

    Raises:
        UserError: A file of the run is gone or damaged, or what it read is not in the cache any more.
    """
    contents = Contents()
    _add_run(record, RUN, contents, weights)
    _add_code(record, contents)
    _add_environment(record, contents)
    _add_ancestors(record, store, outputs, contents)
    if data:
        _add_data(record, outputs / "cache", contents)
    return contents


def write_capsule(record: RunRecord, contents: Contents, target: Path) -> int:
    """Write the archive; it appears whole or not at all.

    Returns:
        Its size in bytes.
    """
    table = record.manifest("sha256", "bytes", "label", "split")
    git = record.provenance().get("git") or {}
    listing: dict[str, Any] = {
        "kind": KIND,
        "format": FORMAT,
        "version": __version__,
        "run": {"name": record.name, "run_id": record.run_id, "commit": git.get("commit")},
        "data": {"samples": len(table), "digest": Manifest(table, {}).content_digest()},
        "ancestors": contents.ancestors,
        "missing": contents.missing,
    }
    with appearing(target) as half, naming(target), zipfile.ZipFile(half, "x") as archive:
        listing["members"] = {name: _add(archive, name, source) for name, source in contents.members.items()}
        text = json.dumps(listing, indent=2, ensure_ascii=False).encode()
        archive.writestr(zipfile.ZipInfo(LISTING, _DATE), text, zipfile.ZIP_DEFLATED)
    return target.stat().st_size


def _add(archive: zipfile.ZipFile, name: str, source: Source) -> dict[str, object]:
    info = zipfile.ZipInfo(name, _DATE)
    info.external_attr = 0o100644 << 16
    info.compress_type = zipfile.ZIP_STORED if name.endswith(_AS_IT_IS) else _compression(source)
    with archive.open(info, "w", force_zip64=True) as stream:
        counted = _Counted(stream)
        if callable(source):
            source(counted)  # type: ignore[arg-type]
        elif isinstance(source, bytes):
            counted.write(source)
        else:
            with open(source, "rb") as file:
                while block := file.read(_BLOCK):
                    counted.write(block)
    return {"bytes": counted.bytes, "sha256": counted.digest.hexdigest()}


def _compression(source: Source) -> int:
    """Whoever reads refuses what unfolds too far: such members are stored as they are."""
    content = source if isinstance(source, bytes) else source.read_bytes() if isinstance(source, Path) else b""
    far = len(content) > _BLOCK and len(content) > MOST_RATIO // 2 * len(zlib.compress(content))
    return zipfile.ZIP_STORED if far else zipfile.ZIP_DEFLATED


class _Counted:
    """A stream that counts and digests what goes through it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.bytes = 0
        self.digest = hashlib.sha256()

    def write(self, block: bytes | memoryview) -> int:
        self.bytes += len(block)
        self.digest.update(block)
        return self._stream.write(block)


def _add_run(record: RunRecord, folder: str, contents: Contents, weights: bool) -> None:
    """A run's files, each read once first: what is damaged is told here rather than where it arrives."""
    load_values(record.config()), record.composed(), record.overrides(), record.provenance()
    record.manifest("sha256", "bytes", "label", "split", "method", "path", "kind", "dataset")
    record.predictions("split"), record.metrics(), record.history(), record.features()
    names = [*RECORD, *(name for name in MORE if record.has(name)), *([files.WEIGHTS] if weights else [])]
    contents.members |= {f"{folder}/{name}": record.file(name) for name in names}


def _add_code(record: RunRecord, contents: Contents) -> None:
    """The changes that no commit has, and the modules that no commit knows, where they are still those that ran."""
    made = record.provenance()
    git = made.get("git") or {}
    if git.get("diff"):
        contents.members[f"{CODE}/changes.diff"] = str(git["diff"]).encode("utf-8", "surrogateescape")
    files, lost = untracked_modules(made)
    contents.missing += [f"{name}, a module in no commit, which is another one by now or too large" for name in lost]
    contents.members |= {f"{CODE}/files/{name}": content for name, content in files.items()}


def untracked_modules(provenance: Mapping[str, Any]) -> tuple[dict[str, bytes], list[str]]:
    """The modules that a run used and no commit knows, where they still are those that ran; and those that are not."""
    ran, here, held = provenance.get("code", {}), code_digests(), 0
    files: dict[str, bytes] = {}
    lost = []
    for name in (provenance.get("git") or {}).get("untracked") or []:
        if name not in ran or CHECKOUT is None:
            continue
        # A name that is among the running modules is one of this package's files.
        content = (PACKAGE.parent / name).read_bytes() if here.get(name) == ran[name] else b""
        held += len(content)
        if here.get(name) != ran[name] or len(content) > _MOST_CODE or held > _MOST_CODES:
            lost.append(name)
        else:
            files[name] = content
    return files, lost


def _add_environment(record: RunRecord, contents: Contents) -> None:
    made = record.provenance()
    contents.members[f"{ENVIRONMENT}/lock.txt"] = lock_text(made).encode()
    facts = {name: made.get(name) for name in ("python", "platform", "packages", "installed")}
    contents.members[f"{ENVIRONMENT}/environment.json"] = json.dumps(facts, indent=2).encode()


def lock_text(provenance: Mapping[str, Any]) -> str:
    """The versions that a run had, as ``pip install --no-deps -r`` takes them: those needed first, then all others."""
    needed = provenance.get("packages", {})
    others = {name: version for name, version in provenance.get("installed", {}).items() if name not in needed}
    lines = [f"# Python {provenance.get('python')} on {provenance.get('platform')}", "# What this project needs:"]
    lines += [f"{name}=={version}" for name, version in needed.items() if name != _PACKAGE]
    lines += ["# What was installed beside it:"]
    lines += [f"{name}=={version}" for name, version in others.items() if name != _PACKAGE]
    return "\n".join(lines) + "\n"


def _add_ancestors(record: RunRecord, store: Store, outputs: Path, contents: Contents) -> None:
    """The runs and weights that this one began with, and those that these began with."""
    waiting: list[tuple[RunRecord, str]] = [(record, RUN)]
    known: set[str] = set()
    while waiting:
        child, of = waiting.pop(0)
        config = load_values(child.config())
        for key, reference in origins(config).items():
            folder = f"{ANCESTORS}/{len(contents.ancestors)}"
            told = f"{reference}, which run {child.name!r} began with ({key})"
            if len(contents.ancestors) >= _MOST_ANCESTORS:
                contents.missing.append(f"{told}: it has more than {_MOST_ANCESTORS} ancestors")
                continue
            found = _ancestor(key, reference, store, outputs)
            if isinstance(found, str):
                contents.missing.append(f"{told}: {found}")
                continue
            weights, parent = found
            if why := _other_weights(child, config, key, weights):
                contents.missing.append(f"{told}: {why}")
                continue
            contents.ancestors.append(
                {"folder": folder, "of": of, "key": key, "name": reference if parent is None else parent.name}
            )
            if parent is None:
                contents.members[f"{folder}/{LONE_WEIGHTS}"] = weights
                continue
            _add_run(parent, folder, contents, weights=True)
            if str(weights) not in known:
                known.add(str(weights))
                waiting.append((parent, folder))
        if config.backbone.pretrained and not origins(config):
            contents.missing.append(
                f"the pretrained weights of {config.backbone.name}, which run {child.name!r} began with: they are had "
                "where timm has them"
            )


def origins(config: RunConfig) -> dict[str, str]:
    """What names the weights that a run begins with, by key; weights of a backbone count only where no run is named."""
    if config.trainer.init_from is not None:
        return {"trainer.init_from": config.trainer.init_from}
    return {} if config.backbone.weights is None else {"backbone.weights": config.backbone.weights}


def _ancestor(key: str, reference: str, store: Store, outputs: Path) -> tuple[Path, RunRecord | None] | str:
    """Its weights, and its run where it is one; or why they cannot be brought."""
    path = Path(reference).expanduser()
    if key == "trainer.init_from" and path.suffix != ".safetensors":
        try:
            parent = find_run(reference, store, outputs).require_finished()
            return parent.weights(), parent
        except UserError as error:
            return error.message
    if not path.is_file():
        return "there is no such file any more"
    if path.suffix != ".safetensors":
        return "it is no .safetensors file, and capsules hold no others"
    return path, None


def _other_weights(child: RunRecord, config: RunConfig, key: str, weights: Path) -> str:
    """Why these are not the weights that the run began with; empty where they are, or nobody noted which."""
    import torch

    from deepfake.training.checkpoint import weights_digest

    then = child.provenance().get("weights", {})
    if key != "trainer.init_from" or not then:
        return ""
    try:
        with torch.random.fork_rng(devices=[]):
            # Additions to a backbone begin as the run's own did, which were drawn from its seed.
            torch.manual_seed(config.seed)
            detector = load_detector(config, weights, anew=True)
    except UserError as error:
        return error.message
    now = {"backbone": weights_digest(detector.backbone), "head": weights_digest(detector.head)}
    return "" if all(then.get(part) == digest for part, digest in now.items()) else "it has other weights by now"


def _add_data(record: RunRecord, cache: Path, contents: Contents) -> None:
    key = str(record.provenance().get("data", {}).get("crops"))
    table = record.manifest("sha256")
    store = cache / "crops" / key
    records = read_records(store) if store.is_dir() else {}
    wanted = {str(row.sample_id): str(row.sha256) for row in table.itertuples()}
    lacking = [name for name, digest in wanted.items() if _other_content(records.get(name), digest)]
    if lacking:
        raise DataError(
            f"the crops that run {record} read are not in {store}: {len(lacking)} of {len(wanted)} samples are "
            f"missing or were made of another file, such as {lacking[0]!r}",
            f"make them again with deepfake reproduce {record.run_id or record.name}, or leave --data out",
        )
    stem = f"part-{hashlib.sha256(json.dumps([key, wanted]).encode()).hexdigest()[:32]}"
    crops = _Crops(store, [records[name] for name in wanted], stem)
    for suffix, write in ((".u8", crops.pixels), (".frames", crops.frames), (".jsonl", crops.journal)):
        contents.members[f"{CROPS}/{key}/{stem}{suffix}"] = write
    for feature in record.features():
        folder = cache / "features" / feature
        if not (folder / "features.json").is_file():
            raise DataError(
                f"the features {feature} that run {record} read are not in {folder.parent} any more",
                f"make them again with deepfake reproduce {record.run_id or record.name}, or leave --data out",
            )
        for name in ("features.json", "features.bin"):
            contents.members[f"{FEATURES}/{feature}/{name}"] = folder / name


def _other_content(found: Record | None, digest: str) -> bool:
    return found is None or (bool(digest) and found["sha256"] != digest)


class _Crops:
    """Some samples of a crop store as a part of its own.

    Args:
        store: The folder.
        records: Of the samples, in the order in which they are laid out.
        stem: What the part is called.
    """

    def __init__(self, store: Path, records: list[Record], stem: str) -> None:
        self._store, self._records, self._stem = store, records, stem

    def pixels(self, stream: IO[bytes]) -> None:
        """All pixels, one sample after another."""
        for record, _ in self._laid_out():
            with open(self._store / f"{record['part']}.u8", "rb") as file:
                file.seek(record["offset"])
                left = int(np.prod(record["shape"]))
                while left:
                    block = file.read(min(left, _BLOCK))
                    if not block:
                        raise DataError(f"the crops in {self._store} end early", "remove the folder and prepare again")
                    stream.write(block)
                    left -= len(block)

    def frames(self, stream: IO[bytes]) -> None:
        """The records of all frames."""
        for record, _ in self._laid_out():
            stream.write(read_frames(self._store, record).tobytes())

    def journal(self, stream: IO[bytes]) -> None:
        """A line for each sample."""
        places = {record["sample_id"]: place for record, place in self._laid_out()}
        for record in self._records:
            line = {key: record[key] for key in RECORD_KEYS if key in record}
            if (place := places.get(record["sample_id"])) is not None:
                line |= {"part": self._stem, "offset": place[0], "first": place[1]}
            stream.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def _laid_out(self) -> Iterator[tuple[Record, tuple[int, int]]]:
        """The samples that have crops, with the byte and the frame at which theirs begin."""
        offset = first = 0
        for record in self._records:
            if "part" in record:
                yield record, (offset, first)
                clips, length, *_ = record["shape"]
                offset += int(np.prod(record["shape"]))
                first += clips * length
