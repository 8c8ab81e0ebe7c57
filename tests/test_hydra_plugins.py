"""``experiment=<path>``: a file anywhere is laid over the config."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.errors import HydraException

from deepfake.errors import UserError
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


BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (BOMB.encode(), "more than 100,000 values"),
        (b"a: &a [*a]", "stands for what it lies in"),
        (b"x: !!python/object/apply:os.getpid []", "could not determine a constructor"),
        (b"\xff\xfe\0", "codec"),
        (b"a: [1\nb: }", "expected"),
        (b"- 1\n- 2", "no keys"),
        (b"", "no keys"),
        (b"12", "Invalid loaded object"),
        (b"[" * 5_000, "recursion"),
    ],
)
def test_a_file_that_is_no_experiment_is_told(body: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(body)
    with pytest.raises(UserError, match=why) as refused:
        composed([f"experiment={tmp_path}/x.yaml"])
    assert "x.yaml" in refused.value.message


def test_an_alias_may_stand_for_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("# @package _global_\noptimizer: {lr: &rate 0.25}\nbackbone: {lr: *rate}\n")
    assert composed([f"experiment={tmp_path}/x.yaml"]).backbone.lr == 0.25
