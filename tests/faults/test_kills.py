"""A command that is killed as it makes its database, or told to stop: nothing is in the way of the next one."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests import PROJECT
from tests.end_to_end.conftest import SMALL

pytestmark = pytest.mark.slow

TINY = [*SMALL, "demo.people=8", "tracking.log_model=false", "tracking.system_metrics=false"]
TRAIN = ["train.py", *TINY]
#: `RUN` and `MEDIA` stand for a finished run and the demo's videos.
PREDICT = ["-m", "deepfake.cli", "predict", "RUN", "MEDIA", "--json"]
#: How long a process may take to notice that its parent is gone, on a machine that does much else.
PATIENCE = 60.0
#: Trains as ``train.py`` does, and is killed as MLflow makes its database's tables ready.
IN_THE_DATABASE = """
import os, runpy, sys
import mlflow.store.db.utils
number = int(sys.argv.pop(1))
mlflow.store.db.utils._upgrade_db = lambda engine: os.kill(os.getpid(), number)
sys.argv.pop(0)
runpy.run_path("train.py", run_name="__main__")
"""


class House:
    """An outputs folder, a folder for temporary files, and the commands that are started and killed there."""

    def __init__(self, folder: Path) -> None:
        self.outputs, self.temporary = folder / "outputs", folder / "temporary"
        self.temporary.mkdir()
        self._log = folder / "log.txt"
        self._finished: dict[Path, str] = {}

    def start(self, arguments: Sequence[str], mark: str = "") -> subprocess.Popen[bytes]:
        environment = {**os.environ, "DEEPFAKE_OUTPUTS": str(self.outputs), "TMPDIR": str(self.temporary)}
        environment |= {"OMP_NUM_THREADS": "1", "TEST_MARK": mark}
        environment.pop("MLFLOW_TRACKING_URI", None)
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, *self._filled(arguments)],
                cwd=PROJECT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def whole(self, arguments: Sequence[str]) -> str:
        """Run a command to its end, which is to be a good one; returns what it said."""
        mark = uuid.uuid4().hex
        process = self.start(arguments, mark)
        status = process.wait(900)
        said = self._log.read_text(errors="replace")
        assert status == 0, (arguments, said)
        self._check_gone(mark)
        self.check()
        assert self._statuses().get("RUNNING", 0) == 0, self._statuses()
        assert self._leftovers() == []
        self._remember()
        return said

    def check(self) -> None:
        """What holds at any moment: the database is sound, what was finished is there and unchanged."""
        database = self.outputs / "mlflow.db"
        if database.exists():
            with closing(sqlite3.connect(database)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        for file, digest in self._finished.items():
            assert _digest(file) == digest, f"{file} has changed"

    def runs(self, name: str, *, finished: bool) -> list[Path]:
        found = [
            folder for folder in (self.outputs / "runs").glob(f"*_{name}_*") if (folder / "resolved.yaml").is_file()
        ]
        return [folder for folder in found if (folder / "metrics.json").is_file() == finished]

    def _filled(self, arguments: Sequence[str]) -> list[str]:
        filled = []
        for word in arguments:
            if word == "RUN":
                filled.append(str(sorted(self.runs("trained", finished=True))[0]))
            elif word == "MEDIA":
                filled += sorted(map(str, (self.outputs / "cache" / "demo").rglob("*.mp4")))[:4]
            else:
                filled.append(word)
        return filled

    def _check_gone(self, mark: str) -> None:
        end = time.monotonic() + PATIENCE
        while living := _marked(mark):
            assert time.monotonic() < end, f"still there: {living}"
            time.sleep(0.2)

    def _statuses(self) -> dict[str, int]:
        database = self.outputs / "mlflow.db"
        if not database.exists():
            return {}
        with closing(sqlite3.connect(database)) as connection:
            return dict(connection.execute("SELECT status, COUNT(*) FROM runs GROUP BY status").fetchall())

    def _leftovers(self) -> list[str]:
        """Halves and temporary files; locks are empty files that stay."""
        hidden = [path for path in self.outputs.rglob(".*") if not path.name.endswith(".lock")]
        beside = [path for path in self.outputs.rglob("*") if re.search(r"\.(partial|tmp)$|mlflow\.db[.-]", path.name)]
        beside = [path for path in beside if not path.name.endswith(".lock")]
        thrown = [path for path in self.temporary.iterdir() if re.match(r"deepfake-|tmp", path.name)]
        return sorted(map(str, {*hidden, *beside, *thrown}))

    def _remember(self) -> None:
        for metrics in self.outputs.rglob("metrics.json"):
            folder = metrics.parent
            # Evaluations of a run are put beside its files, and made anew when asked for again.
            if "eval" in folder.parts or "artifacts" in folder.parts or (folder / "checkpoints" / "last.pt").exists():
                continue
            for file in folder.rglob("*"):
                if file.is_file() and "eval" not in file.relative_to(folder).parts:
                    self._finished.setdefault(file, _digest(file))


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _marked(mark: str) -> list[str]:
    """Living processes that a command started, whose children inherit its environment."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            ours = f"TEST_MARK={mark}".encode() in (place / "environ").read_bytes()
            if ours and ") Z " not in (place / "stat").read_text():
                found.append(f"{place.name} {(place / 'cmdline').read_bytes()[-80:]!r}")
    return found


@pytest.fixture
def house(tmp_path: Path) -> House:
    if not Path("/proc/self/environ").exists():
        pytest.skip("no /proc to find processes in")
    return House(tmp_path)


@pytest.mark.parametrize(("number", "times"), [(signal.SIGKILL, 5), (signal.SIGTERM, 1)])
def test_killed_while_the_first_command_makes_the_database(
    house: House, full: bool, number: signal.Signals, times: int
) -> None:
    if not full and number != signal.SIGKILL:
        pytest.skip("with --full")
    for _ in range(times if full else 2):
        process = house.start(["-c", IN_THE_DATABASE, str(int(number)), *TRAIN])
        expected = -signal.SIGKILL if number == signal.SIGKILL else 130
        assert process.wait(300) == expected
        assert not (house.outputs / "mlflow.db").exists()
        house.check()
    house.whole(TRAIN)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["train", "predict"])
def test_told_to_stop_it_ends_what_it_began(house: House, full: bool, number: signal.Signals, name: str) -> None:
    if not full:
        pytest.skip("with --full")
    if name == "predict":
        house.whole([*TRAIN, "name=trained"])
    arguments = PREDICT if name == "predict" else [*TRAIN, "name=trained", "trainer.epochs=100000"]
    mark = uuid.uuid4().hex
    process = house.start(arguments, mark)
    _until(house, process, name)
    process.send_signal(number)
    assert process.wait(300) == 130
    house._check_gone(mark)
    house.check()
    assert house._leftovers() == []
    assert house._statuses().get("RUNNING", 0) == 0


def _until(house: House, process: subprocess.Popen[bytes], name: str) -> None:
    """Wait until a run trains, or a prediction has its scratch folder."""
    end = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < end:
        if name == "train" and house._statuses().get("RUNNING", 0) and list(house.outputs.rglob("last.pt")):
            return
        if name == "predict" and list(house.temporary.glob("deepfake-predict-*")):
            return
        time.sleep(0.02)
    pytest.fail(f"{name} ended, or never began its work")
