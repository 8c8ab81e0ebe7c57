"""Where there is no GPU, its benchmark says so and keeps nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, measure
from benchmarks.aims import AIMS, MODELS


def test_without_a_gpu_nothing_is_measured_nor_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(sys, "argv", ["gpu"])
    assert gpu.main() == 0
    assert "no CUDA device" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()


def test_the_way_is_the_same_with_tiny_sizes(tmp_path: Path) -> None:
    bench = gpu.Bench(gpu.TINY, tmp_path)
    rows = [bench.step(), *bench.feeding(MODELS[1])]
    assert [row["what"] for row in rows] == [
        AIMS[name][0] for name in ("step", "store efficientnet_b4", "memory efficientnet_b4")
    ]
    assert all(float(str(row["ratio"])) > 0 for row in rows)
