"""A capsule: a run in one archive, with all it takes to run it again elsewhere. Its format, and reading one safely.

Anybody may have made it. It is a zip of members whose names are known beforehand, each listed with its size and SHA-256
in ``manifest.json``; all of it is checked before anything is written. Nothing in it is run.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from deepfake import __version__
from deepfake.config import load_values
from deepfake.data.crop_records import read_landmarks, read_records
from deepfake.errors import UserError
from deepfake.files import appearing
from deepfake.tracking import run_folder as files
from deepfake.tracking.run_record import RunRecord, from_folder, misfit, parse_yaml

#: Raised with every change that an older reader would misread.
FORMAT = 1
KIND = "deepfake capsule"
SUFFIX = ".capsule.zip"
LISTING = "manifest.json"
RUN, ANCESTORS, CODE, ENVIRONMENT, CROPS, FEATURES = "run", "ancestors", "code", "environment", "crops", "features"
#: Of a run; without them it cannot be run again and compared.
RECORD = (
    files.CONFIG, files.RESOLVED, files.OVERRIDES, files.PROVENANCE, files.MANIFEST, files.PREDICTIONS, files.METRICS,
    files.HISTORY,
)  # fmt: skip
#: Of a run, where it has them.
MORE = (files.CALIBRATION, files.DOMAIN, files.CLIPS, files.FEATURES)
#: In an ancestor's folder: weights that are no run's.
LONE_WEIGHTS = "weights.safetensors"

_FILE = "|".join(map(re.escape, (*RECORD, *MORE, files.WEIGHTS)))
_NAMES = re.compile(
    rf"(?P<run>{RUN}/({_FILE})|{ANCESTORS}/\d{{1,2}}/({_FILE}|{re.escape(LONE_WEIGHTS)}))"
    rf"|{CODE}/changes\.diff|{CODE}/files/(?P<code>[\w.-]+(/[\w.-]+)*\.py)"
    rf"|{ENVIRONMENT}/(lock\.txt|environment\.json)"
    rf"|(?P<data>{CROPS}/[0-9a-f]{{20}}/part-[0-9a-f]{{32}}\.(u8|frames|jsonl)"
    rf"|{FEATURES}/[0-9a-f]{{20}}/features\.(bin|json))",
)
_MOST_MEMBERS = 2000
_MOST_LISTING, _MOST_TEXT = 4 << 20, 1 << 20
#: Of all but crops and features, whose size only the disk bounds.
_MOST_BYTES = 8 << 30
#: What is compressed further than this was made to fill a disk; what writes capsules stores such members as they are.
MOST_RATIO = 100
_SPARE = 256 << 20  # bytes left free on the disk
_BLOCK = 1 << 20
_LISTED = {
    "format": int,
    "kind": str,
    "version": str,
    "run": {"name": str, "run_id": (str, type(None)), "commit": (str, type(None))},
    "data": {"samples": int, "digest": str},
    "ancestors": [{"folder": str, "of": str, "key": str, "name": str}],
    "missing": [str],
    "members": {"*": {"bytes": int, "sha256": str}},
}
_FEATURE_TYPES = ("float32", "float16", "bfloat16")
_ORIGINS = ("trainer.init_from", "backbone.weights")
_RECORD_SHAPE: dict[str, Any] = {
    "sample_id": str, "status": str, "reason": str, "sha256": str, "bytes": int, "mtime": int, "clips": int,
    "frames": int, "filled": int, "width": int, "height": int, "video_frames": int, "fps": float, "duration": float,
    "codec": str, "bitrate": int, "pixel_format": str, "rotation": int, "quality": int, "dhashes": [int],
    "thumbnail": str, "landmarks": (str, type(None)), "part": str, "offset": int, "shape": [int], "lengths": [int],
    "first": int,
}  # fmt: skip
#: What is kept of a crop's record.
RECORD_KEYS = tuple(_RECORD_SHAPE)


@dataclass(frozen=True)
class Capsule:
    """A capsule that was read.

    Attributes:
        record: Its run.
        folder: Where it was unpacked.
        origins: Where the weights that the run began with lie now, by the key that named them.
        missing: What it does not bring, a line each.
        crops: A crop store with the run's samples; None where it brings none.
        features: The folder of stored features; None likewise.
    """

    record: RunRecord
    folder: Path
    origins: dict[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    crops: Path | None = None
    features: Path | None = None

    def modules(self) -> dict[str, bytes]:
        """The modules of its code that are in no commit, by path: a stranger's, like all of it."""
        folder = self.folder / CODE / "files"
        found = sorted(folder.rglob("*.py")) if folder.is_dir() else []
        return {file.relative_to(folder).as_posix(): file.read_bytes() for file in found}

    def without_data(self) -> Capsule:
        """The same where the files of the data set are read instead."""
        return replace(self, crops=None, features=None)


