"""FaceForensics++ (Roessler et al. 2019, arXiv:1901.08971) as its script and as Kaggle lay it out, and the demo.

Turns original_sequences and manipulated_sequences, or xdxd003/ff-c23's flat folders of each method, into samples with
the published splits. Opens no video."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from deepfake.data.layouts.base import (
    File,
    check_against_folders,
    child,
    inside,
    list_files,
    list_folders,
    listed,
    read_json,
    sample_ids,
)
from deepfake.data.manifest import FAKE, REAL, SPLITS, Manifest, make_rows
from deepfake.data.media import VIDEO_SUFFIXES
from deepfake.data.options import DatasetOptions
from deepfake.errors import DataError, nearest

#: What the field calls FF++: its first four methods. In ``dataset.methods`` the word stands for those that are there.
FOUR = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
FOUR_WORD = "four"
ORIGINALS, FAKES = "original_sequences", "manipulated_sequences"
METHODS = (*FOUR, "FaceShifter", "DeepFakeDetection")
#: The same compression under the name the paper uses and the one the folders have.
_SAME = {"c0": "raw", "raw": "c0"}
_PREFERRED = ("c23", "c40", "raw", "c0")
#: Clips cut from a YouTube video that an earlier clip was cut from (conversion_dict.json of the release: 977 videos
#: for 1000 clips). The published splits put seven of these videos on two sides.
_ONE_VIDEO = {
    "332": "331", "525": "524", "567": "566", "606": "605", "615": "614", "619": "618", "640": "639", "686": "685",
    "687": "685", "756": "755", "767": "766", "770": "769", "788": "787", "838": "837", "876": "875", "884": "883",
    "938": "937", "943": "942", "955": "954", "968": "967", "974": "973", "983": "982", "994": "993",
}  # fmt: skip


@dataclass(frozen=True)
class _Folder:
    """One folder of videos: where it is, what made them, whether they are fakes, and how far they are compressed."""

    path: str
    method: str
    label: int
    compression: str


class FaceForensics:
    """The official tree: ``original_sequences/youtube/c23/videos/000.mp4`` and so on."""

    name = "faceforensics"
    summary = "original_sequences/ and manipulated_sequences/ with <compression>/videos below (FaceForensics++)"
    crops = False
    #: The methods a whole copy holds.
    methods: tuple[str, ...] = METHODS

    def probe(self, root: Path) -> Path | None:
        """The folder that holds original_sequences or manipulated_sequences."""
        for folder in inside(root):
            if child(folder, ORIGINALS) or child(folder, FAKES):
                return folder
        return None

    def read(self, root: Path, options: DatasetOptions) -> Manifest:
        """Every video of the wanted methods in one compression, grouped by target and source footage."""
        notes: list[str] = []
        folders = _find_folders(root, options, self.methods, notes)
        rows = []
        for folder in folders:
            files = list_files(root, folder.path, VIDEO_SUFFIXES)
            if not files:
                notes.append(f"{folder.path} holds no videos")
            rows += make_sample_rows(files, folder.method, folder.label, options.name, folder.compression)
        splits = read_split_files(root, options, notes)
        for row in rows:
            row["split"] = split_of(str(row["stem"]), splits)
        name_originals(rows)
        note_missing_pairs(rows, notes)
        table = make_rows(rows).drop(columns="stem")
        return Manifest(table, {options.name: root}, notes, official=bool(splits))


def make_sample_rows(
    files: list[File], method: str, label: int, dataset: str, compression: str
) -> list[dict[str, object]]:
    """Manifest rows of one method's videos, each with its ``stem`` beside."""
    ids = sample_ids(dataset, [(method, file.stem) for file in files], [file.path for file in files])
    return [
        {
            "sample_id": name, "path": file.path, "kind": "video", "label": label, "method": method,
            "dataset": dataset, "bytes": file.bytes, "groups": footage(file.stem), "stem": file.stem,
            "compression": compression,
        }
        for name, file in zip(ids, files, strict=True)
    ]  # fmt: skip


