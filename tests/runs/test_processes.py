"""How many processes trained a run, and whether as many can be started here."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.data.manifest import Manifest, make_rows
from deepfake.errors import UserError
from deepfake.runs.build import Inputs
from deepfake.runs.processes import MOST, _packed, _unpacked, check_processes, processes_of


@pytest.mark.parametrize(
    ("noted", "count"),
    [
        ({}, 1),
        ({"environment": {"WORLD_SIZE": "2"}}, 2),
        ({"environment": {"WORLD_SIZE": "many"}}, 1),
        ({"environment": {"WORLD_SIZE": None}}, 1),
        # A cluster's own variable, which one process alone ran under.
        ({"machine": {"processes": 1}, "environment": {"WORLD_SIZE": "8"}}, 1),
        ({"machine": {"processes": 4}}, 4),
    ],
)
def test_what_was_noted_of_them(noted: dict[str, object], count: int) -> None:
    assert processes_of(noted) == count


def test_the_processor_takes_several_and_devices_one_each(monkeypatch: pytest.MonkeyPatch) -> None:
    check_processes(2, "cpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    check_processes(2, "cpu")
    with pytest.raises(UserError, match="2 processes with a device each, and this machine has 1") as caught:
        check_processes(2, "auto")
    assert "trainer.accelerator=cpu" in caught.value.hint


@pytest.mark.parametrize("count", [0, -1, MOST + 1, 10**9])
def test_more_than_one_machine_runs_is_refused(count: int) -> None:
    with pytest.raises(UserError, match=f"{count} processes"):
        check_processes(count, "cpu")


def test_what_they_read_is_handed_on(tmp_path: Path) -> None:
    row = {"sample_id": "a", "path": "a.png", "kind": "image", "label": 1, "method": "m", "dataset": "d",
           "groups": ("x", "y")}  # fmt: skip
    given = Inputs(Manifest(make_rows([row]), {"d": tmp_path}, official=True), tmp_path / "crops")
    found = _unpacked(_packed(given, tmp_path))
    assert found is not None
    assert found.manifest.table.equals(given.manifest.table)
    assert (found.manifest.roots, found.manifest.official) == ({"d": tmp_path}, True)
    assert (found.crops, found.features) == (tmp_path / "crops", None)
    assert _unpacked(_packed(None, tmp_path)) is None
