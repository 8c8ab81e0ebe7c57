"""The project installed as a package, away from its repository: what pip makes of it has all that its commands need."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import PROJECT
from tests.end_to_end.conftest import SMALL

Installed = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow

SOURCES = ("deepfake", "hydra_plugins", "conf", "sweeps", "pyproject.toml", "setup.py", "README.md", "LICENSE")
#: Small enough for several trials.
TINY = [*SMALL, "dataset=demo", "tracking.log_model=false", "tracking.system_metrics=false"]


def _run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    unset = ("DEEPFAKE_OUTPUTS", "MLFLOW_TRACKING_URI", "PYTHONPATH")
    variables = {key: value for key, value in os.environ.items() if key not in unset} | {"COLUMNS": "160"}
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=cwd, env=variables | environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository without what tools left in it."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(PROJECT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``pip install .`` installs, made without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def site_packages(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a fresh environment that has the wheel, and sees this one's packages but not this one's project."""
    folder = tmp_path_factory.mktemp("fresh")
    _run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet")
    _run(*pip, wheel, cwd=folder)
    found = Path(
        _run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).stdout.strip()
    )
    # A folder that is named in a .pth file is searched, but its own .pth files, an editable install's, are not read.
    (found / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    where = _run(python, "-c", "import deepfake; print(deepfake.__file__)", cwd=folder).stdout
    assert Path(where.strip()).is_relative_to(found)
    return found


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that commands are given in."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def deepfake(site_packages: Path, elsewhere: Path) -> Installed:
    """``deepfake("train", …)`` runs the installed command, elsewhere."""
    program = site_packages.parents[2] / "bin" / "deepfake"
    return lambda *words: _run(program, *words, cwd=elsewhere)


def _configs() -> set[str]:
    return {str(path.relative_to(PROJECT)) for name in ("conf", "sweeps") for path in (PROJECT / name).rglob("*.yaml")}


def test_the_wheel_holds_every_config(wheel: Path) -> None:
    held = zipfile.ZipFile(wheel).namelist()
    assert {f"deepfake/{name}" for name in _configs()} <= {*held}
    assert not [name for name in held if name.startswith(("conf/", "sweeps/", "tests/"))]


def test_the_source_archive_holds_every_config(source: Path, tmp_path: Path) -> None:
    _run(
        sys.executable,
        "-c",
        f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})",
        cwd=source,
    )
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert _configs() | {"setup.py"} <= held


def test_a_verb_prepares_with_a_worker_process(deepfake: Installed, elsewhere: Path) -> None:
    deepfake("prepare", *TINY, "dataset.workers=1")
    assert [*(elsewhere / "outputs" / "cache" / "crops").iterdir()]


def test_many_runs_are_compared(deepfake: Installed, elsewhere: Path, site_packages: Path) -> None:
    said = deepfake("train", "-m", *TINY, "model=cnn_lstm,cnn_gru").stdout
    assert "compared" in said
    sweep = next((elsewhere / "outputs" / "sweeps").iterdir())
    assert (elsewhere / "outputs" / "mlflow.db").is_file()
    made = json.loads((sweep / "1" / "provenance.json").read_text())
    assert made["git"]["commit"] is None
    assert made["version"] == made["packages"]["deepfake-sweeps"]
    assert not (site_packages / "outputs").exists()
    assert not [path for path in (site_packages / "deepfake").rglob("*") if path.suffix in {".db", ".log", ".npy"}]


def test_a_search_runs_in_worker_processes_and_its_best_again(deepfake: Installed, elsewhere: Path) -> None:
    said = deepfake(
        "train", "search=lr_batch", *TINY, "model=cnn_gru", "sweep.n_trials=2", "sweep.n_jobs=2", "sweep.name=s"
    )
    assert "best: deepfake train experiment=" in said.stdout
    best = elsewhere / "outputs" / "sweeps" / "s" / "best.yaml"
    shown = deepfake("train", f"experiment={best}", "--cfg", "job", "--resolve").stdout
    assert f"outputs: {elsewhere}/outputs" in shown


def test_a_mistake_is_told_with_the_command_that_is_there(site_packages: Path, elsewhere: Path) -> None:
    program = site_packages.parents[2] / "bin" / "deepfake"
    done = subprocess.run([program, "train", "modl=cnn"], cwd=elsewhere, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith("error: ")
    assert "train.py" not in done.stderr
