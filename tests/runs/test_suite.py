"""Suites: what they name, where their sets are found, and what stands beside published numbers."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
import yaml
from rich.console import Console

from deepfake.errors import UserError
from deepfake.hydra_app import compose_config
from deepfake.installation import CONF
from deepfake.runs.saved_config import read_changes
from deepfake.runs.suite import Published, Suite, beside_published, open_suite, published_table, sources

NAMES = sorted(path.stem for path in (CONF / "suite").glob("*.yaml"))


def entries(text: str, split: str = "test") -> list[tuple[list[str], str]]:
    return [(list(one.overrides), one.split) for one in open_suite(text, split, {}, None).entries]


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEEPFAKE_DATA", raising=False)


def test_a_list_in_a_file_finds_data_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "suite.yaml"
    file.write_text("- {dataset: images, root: faces, name: mine, split: all}\n- {dataset: dfdc, root: /b}\n")
    first, second = entries(str(file))
    assert first == (["dataset=images", f"dataset.root={tmp_path / 'faces'}", "dataset.name=mine"], "all")
    assert second == (["dataset=dfdc", "dataset.root=/b"], "test")


def test_a_list_in_a_line() -> None:
    assert entries("[{dataset: demo, limit: 4}]", "val") == [(["dataset=demo", "dataset.limit=4"], "val")]


def test_values_survive_the_override_grammar() -> None:
    ((overrides, _),) = entries('[{dataset: table, root: "/a b/it\'s", columns: {label: is fake}}]')
    config = read_changes(overrides).config.dataset
    assert config.root == "/a b/it's"
    assert config.columns == {"label": "is fake"}


@pytest.mark.parametrize("text", ["nowhere.yaml", "[]", "[{root: /a}]", "[1, 2]", "[{dataset: a"])
def test_what_is_no_suite_is_told(text: str) -> None:
    with pytest.raises(UserError):
        entries(text)


def test_a_misspelt_name_is_told_the_nearest() -> None:
    with pytest.raises(UserError, match="none of the suites that come along") as caught:
        entries("crossdatset")
    assert caught.value.hint is not None
    assert "crossdataset" in caught.value.hint


@pytest.mark.parametrize("name", NAMES)
def test_every_set_of_a_suite_is_a_data_set(name: str, tmp_path: Path) -> None:
    sets = yaml.safe_load((CONF / "suite" / f"{name}.yaml").read_text())["sets"]
    suite = open_suite(name, "test", dict.fromkeys(sets, str(tmp_path)), None)
    assert [entry.key for entry in suite.entries] == list(sets)
    assert suite.missing == {}
    for entry in suite.entries:
        config = compose_config(list(entry.overrides)).dataset
        assert (config.name, config.root) == (entry.key, str(tmp_path))
        assert entry.folders
    assert all(one.paper and one.table and 0.5 < one.value < 1 for one in suite.published)


def test_sets_are_found_by_their_usual_names_and_others_are_told(tmp_path: Path) -> None:
    for folder in ("Celeb-DF-v2", "DFDCP"):
        (tmp_path / folder).mkdir()
    (tmp_path / "elsewhere").mkdir()
    suite = open_suite("crossdataset", "test", {"dfdc": str(tmp_path / "elsewhere")}, str(tmp_path))
    roots = {entry.key: entry.overrides[-1] for entry in suite.entries}
    assert roots == {
        "celebdf": f"dataset.root={tmp_path / 'Celeb-DF-v2'}",
        "dfdc": f"dataset.root={tmp_path / 'elsewhere'}",
        "dfdcp": f"dataset.root={tmp_path / 'DFDCP'}",
    }
    assert (
        suite.missing["ffiw"] == f"not in {tmp_path} as FFIW or FFIW10K-v1-release, and suite.roots.ffiw is not typed"
    )


def test_the_environment_says_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "DFDC").mkdir()
    monkeypatch.setenv("DEEPFAKE_DATA", str(tmp_path))
    assert [entry.key for entry in open_suite("crossdataset", "test", {}, None).entries] == ["dfdc"]


def test_a_suite_of_which_nothing_is_there_says_how_to_name_it() -> None:
    with pytest.raises(UserError, match="none of the sets of suite=crossdataset is there") as caught:
        open_suite("crossdataset", "test", {}, None)
    assert caught.value.hint is not None
    assert "suite.roots.faceforensics=" in caught.value.hint


def test_a_root_of_no_set_or_of_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"suite\.roots\.celebd is of no set of suite=crossdataset"):
        open_suite("crossdataset", "test", {"celebd": str(tmp_path)}, None)
    with pytest.raises(UserError, match="does not exist"):
        open_suite("crossdataset", "test", {"celebdf": str(tmp_path / "gone")}, None)
    with pytest.raises(UserError, match="is a plain list"):
        open_suite("[{dataset: demo}]", "test", {"celebdf": str(tmp_path)}, None)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("set: {}", "has the key 'set'"),
        ("trained_on: x", "names no sets"),
        ("sets: {a: {dataset: demo}}\npublished: [{system: S}]", "row without values"),
        ("sets: {a: {dataset: demo}}\npublished: [{system: S, level: clip, values: {a: 0.5}}]", "the level 'clip'"),
        ("sets: {a: {dataset: demo}}\npublished: [{system: S, level: video, values: {b: 0.5}}]", "a value of 'b'"),
        ("sets: {a: {dataset: demo}}\npublished: [{system: S, level: video, values: {a: 93}}]", "93 on a"),
        ("sets: {a: {dataset: demo}}\npublished: [{system: S, level: video, metric: auc, values: {a: 1}}]", "'auc'"),
    ],
)
def test_a_suite_of_another_form_says_what_is_wrong(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=told):
        open_suite(str(tmp_path / "mine.yaml"), "test", {}, None)


PUBLISHED = [
    Published("Xception", "celebdf", 0.7365, "frame", "roc_auc", "a paper", "table 1", "best on test"),
    Published("SBI", "celebdf", 0.93, "video", "roc_auc", "another", "table 2"),
    Published("SBI", "dfdc", 0.73, "video", "roc_auc", "another", "table 2"),
]
VALUES = {"celebdf": {"roc_auc": 0.8, "roc_auc_low": 0.7, "roc_auc_high": 0.9, "frame/roc_auc": 0.75}, "ffiw": {}}


def test_ours_are_of_the_level_that_was_published() -> None:
    found = beside_published(Suite([], published=PUBLISHED), VALUES).set_index("system")
    assert list(found.index) == ["Xception", "SBI"]
    assert (found.loc["Xception", "ours"], found.loc["SBI", "ours"]) == (0.75, 0.8)
    assert pd.isna(found.loc["Xception", "ours_low"])
    assert (found.loc["SBI", "ours_low"], found.loc["SBI", "published"]) == (0.7, 0.93)


def test_a_head_that_says_nothing_of_frames_has_none_to_compare() -> None:
    found = beside_published(Suite([], published=PUBLISHED), {"celebdf": {"roc_auc": 0.8}})
    assert found["ours"].isna().tolist() == [True, False]


def test_the_table_has_a_column_for_each_set_and_says_where_numbers_are_from() -> None:
    said = Console(width=200, file=io.StringIO(), record=True)
    said.print(published_table("mine", "demo", Suite([], {}, PUBLISHED, "FF++"), VALUES))
    text = said.export_text()
    assert "0.800 [0.700, 0.900]" in text
    assert "0.750" in text
    assert "0.737" in text
    assert "dfdc" not in text
    assert sources(Suite([], {}, PUBLISHED, "FF++")) == [
        "published systems were trained on FF++",
        "Xception, frame: a paper, table 1 (best on test)",
        "SBI, video: another, table 2",
    ]