def is_capsule(reference: str) -> bool:
    """Whether what a user typed names a file that can only be meant as a capsule."""
    path = Path(reference).expanduser()
    return path.suffix == ".zip" or (path.is_file() and path.suffix not in (".yaml", ".yml"))


def open_capsule(file: Path, cache: Path) -> Capsule:
    """Check a capsule and unpack it into the cache, once.

    Args:
        file: The archive.
        cache: Gets ``capsules/<digest>``; nothing else is written.

    Raises:
        UserError: There is none, it is cut, altered, hostile or of a newer version, or the disk has no room; nothing
            was written.
    """
    if not file.is_file():
        raise UserError(f"there is no capsule {file}", "name a file that deepfake capsule wrote")
    with _opened(file) as archive:
        listing = _listing(archive, file)
        members = _members(archive, listing, file)
        digest = hashlib.sha256(_read(archive, LISTING, _MOST_LISTING, file)).hexdigest()
        place = cache / "capsules" / digest[:20]
        for name, member in members.items():
            _copy(archive, name, member, file)
        _check_configs(archive, members, file)
        if not place.is_dir():
            _unpack(archive, members, place, file)
    return _laid_out(listing, place, file)


@contextmanager
def _opened(file: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    # A torn stream ends in one of zlib's errors, an entry that lies about its place in a struct's or an EOFError.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise _bad(file, f"it is cut or no archive ({error or type(error).__name__})") from error
    except OSError as error:
        # An entry that says it lies before the file's beginning.
        if error.errno != errno.EINVAL:
            raise
        raise _bad(file, "an entry lies outside of it") from error


def _bad(file: Path, why: str) -> UserError:
    return UserError(f"{file} is no capsule that can be used: {why}", "get it anew from where it was made")


def _listing(archive: zipfile.ZipFile, file: Path) -> dict[str, Any]:
    if LISTING not in archive.namelist():
        raise _bad(file, f"it has no {LISTING}")
    try:
        found = json.loads(_read(archive, LISTING, _MOST_LISTING, file))
    except (ValueError, RecursionError) as error:
        raise _bad(file, f"its {LISTING} is no JSON") from error
    if not isinstance(found, dict) or found.get("kind") != KIND or not isinstance(found.get("format"), int):
        raise _bad(file, f"its {LISTING} is none of a capsule")
    if found["format"] > FORMAT:
        raise UserError(
            f"capsule {file} was written in a newer format ({found['format']}, this version reads {FORMAT})",
            f"update this installation to version {found.get('version')} or later; this is {__version__}",
        )
    absent = [key for key in _LISTED if key not in found]
    if why := f"it lacks {absent[0]}" if absent else misfit(found, _LISTED):
        raise _bad(file, f"its {LISTING}: {why}")
    return found


def _members(archive: zipfile.ZipFile, listing: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """What is listed, once it is sure that this and nothing else is in the archive, under names that lead nowhere."""
    infos = archive.infolist()
    if len(infos) > _MOST_MEMBERS:
        raise _bad(file, f"it has {len(infos)} members, more than {_MOST_MEMBERS}")
    listed: dict[str, Any] = listing["members"]
    seen: set[str] = set()
    for info in infos:
        name = info.filename
        if name in seen:
            raise _bad(file, f"it has two members {name!r}")
        seen.add(name)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG) or info.is_dir():
            raise _bad(file, f"{name!r} is no plain file")
        if name == LISTING:
            continue
        if not _known_name(name):
            raise _bad(file, f"it holds {name!r}, which no capsule does")
        if name not in listed:
            raise _bad(file, f"it holds {name!r}, which its {LISTING} does not list")
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _bad(file, f"{name!r} is packed in a way that no capsule is")
        if info.file_size != listed[name].get("bytes"):
            raise _bad(file, f"{name!r} has {info.file_size} bytes where {listed[name].get('bytes')} are listed")
        if info.file_size > _BLOCK and info.file_size > MOST_RATIO * max(1, info.compress_size):
            raise _bad(file, f"{name!r} unfolds to {info.file_size:,} bytes, {MOST_RATIO} times what it takes")
    if lacking := sorted({*listed} - seen):
        raise _bad(file, f"it lacks {lacking[0]!r}")
    if absent := [name for name in RECORD if f"{RUN}/{name}" not in listed]:
        raise _bad(file, f"it lacks {RUN}/{absent[0]}")
    small = sum(member["bytes"] for name, member in listed.items() if not name.startswith((CROPS, FEATURES)))
    if small > _MOST_BYTES:
        raise _bad(file, f"it holds {small:,} bytes beside data, more than {_MOST_BYTES:,}")
    return listed


def _known_name(name: str) -> bool:
    match = _NAMES.fullmatch(name)
    # A name of dots alone would lead out of the folder.
    return match is not None and not any(set(part) <= {"."} for part in name.split("/"))


def _read(archive: zipfile.ZipFile, name: str, most: int, file: Path) -> bytes:
    """A small member, no further than it may be large: what a header says of its size may be a lie."""
    with archive.open(name) as stream:
        found = stream.read(most + 1)
    if len(found) > most:
        raise _bad(file, f"{name} is larger than {most:,} bytes")
    return found


def _copy(
    archive: zipfile.ZipFile, name: str, member: Mapping[str, Any], file: Path, to: IO[bytes] | None = None
) -> None:
    """Read a member to its end, no further than listed, and hold it to its digest."""
    digest, left = hashlib.sha256(), int(member["bytes"])
    with archive.open(name) as stream:
        while block := stream.read(_BLOCK):
            left -= len(block)
            if left < 0:
                raise _bad(file, f"{name!r} unfolds to more bytes than are listed")
            digest.update(block)
            if to is not None:
                to.write(block)
    if digest.hexdigest() != member["sha256"]:
        raise _bad(file, f"{name!r} was altered: its SHA-256 is not the one that is listed")


def _check_configs(archive: zipfile.ZipFile, members: Mapping[str, Any], file: Path) -> None:
    """Refuse a config that is more than plain values of ours, before anything is written."""
    for name in members:
        if not name.endswith(".yaml"):
            continue
        text = _read(archive, name, _MOST_TEXT, file).decode("utf-8", "replace")
        try:
            values = parse_yaml(text)
        except (ValueError, RecursionError) as error:
            raise _bad(file, f"{name}: {error}") from error
        if name.endswith(files.RESOLVED):
            _check_values(values, f"{file}: {name}")


def _check_values(values: object, where: str) -> None:
    if not isinstance(values, dict):
        raise UserError(f"{where} is no mapping of keys", "get the capsule anew from where it was made")
    if text := next(_interpolations(values), None):
        raise UserError(
            f"{where} holds {text!r}, which stands for something else: a resolved config holds plain values",
            "nothing in a capsule is looked up; get it anew from where it was made",
        )
    try:
        load_values({str(key): value for key, value in values.items()})
    except UserError as error:
        raise UserError(f"{where}: {error.message}", error.hint) from error


def _interpolations(value: object) -> Iterator[str]:
    if isinstance(value, str) and "${" in value:
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _interpolations(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _interpolations(inner)


def _unpack(archive: zipfile.ZipFile, members: Mapping[str, Any], place: Path, file: Path) -> None:
    made = [folder for folder in (place.parent, *place.parent.parents) if not folder.exists()]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        needed, free = sum(member["bytes"] for member in members.values()), shutil.disk_usage(place.parent).free
        if needed + _SPARE > free:
            raise UserError(
                f"{file} needs {needed / 1e9:.2f} GB in {place.parent}, and {free / 1e9:.2f} GB are free",
                "free some room, or set paths.outputs= to a larger disk",
            )
        with appearing(place) as half:
            for name, member in members.items():
                target = half / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "xb") as to:
                    _copy(archive, name, member, file, to)
            _check_unpacked(half, file)
    except BaseException:
        for folder in made:
            with suppress(OSError):  # somebody else's by now
                folder.rmdir()
        raise


def _check_unpacked(folder: Path, file: Path) -> None:
    """Whether the run, its weights, crops and features can be read as what they are said to be."""
    from safetensors import SafetensorError, safe_open

    try:
        record = from_folder(folder / RUN).require_finished()
        record.provenance(), record.manifest("sha256", "bytes", "label", "split", "method", "path", "kind", "dataset")
        record.predictions("split"), record.metrics(), record.history(), record.overrides(), record.features()
    except UserError as error:
        # Named as the user knows it, and not by the folder that it is about to be thrown away with.
        raise _bad(file, error.message.replace(f"{folder}/", "")) from error
    for weights in folder.rglob("*.safetensors"):
        try:
            with safe_open(weights, framework="numpy"):
                pass
        except (SafetensorError, OSError, ValueError) as error:
            raise _bad(file, f"{weights.relative_to(folder)}: {error}") from error
    for journal in folder.glob(f"{CROPS}/*/*.jsonl"):
        _check_journal(journal, file)
    for meta in folder.glob(f"{FEATURES}/*/features.json"):
        _check_features(meta, file)


def _check_journal(journal: Path, file: Path) -> None:
    """Refuse records of crops that point anywhere but into their own part."""
    for line in journal.read_bytes().splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _bad(file, f"{journal.name} is no list of crops") from error
        why = misfit(record, _RECORD_SHAPE)
        if not why and not {"sample_id", "status", "sha256", "bytes", "mtime"} <= {*record}:
            why = "a record lacks what it is of"
        if not why and ("part" in record or record["status"] == "ok"):
            why = _misplaced(record, journal)
        if why:
            raise _bad(file, f"{journal.name}: {why}")
    if len(read_records(journal.parent)) < journal.read_bytes().count(b"\n"):
        raise _bad(file, f"{journal.name} names crops that are not there")


def _misplaced(record: Mapping[str, Any], journal: Path) -> str:
    shape, lengths = record.get("shape", []), record.get("lengths", [])
    if record.get("part") != journal.stem or not {"offset", "first", "clips"} <= {*record}:
        return "crops lie in another part"
    if len(shape) != 5 or shape[-1] != 3 or min(shape) < 1 or min(record["offset"], record["first"]) < 0:
        return f"crops of shape {shape}"
    if len(lengths) != shape[0] or record["clips"] != shape[0] or not all(1 <= one <= shape[1] for one in lengths):
        return f"clips of lengths {lengths}"
    try:
        read_landmarks(record)
    except ValueError:
        return "landmarks of other clips"
    return ""


def _check_features(meta: Path, file: Path) -> None:
    try:
        found = json.loads(meta.read_bytes()[:_MOST_TEXT])
    except (ValueError, RecursionError) as error:
        raise _bad(file, f"{meta.parent.name}/{meta.name} is no JSON") from error
    shape = {"shape": [int], "dtype": str, "spec": {"*": (str, int, {"*": str})}}
    if (why := misfit(found, shape)) or {*shape} - {*found}:
        raise _bad(file, f"{meta.parent.name}/{meta.name}: {why or 'it lacks what the features are'}")
    if found["dtype"] not in _FEATURE_TYPES or not all(0 < one < 1 << 32 for one in found["shape"]):
        raise _bad(file, f"{meta.parent.name}/{meta.name}: features of {found['dtype']} {found['shape']}")


def _laid_out(listing: Mapping[str, Any], place: Path, file: Path) -> Capsule:
    record = replace(from_folder(place / RUN), name=str(listing["run"].get("name", file.name)))
    origins: dict[str, str] = {}
    for ancestor in listing["ancestors"]:
        folder, key = str(ancestor.get("folder")), str(ancestor.get("key"))
        if ancestor.get("of") == RUN and key in _ORIGINS and re.fullmatch(rf"{ANCESTORS}/\d{{1,2}}", folder):
            found = [place / folder / name for name in (files.WEIGHTS, LONE_WEIGHTS)]
            if path := next((path for path in found if path.is_file()), None):
                origins[key] = str(path)
    crops = next(iter(sorted((place / CROPS).glob("*"))), None)
    features = place / FEATURES
    return Capsule(record, place, origins, tuple(listing["missing"]), crops, features if features.is_dir() else None)
