"""A run of the past, read from files that anybody may have written."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from deepfake.errors import UserError
from deepfake.tracking.run_record import RunRecord, read_yaml


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (bomb(9), "alias"),
        ("!!python/object/apply:os.system ['touch was_run']", "python/object"),
        ("[" * 5000 + "]" * 5000, "deep"),
        ("a: [1", "expected"),
        ("a: " + "x" * (1 << 21), "larger"),
    ],
)
def test_a_file_that_is_no_plain_config_is_refused(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "resolved.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=why):
        read_yaml(path)


def test_a_table_without_a_column_that_is_read_is_damaged(tmp_path: Path) -> None:
    table = pd.DataFrame({"sample_id": ["a"], "score": [0.5], "groups": [["a"]], "label": [1]})
    table.to_parquet(tmp_path / "predictions.parquet")
    table.to_parquet(tmp_path / "manifest.parquet")
    record = RunRecord("r", None, "FINISHED", None, (tmp_path,))
    assert len(record.predictions("label")) == len(record.manifest("label")) == 1
    with pytest.raises(UserError, match=r"predictions.parquet is damaged: it has no column split, status"):
        record.predictions("split", "status")
    with pytest.raises(UserError, match=r"manifest.parquet is damaged: it has no column kind"):
        record.manifest("kind")
