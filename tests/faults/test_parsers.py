"""Whatever a data set's own files say: a manifest, or a mistake that is told; never another exception."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepfake.data.layouts import LAYOUTS
from deepfake.data.layouts.base import list_files, sample_ids
from deepfake.data.manifest import check_manifest, plain_path, written_path
from deepfake.data.media import VIDEO_SUFFIXES
from deepfake.data.options import DatasetOptions
from deepfake.errors import UserError, harmless
from deepfake.runs.inputs import expand_inputs
from tests.data.layouts.trees import plant

#: Inputs of each kind; with --full, and without.
FULL, SAMPLE = 1_500, 60


def fuzz(full: bool, inputs: st.SearchStrategy[Any], read: Callable[[Any], object]) -> int:
    """Give a reader many inputs, the same ones each time: a test that fails, fails again. Returns how many."""
    count = 0

    @settings(
        max_examples=FULL if full else SAMPLE,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(one=inputs)
    def each(one: object) -> None:
        nonlocal count
        count += 1
        _tells(lambda: read(one))

    each()
    return count


WORDS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        (
            "a.mp4",
            "b.mp4",
            "REAL",
            "FAKE",
            "label",
            "original",
            "path",
            "split",
            "000",
            "003",
            "000_003",
            "",
            "nan",
            ".",
        )
    ),
    st.sampled_from(
        ("../a.mp4", "/etc/passwd", "a\0.mp4", "\ud800.mp4", "x" * 300 + ".mp4", "a/" * 200, "=1+1", "\x1b[31m")
    ),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(WORDS, inner, max_size=4)),
    max_leaves=12,
)
#: JSON, nearly JSON, and bytes.
TEXTS = st.one_of(
    VALUES.map(lambda value: json.dumps(value).encode()),
    VALUES.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    st.builds(lambda value, cut: json.dumps(value).encode()[:cut], VALUES, st.integers(0, 40)),
    st.sampled_from([b"[" * 5_000, b'{"a":' * 3_000, b"", b"\xef\xbb\xbf[]", b"9" * 10_000, b"\xff\xfe\0"]),
    st.binary(max_size=60),
)


def _tells(read: Callable[[], object]) -> None:
    """Whether reading gives something, or a mistake of two lines."""
    told = None
    try:
        read()
    except UserError as error:
        told = error
    if told is not None:
        assert told.message
        assert told.hint
        assert "\x1b" not in str(told)


def _read(layout: str, root: Path, **options: object) -> None:
    begins = LAYOUTS[layout].probe(root)
    given = DatasetOptions(**{"name": "set", "layout": layout, **options})  # type: ignore[arg-type]
    manifest = LAYOUTS[layout].read(begins or root, given)
    check_manifest(manifest)
    manifest.digest()


def test_metadata_of_dfdc(full: bool, tell: Callable[[int], None], tmp_path: Path) -> None:
    plant(tmp_path, ["part/a.mp4", "part/b.mp4"])

    def read(text: bytes) -> None:
        (tmp_path / "part" / "metadata.json").write_bytes(text)
        _read("dfdc", tmp_path)

    tell(fuzz(full, TEXTS, read))


def test_entries_of_dfdc(full: bool, tell: Callable[[int], None], tmp_path: Path) -> None:
    plant(tmp_path, ["part/a.mp4", "part/b.mp4"])

    def read(entries: dict[str, object]) -> None:
        (tmp_path / "part" / "metadata.json").write_text(json.dumps(entries))
        _read("dfdc", tmp_path)

    entry = st.dictionaries(st.sampled_from(["label", "original", "split"]), VALUES)
    tell(fuzz(full, st.dictionaries(WORDS, entry, max_size=4), read))


def test_split_files(full: bool, tell: Callable[[int], None], tmp_path: Path) -> None:
    for folder, stem in (("original_sequences/youtube", "000"), ("manipulated_sequences/Deepfakes", "000_003")):
        plant(tmp_path, [f"{folder}/c23/videos/{stem}.mp4"])
    (tmp_path / "splits").mkdir(exist_ok=True)

    def read(text: bytes) -> None:
        (tmp_path / "splits" / "train.json").write_bytes(text)
        _read("faceforensics", tmp_path)

    pairs = st.lists(st.lists(WORDS, max_size=3), max_size=4).map(lambda value: json.dumps(value).encode())
    tell(fuzz(full, st.one_of(TEXTS, pairs), read))


CELLS = st.one_of(WORDS, st.sampled_from(["0", "1", "train", "test", "a;b", "\\;", '"', "a\nb", "\x00", "c.mp4"]))


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def test_tables(full: bool, tell: Callable[[int], None], tmp_path: Path) -> None:
    plant(tmp_path, ["a.mp4", "b.mp4", "c.mp4"])

    def read(given: tuple[list[str], list[list[str]], bool]) -> None:
        header, rows, quoted = given
        lines = [",".join(map(_quoted, line) if quoted else line) for line in (header, *rows)]
        (tmp_path / "t.csv").write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
        _read("table", tmp_path, table=str(tmp_path / "t.csv"))

    columns = st.sampled_from(["path", "label", "group", "split", "sample_id", "groups"])
    rows = st.lists(st.lists(CELLS, max_size=5), max_size=5)
    tell(fuzz(full, st.tuples(st.lists(st.one_of(columns, CELLS)), rows, st.booleans()), read))


def test_tables_of_paths_and_labels(full: bool, tell: Callable[[int], None], tmp_path: Path) -> None:
    plant(tmp_path, ["a.mp4", "b.mp4", "c.mp4"])

    def read(labels: list[tuple[str, str]]) -> None:
        rows = [f"{_quoted(path)},{label}" for path, label in labels]
        (tmp_path / "t.csv").write_bytes("\n".join(["path,label", *rows]).encode("utf-8", "surrogatepass"))
        _read("table", tmp_path, table=str(tmp_path / "t.csv"))

    labels = st.sampled_from(["0", "1", "real", "fake", "2"])
    tell(fuzz(full, st.lists(st.tuples(CELLS, labels), min_size=1, max_size=5), read))


def test_tables_that_are_none(full: bool, tell: Callable[[int], None], tmp_path: Path) -> None:
    def read(given: tuple[bytes, bool, bool]) -> None:
        data, parquet, whole = given
        file = tmp_path / ("t.parquet" if parquet else "t.csv")
        file.write_bytes(b"PAR1" + data + b"PAR1" if whole else data)
        _read("table", tmp_path, table=str(file))

    tell(fuzz(full, st.tuples(st.binary(max_size=200), st.booleans(), st.booleans()), read))


#: What a file may be called on Linux: any bytes but a slash and a zero.
NAMES = st.binary(min_size=1, max_size=60).filter(lambda name: not set(name) & {0, 47} and name not in (b".", b".."))


def test_file_names(full: bool, tell: Callable[[int], None], tmp_path: Path) -> None:
    root = tmp_path / "names"

    def read(names: list[bytes]) -> None:
        shutil.rmtree(root, ignore_errors=True)
        for place, name in enumerate(names):
            folder = root / ("real" if place % 2 else "fake")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / (name + b".mp4").decode("utf-8", "surrogateescape")).write_bytes(b"x")
        (root / "real").mkdir(exist_ok=True)
        listed = list_files(root, "", VIDEO_SUFFIXES, 1)
        assert all((root / plain_path(written_path(file.path))).is_file() for file in listed)
        found = expand_inputs([str(root)])
        assert len(found) == max(len(listed), 1)
        assert all(harmless(str(one.path)).encode() for one in found)
        ids = sample_ids("set", [("m", file.stem) for file in listed], [file.path for file in listed])
        assert all(name.encode() for name in ids)
        if listed:
            _read("videos", root)

    tell(fuzz(full, st.lists(NAMES, min_size=1, max_size=5, unique=True), read))


def test_named_inputs(full: bool, tell: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plant(tmp_path, ["a.mp4"])

    def read(text: str) -> None:
        (one, *more) = expand_inputs([text])
        assert more == []
        assert one.kind or one.reason

    names = st.text(max_size=60).filter(lambda text: text not in ("", ".", "..") and not text.startswith(("/", "~")))
    tell(fuzz(full, names, read))
