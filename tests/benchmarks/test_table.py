"""The table of what was measured is made from the results that are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.aims import AIMS
from benchmarks.table import BEGIN, END, PAGE, lines, replaced, table


def keep(folder: Path, name: str, rows: list[dict[str, object]], **machine: str) -> None:
    (folder / f"{name}.json").write_text(json.dumps({"rows": rows, "machine": machine}))


def test_the_pages_table_is_the_one_that_the_results_make() -> None:
    assert table() in PAGE.read_text(encoding="utf-8"), "run: python -m benchmarks.table --write"


def test_a_measured_row_is_shown_with_what_it_is_to_reach(tmp_path: Path) -> None:
    keep(tmp_path, "step", [{"what": "ours / bare", "ratio": 0.9494, "reach": "<= 1.10"}])
    assert "| ours / bare | 0.949 | ≤ 1.10 | `step` |" in lines(tmp_path)


def test_a_row_that_is_to_reach_nothing_is_left_out(tmp_path: Path) -> None:
    keep(tmp_path, "step", [{"what": "for interest", "ratio": 2.0, "reach": ""}])
    assert not any("for interest" in line for line in lines(tmp_path))


def test_what_needs_a_gpu_is_shown_as_not_measured(tmp_path: Path) -> None:
    shown = [line for line in lines(tmp_path) if line.endswith("`gpu` |")]
    assert len(shown) == len(AIMS)
    assert all("| not measured |" in line for line in shown)


def test_a_gpus_rows_name_it(tmp_path: Path) -> None:
    what, reach = AIMS["step"]
    keep(tmp_path, "gpu", [{"what": what, "ratio": 1.004, "reach": reach}], device="NVIDIA H200")
    assert f"| GPU (NVIDIA H200): {what} | 1 | ≤ 1.01 | `gpu` |" in lines(tmp_path)


def test_only_what_stands_between_the_marks_is_exchanged() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert replaced(page, f"{BEGIN}\nnew\n{END}") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"


def test_a_page_without_marks_is_left_alone() -> None:
    with pytest.raises(ValueError, match="no "):
        replaced("no table here", table())
