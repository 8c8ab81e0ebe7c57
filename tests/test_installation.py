from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from deepfake import installation
from deepfake.installation import PACKAGE, child_environment, module_command


def test_a_checkout_is_named_to_other_processes_first() -> None:
    child = child_environment({"PYTHONPATH": "/mine", "HOME": "/me"})
    assert child == {"PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), "/mine"]), "HOME": "/me"}


def test_installed_packages_are_not_put_before_the_standard_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation.site, "getsitepackages", lambda: [str(PACKAGE.parent)])
    assert child_environment({"HOME": "/me"}) == {"HOME": "/me"}


def test_an_installed_command_writes_where_it_was_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(installation, "CHECKOUT", None)
    monkeypatch.chdir(tmp_path)
    assert installation.project_folder.__wrapped__() == tmp_path


@pytest.mark.parametrize("module", ["deepfake.data.prepare_worker", "deepfake.sweeping.worker"])
def test_no_process_of_ours_imports_from_the_working_directory(module: str, tmp_path: Path) -> None:
    for name in ("json", "threading"):
        (tmp_path / f"{name}.py").write_text("open('was_run', 'w')\n")
    # Without its first line of input each ends, after its imports.
    subprocess.run(
        module_command(module),
        cwd=tmp_path,
        env=child_environment(os.environ),
        input=b"",
        capture_output=True,
        check=False,
    )
    assert not (tmp_path / "was_run").exists()
