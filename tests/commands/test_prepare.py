"""Preparing from the command line: the audit that is told, the table that is written, the stores that are freed."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from deepfake.cli import main


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The overrides that prepare a small folder of pictures."""
    monkeypatch.setenv("DEEPFAKE_OUTPUTS", str(tmp_path / "outputs"))
    for number in range(24):
        for label, side in (("real", 40), ("fake", 60)):
            path = tmp_path / "set" / label / f"{label}_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng([number, side]).integers(0, 255, (side, side, 3), dtype=np.uint8)
            cv2.imwrite(str(path), noise)
    return ["prepare", "dataset=images", f"dataset.root={tmp_path / 'set'}", "dataset.size=32"]


def test_a_shortcut_is_told(prepared: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(prepared) == 0
    assert "warning: metadata alone tells the class" in capsys.readouterr().out


def test_the_audit_is_found_once(prepared: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(prepared)
    first = capsys.readouterr().out
    kept = list((tmp_path / "outputs").rglob("audits/*.json"))
    main(prepared)
    assert capsys.readouterr().out.split("samples\n", 1)[1] == first.split("samples\n", 1)[1]
    assert list((tmp_path / "outputs").rglob("audits/*.json")) == kept
    assert len(kept) == 1


def test_other_splits_are_audited_anew(prepared: list[str], tmp_path: Path) -> None:
    main(prepared)
    main([*prepared, "dataset.split_seed=7"])
    assert len(list((tmp_path / "outputs").rglob("audits/*.json"))) == 2


def test_shares_are_audited_when_all_are_there(prepared: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main([*prepared, "prepare.shard=0/2"])
    assert "the audit waits for all 2 shares" in capsys.readouterr().out
    main([*prepared, "prepare.shard=1/2"])
    capsys.readouterr()
    main(prepared)
    assert "crops: 48 ok" in capsys.readouterr().out


def test_the_manifest_is_written_with_paths_relative_to_the_root_as_given(prepared: list[str], tmp_path: Path) -> None:
    above = [text.replace(f"dataset.root={tmp_path / 'set'}", f"dataset.root={tmp_path}") for text in prepared]
    assert main([*above, "--manifest", str(tmp_path / "tables" / "m.csv")]) == 0
    table = pd.read_csv(tmp_path / "tables" / "m.csv")
    assert set(table["split"]) == {"train", "val", "test"}
    assert all((tmp_path / path).is_file() for path in table["path"])
    assert ((table["label"] == 1) == table["path"].str.startswith("set/fake/")).all()


def test_the_manifest_is_read_again_as_it_says(
    prepared: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again = tmp_path / "first.csv", tmp_path / "again.csv"
    main([*prepared, "--manifest", str(first)])
    said = re.search(r"read it with (.*?)\)", capsys.readouterr().out.replace("\n", " "))
    assert said is not None
    main(["prepare", *said[1].split(), "dataset.faces=none", "dataset.size=32", "--manifest", str(again)])
    assert again.read_bytes() == first.read_bytes()


def test_stores_are_listed_and_freed(prepared: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(prepared)
    capsys.readouterr()
    main(["prepare", "--list"])
    assert "none 32 px" in capsys.readouterr().out
    main(["prepare", "--prune"])
    assert "1 crop stores removed" in capsys.readouterr().out


def test_the_probe_of_a_backbone_is_stated_where_it_is_asked_for(
    prepared: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = ["backbone=tiny", "backbone.pretrained=false", "trainer.accelerator=cpu"]
    assert main([*prepared, *backbone]) == 0
    assert "linear probe" not in capsys.readouterr().out
    assert main([*prepared, *backbone, "evaluation.probe=true"]) == 0
    assert "a linear probe on the backbone's frozen features" in capsys.readouterr().out