def name_originals(rows: list[dict[str, object]]) -> None:
    """Fill ``original``: the sample a fake was made from, where it is there; the face is in the same place in both."""
    reals = {str(row["stem"]): str(row["sample_id"]) for row in rows if row["label"] == REAL}
    for row in rows:
        target = str(row["stem"]).split("_", 1)[0]
        row["original"] = reals.get(target, "") if row["label"] == FAKE else ""


def footage(stem: str) -> tuple[str, ...]:
    """What a video touches: its YouTube clips (target and source), or its actors.

    Names with a double underscore are DeepFakeDetection's: ``01__exit_phone_room`` is actor 01 and
    ``01_02__exit_phone_room__YVGY8LOK`` is 02's face on 01.
    """
    actors = "__" in stem
    ids = stem.split("__", 1)[0].split("_")
    if actors:
        return tuple(dict.fromkeys(f"faceforensics/actor/{i}" for i in ids))
    return tuple(dict.fromkeys(f"faceforensics/youtube/{_ONE_VIDEO.get(i, i)}" for i in ids))


def split_of(stem: str, splits: dict[str, str]) -> str:
    """The split a video belongs to: where its clip is, and for a fake where its pair is."""
    if "__" in stem:
        return ""
    return splits.get(stem, "")


def read_split_files(root: Path, options: DatasetOptions, notes: list[str]) -> dict[str, str]:
    """Which split each clip and each pair of clips (in both orders) belongs to, from train, val and test.json.

    Returns:
        Split by stem: for the pair ["071", "054"] of train.json the keys 071, 054, 071_054 and 054_071.

    Raises:
        DataError: A file that was asked for is missing or is no list of pairs.
    """
    folder = _split_folder(root, options)
    if folder is None:
        notes.append("no published splits (splits/train.json, val.json, test.json): splits are made by group")
        return {}
    splits: dict[str, str] = {}
    missing = [name for name in SPLITS if not (folder / f"{name}.json").is_file()]
    if len(missing) == len(SPLITS):
        raise DataError(f"no split file in {folder}", "give the folder of train.json, val.json and test.json")
    if missing:
        notes.append(f"{folder} lacks {', '.join(f'{name}.json' for name in missing)}")
    for name in SPLITS:
        if name in missing:
            continue
        for a, b in _read_pairs(folder / f"{name}.json"):
            for stem in (a, b, f"{a}_{b}", f"{b}_{a}"):
                splits[stem] = name
    return splits


def _split_folder(root: Path, options: DatasetOptions) -> Path | None:
    if options.split_files is not None:
        given = Path(options.split_files).expanduser()
        if not given.is_dir():
            raise DataError(
                f"dataset.split_files={options.split_files} is not a folder",
                "give the folder of train.json, val.json and test.json",
            )
        return given
    for folder in (root / "splits", root / "dataset" / "splits"):
        if any((folder / f"{name}.json").is_file() for name in SPLITS):
            return folder
    return None


def _read_pairs(path: Path) -> list[tuple[str, str]]:
    hint = 'a split file is a JSON list of pairs: [["071", "054"], ...]'
    pairs = read_json(path, hint)
    if not isinstance(pairs, list):
        raise DataError(f"{path} holds no list", hint)
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(i, str) for i in pair)):
            raise DataError(f"{path} holds {pair!r}, which is no pair of strings", hint)
    return [(a, b) for a, b in pairs]


def note_missing_pairs(rows: Iterable[dict[str, object]], notes: list[str]) -> None:
    """Say how many fakes have no original beside them, as in most partial copies."""
    rows = list(rows)
    reals = {str(row["stem"]) for row in rows if row["label"] == REAL}
    fakes = [str(row["stem"]) for row in rows if row["label"] == FAKE and "__" not in str(row["stem"])]
    lone = sorted(stem for stem in fakes if stem.split("_", 1)[0] not in reals)
    if lone:
        notes.append(f"{len(lone)} of {len(fakes)} fakes have no original beside them: {listed(lone)}")


