"""``experiment=<path>``: a file anywhere is laid over the config."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.errors import HydraException

from deepfake.hydra_app import compose_config as composed

BODY = """# @package _global_
defaults:
  - override /model: cnn_gru
  - _self_
optimizer:
  lr: 0.25
"""


def test_an_absolute_path_is_laid_over_the_config(tmp_path: Path) -> None:
    (tmp_path / "best.yaml").write_text(BODY)
    config = composed([f"experiment={tmp_path}/best.yaml"])
    assert (config.name, config.optimizer.lr) == ("cnn_gru", 0.25)


def test_a_path_from_here_is_laid_over_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "best.yaml").write_text(BODY)
    monkeypatch.chdir(tmp_path)
    assert composed(["experiment=sweep/best.yaml"]).optimizer.lr == 0.25


def test_the_command_line_still_wins(tmp_path: Path) -> None:
    (tmp_path / "best.yaml").write_text(BODY)
    assert composed([f"experiment={tmp_path}/best.yaml", "optimizer.lr=0.5"]).optimizer.lr == 0.5


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(HydraException, match="best"):
        composed([f"experiment={tmp_path}/best.yaml"])
