"""The reader as a distribution of its own: which modules it takes along, and that they stand alone."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from tests import PROJECT

READER = PROJECT / "reader"


@pytest.fixture(scope="module")
def setup() -> ModuleType:
    """``reader/setup.py`` as a module that sets nothing up."""
    import setuptools

    spec = importlib.util.spec_from_file_location("reader_setup", READER / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    patch = pytest.MonkeyPatch()
    patch.setattr(setuptools, "setup", lambda **_: None)
    spec.loader.exec_module(module)
    patch.undo()
    return module


def test_what_is_taken_along_is_what_reading_imports(setup: ModuleType) -> None:
    found = set(setup.modules())
    assert {"deepfake.data.faces.mtcnn", "deepfake.data.faces.yunet", "deepfake.data.prepare_worker"} <= found
    assert {"deepfake.training.pooling", "deepfake.training.decision", "deepfake.reading.cli"} <= found
    # Nothing for types alone, and nothing that trains.
    assert not found & {"deepfake.data.options", "deepfake.training.options", "deepfake.training.fitting"}
    assert not {name for name in found if name.startswith(("deepfake.models", "deepfake.runs", "deepfake.tracking"))}


def test_imports_are_rewritten_and_nothing_else(setup: ModuleType) -> None:
    text = (
        "from deepfake.data import media\nimport deepfake.errors\n    from deepfake import presence\n# from deepfakes\n"
    )
    assert setup.rewritten(text) == (
        "from deepfake_reader._deepfake.data import media\nimport deepfake_reader._deepfake.errors\n"
        "    from deepfake_reader._deepfake import presence\n# from deepfakes\n"
    )
    assert setup.rewritten("from deepfake_reader import Detector\n") == "from deepfake_reader import Detector\n"


@pytest.mark.slow
def test_its_wheel_imports_without_this_project(tmp_path: Path) -> None:
    for name in ("reader", "deepfake"):
        left = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=left)
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(tmp_path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=tmp_path / "reader", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("deepfake_reader-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "site")
        assert not any(b"from deepfake." in packed.read(name) for name in packed.namelist() if name.endswith(".py"))
    # Each of its modules, in a process that finds nothing of this project.
    shutil.rmtree(tmp_path / "deepfake")
    code = (
        "import importlib, pathlib, sys\n"
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "for file in sorted(root.glob('deepfake_reader/**/*.py')):\n"
        "    name = '.'.join(file.relative_to(root).with_suffix('').parts)\n"
        "    importlib.import_module(name.removesuffix('.__init__'))\n"
        "print(*sorted({'torch', 'pandas', 'hydra', 'mlflow', 'optuna', 'sklearn', 'deepfake'} & {*sys.modules}))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