def _find_folders(root: Path, options: DatasetOptions, known: tuple[str, ...], notes: list[str]) -> list[_Folder]:
    originals, fakes = child(root, ORIGINALS), child(root, FAKES)
    sources = list_folders(root / originals) if originals else []
    methods = list_folders(root / fakes) if fakes else []
    wanted = _wanted_methods(methods, options, known, notes)
    if options.methods is not None and "DeepFakeDetection" not in wanted and len(sources) > 1:
        # The actors are only DeepFakeDetection's originals; without its fakes they are a class of their own.
        sources = [name for name in sources if name != "actors"]
    parents = [(f"{originals}/{name}", name, REAL) for name in sources]
    parents += [(f"{fakes}/{name}", name, FAKE) for name in wanted]
    compression = _choose_compression(root, [path for path, _, _ in parents], options)
    folders = []
    for path, method, label in parents:
        found = _compression_folder(root / path, compression)
        if found is None:
            have = list_folders(root / path)
            notes.append(f"{path} has no {compression}; it has {', '.join(have) or 'nothing'}")
            continue
        videos = child(root / path / found, "videos")
        where = f"{path}/{found}/{videos}" if videos else f"{path}/{found}"
        folders.append(_Folder(where, method, label, compression))
    return folders


def _wanted_methods(found: list[str], options: DatasetOptions, known: tuple[str, ...], notes: list[str]) -> list[str]:
    extra = [name for name in found if name not in known]
    if options.methods is not None:
        return _named_methods(options.methods, found, notes)
    missing = [name for name in known if name not in found]
    if extra:
        notes.append(f"read as methods of manipulation, though none of the set's own: {', '.join(extra)}")
    if missing:
        notes.append(f"methods that are not there: {', '.join(missing)}")
    return found


def _named_methods(named: Iterable[str], found: list[str], notes: list[str]) -> list[str]:
    """The methods that ``dataset.methods`` names, of which ``four`` stands for those of the four that are there.

    Raises:
        DataError: One is not there, or none of the four; says what is.
    """
    wanted: dict[str, None] = {}
    for name in named:
        if name == FOUR_WORD:
            there = [one for one in FOUR if one in found]
            if not there:
                raise DataError(
                    f"none of the four methods that are read by default ({', '.join(FOUR)}) is there; "
                    f"there {'is' if len(found) == 1 else 'are'} {', '.join(found) or 'none'}",
                    f"name what to read: dataset.methods=[{','.join(found)}]; dataset.methods=null reads all"
                    if found
                    else "check dataset.root",
                )
            left = [one for one in found if one not in FOUR and one not in named]
            if left:
                notes.append(f"methods that are not read: {', '.join(left)}; dataset.methods=null reads all")
            wanted |= dict.fromkeys(there)
        elif name not in found:
            raise DataError(f"dataset.methods names {name!r}, which is not there", nearest(name, found))
        else:
            wanted[name] = None
    return list(wanted)


def _compression_folder(parent: Path, compression: str) -> str | None:
    names = (compression, _SAME[compression]) if compression in _SAME else (compression,)
    return child(parent, *names)


def _choose_compression(root: Path, parents: list[str], options: DatasetOptions) -> str:
    found = sorted({name for path in parents for name in list_folders(root / path)})
    asked = options.compression
    if asked is not None:
        if asked in found or _SAME.get(asked) in found or not found:
            return asked
        raise DataError(f"dataset.compression={asked} is not there", nearest(asked, found))
    return next((name for name in _PREFERRED if name in found), found[0] if found else _PREFERRED[0])


class Dfd(FaceForensics):
    """DeepFakeDetection alone, as it lies in the same tree: the fakes, and the actors that they were made from."""

    name = "dfd"
    summary = f"{ORIGINALS}/actors and {FAKES}/DeepFakeDetection with <compression>/videos below (DFD)"

    def probe(self, root: Path) -> Path | None:
        """The folder of the tree, if it holds the actors or their fakes."""
        folder = super().probe(root)
        if folder is None:
            return None
        originals, fakes = (child(folder, name) or name for name in (ORIGINALS, FAKES))
        return folder if child(folder / originals, "actors") or child(folder / fakes, "DeepFakeDetection") else None

    def read(self, root: Path, options: DatasetOptions) -> Manifest:
        """Every video of both, grouped by actor; nothing is published of their splits."""
        manifest = super().read(root, replace(options, methods=["DeepFakeDetection"], split_files=None))
        of_actors = manifest.table["path"].str.split("/").str[1].isin(["actors", "DeepFakeDetection"])
        table = manifest.table[of_actors].reset_index(drop=True)
        notes = [note for note in manifest.notes if not note.startswith("no published splits")]
        return replace(manifest, table=table, notes=notes, official=False)


