"""A run's environment rebuilt: which packages and which code, and what of a stranger's is left out."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from deepfake.errors import UserError
from deepfake.runs import environment
from deepfake.runs.environment import Code, Lock, read_code, read_lock, rebuild
from tests import PROJECT

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
MADE = {"python": f"{PYTHON}.1", "packages": {"torch": "2.9.0", "packaging": "24.0", "deepfake-sweeps": "0.1.0"}}
COMMIT = subprocess.run(
    ["git", "rev-parse", "HEAD"], cwd=PROJECT, capture_output=True, text=True, check=False
).stdout.strip()
in_clone = pytest.mark.skipif(not COMMIT, reason="this is no clone: no commit to build from")


def test_every_package_is_pinned_but_our_own() -> None:
    assert read_lock(MADE, trusted=False) == Lock(PYTHON, {"packaging": "24.0", "torch": "2.9.0"})


@pytest.mark.parametrize("name", ["evil-package", "nvidia-evil", "x @ https://evil", "-r", "../evil", "torch[x]"])
def test_of_a_stranger_no_package_that_this_project_does_not_need(name: str) -> None:
    made = {**MADE, "packages": {**MADE["packages"], name: "1.0"}}  # type: ignore[dict-item]
    lock = read_lock(made, trusted=False)
    assert name not in lock.pins
    assert lock.refused == [name]
    # One's own run may have had plugins; what is no name of a package is none of anybody's.
    assert (name in read_lock(made, trusted=True).pins) == (name in ("evil-package", "nvidia-evil"))


def test_parts_of_cuda_are_needed_where_torch_is_built_for_it() -> None:
    made = {**MADE, "packages": {"nvidia-cublas-cu12": "12.8.4.1", "nvidia-nccl-cu12": "2.27"}}
    assert len(read_lock(made, trusted=False).pins) == 2


@pytest.mark.parametrize("bad", ["1.0; import os", "1.0 --index-url=https://evil", "", "@ https://evil"])
def test_a_version_that_is_none(bad: str) -> None:
    with pytest.raises(UserError, match="which is none"):
        read_lock({**MADE, "packages": {"torch": bad}}, trusted=True)


@pytest.mark.parametrize("made", [{}, {"python": "3.11.1"}, {**MADE, "python": "three"}, {**MADE, "packages": {}}])
def test_a_run_that_noted_too_little(made: dict[str, object]) -> None:
    with pytest.raises(UserError, match="did not note"):
        read_lock(made, trusted=True)


@in_clone
def test_the_commit_is_taken_with_changes_that_are_trusted_only() -> None:
    git = {"commit": COMMIT, "diff": "--- a", "untracked": ["deepfake/new.py"]}
    made = {**MADE, "git": git, "code": {"deepfake/new.py": "1"}}
    own = read_code(made, {"deepfake/new.py": b"x"}, trusted=True)
    assert (own.commit, own.diff, own.files, own.notes) == (COMMIT, "--- a", {"deepfake/new.py": b"x"}, [])
    strange = read_code(made, {"deepfake/new.py": b"x"}, trusted=False)
    assert (strange.commit, strange.diff, strange.files) == (COMMIT, "", {})
    assert "left out" in strange.notes[0]
    assert "not there any more" in read_code(made, {}, trusted=True).notes[0]


@in_clone
@pytest.mark.parametrize("commit", ["0" * 40, None, "--upload-pack=evil", "HEAD"])
def test_a_commit_that_is_not_here(commit: str | None) -> None:
    code = read_code({**MADE, "git": {"commit": commit}}, {}, trusted=True)
    assert code.commit is None
    assert "the one that is running" in code.notes[0]


def test_a_python_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(environment, "_write_code", lambda code, folder: None)
    with pytest.raises(UserError, match=r"Python 3\.99"):
        rebuild(Lock("3.99", {}), Code(), tmp_path, lambda text: None)
    assert not [path for path in (tmp_path / "environments").iterdir() if path.is_dir()]


DIFF = """\
diff --git a/changed.txt b/changed.txt
new file mode 100644
--- /dev/null
+++ b/changed.txt
@@ -0,0 +1 @@
+changed
"""


@in_clone
@pytest.mark.slow
def test_a_small_one_is_made_once_with_the_code_of_the_commit(tmp_path: Path) -> None:
    code = Code(COMMIT, DIFF, {"deepfake/beside.py": b"VALUE = 5\n"})
    lock = Lock(PYTHON, {"packaging": version("packaging")})
    said: list[str] = []
    try:
        made = rebuild(lock, code, tmp_path, said.append)
    except UserError as error:
        pytest.skip(f"no index to install from: {error.message}")
    program = "import deepfake.beside as b, packaging; print(b.VALUE, packaging.__version__, b.__file__)"
    done = subprocess.run([made.python, "-P", "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.split() == ["5", version("packaging"), str(made.code / "deepfake" / "beside.py")]
    assert (made.code / "changed.txt").read_text() == "changed\n"
    # Its own commit, whatever repository the folder lies in.
    shown = subprocess.run(
        ["git", "-C", made.code, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert shown == COMMIT
    assert rebuild(lock, code, tmp_path, said.append) == made
    assert said[-1] == f"environment: {made.folder}"
