"""Where an evaluation is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.runs.evaluate import _place


@pytest.mark.parametrize("name", ["", ".", "..", "../..", "a/../b", "/etc"])
def test_a_data_sets_name_leads_nowhere_else(name: str, tmp_path: Path) -> None:
    kept = _place(name, "test")
    assert (tmp_path / "eval" / kept).resolve().parent == tmp_path / "eval"