BLEND, FLICKER = "SyntheticBlend", "SyntheticFlicker"


class Demo(FaceForensics):
    """FaceForensics++'s tree with the two synthetic methods."""

    name = "demo"
    summary = f"manipulated_sequences/{{{BLEND},{FLICKER}}} (the generated demo)"
    methods = (BLEND, FLICKER)

    def probe(self, root: Path) -> Path | None:
        """The folder of the official tree, if its fakes are synthetic."""
        folder = super().probe(root)
        return folder if folder and (folder / "manipulated_sequences" / BLEND).is_dir() else None


_METADATA = "ff++_metadata.csv"


class FfC23:
    """``original`` and a folder for each method, with the videos right in them."""

    name = "kaggle_ff_c23"
    summary = "FaceForensics++_C23/{original,Deepfakes,Face2Face,...}/*.mp4 (Kaggle xdxd003/ff-c23)"
    crops = False

    def probe(self, root: Path) -> Path | None:
        """The folder that holds ``original`` beside at least one method's folder."""
        for folder in inside(root):
            if child(folder, "original") and child(folder, *METHODS):
                return folder
        return None

    def read(self, root: Path, options: DatasetOptions) -> Manifest:
        """Every video of the wanted methods, grouped by target and source footage."""
        notes: list[str] = []
        there = {name.lower(): name for name in list_folders(root)}
        found = [name for name in METHODS if name.lower() in there]
        wanted = _wanted(found, options, notes)
        folders = [(there["original"], "youtube", REAL)] if "original" in there else []
        folders += [(there[name.lower()], name, FAKE) for name in wanted]
        rows: list[dict[str, object]] = []
        for folder, method, label in folders:
            files = list_files(root, folder, VIDEO_SUFFIXES, depth=1)
            rows += make_sample_rows(files, method, label, options.name, "c23")
        _note_actors(rows, notes)
        known = {"original", "csv", "splits", *(name.lower() for name in METHODS)}
        unknown = [name for lower, name in sorted(there.items()) if lower not in known]
        if unknown:
            notes.append(f"folders that are not read: {listed(unknown)}")
        check_against_folders(_table_labels(root), rows, _METADATA)
        splits = read_split_files(root, options, notes)
        for row in rows:
            row["split"] = split_of(str(row["stem"]), splits)
        name_originals(rows)
        note_missing_pairs(rows, notes)
        return Manifest(make_rows(rows).drop(columns="stem"), {options.name: root}, notes, official=bool(splits))


def _wanted(found: list[str], options: DatasetOptions, notes: list[str]) -> list[str]:
    if options.methods is not None:
        return _named_methods(options.methods, found, notes)
    missing = [name for name in METHODS if name not in found]
    if missing:
        notes.append(f"methods that are not there: {', '.join(missing)}")
    return found


def _note_actors(rows: list[dict[str, object]], notes: list[str]) -> None:
    actors = [row for row in rows if "__" in str(row["stem"])]
    if actors and all(row["label"] == FAKE for row in actors):
        notes.append(
            f"the {len(actors)} DeepFakeDetection fakes come without their actors' originals, in another resolution "
            "than all reals: the source gives the label away; leave them out with dataset.methods"
        )


def _table_labels(root: Path) -> dict[str, str]:
    """What the copy's own table says of each file, by the file's last two path parts in lower case."""
    folder = child(root, "csv")
    tables = [p for p in (root / folder).iterdir() if p.name.lower() == _METADATA] if folder else []
    if not tables:
        return {}
    with tables[0].open(encoding="utf-8-sig", newline="") as stream:
        lines = list(csv.DictReader(stream))
    labels = {}
    for line in lines:
        path = (line.get("File Path") or "").replace("\\", "/")
        labels["/".join(path.lower().split("/")[-2:])] = (line.get("Label") or "").strip()
    return labels
