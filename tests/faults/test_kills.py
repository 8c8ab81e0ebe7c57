"""kill -9 at any moment of any command, on one outputs folder: only the work in hand is lost, nothing is in the way."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
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

import pandas as pd
import pytest

from deepfake.tracking.reproducibility import is_timing
from tests import PROJECT
from tests.end_to_end.conftest import SMALL

pytestmark = pytest.mark.slow

TINY = [*SMALL, "demo.people=8", "tracking.log_model=false", "tracking.system_metrics=false"]
TRAIN = ["train.py", *TINY]
SWEEP = ["train.py", "-m", *TINY, "sweep.n_trials=3", "optimizer.lr=interval(0.0001,0.01)"]
GRID = ["train.py", "-m", *TINY, "optimizer.lr=0.001,0.002"]
FEATURES = [*TRAIN, "name=features", "features=cached", "backbone.freeze=true", "augment=none"]
DEEPFAKE = ["-m", "deepfake.cli"]
PREDICT = [*DEEPFAKE, "predict", "RUN", "MEDIA", "--json"]
#: Each command, and after how many kills it is let go to its end: all of them, and the sample that CI takes.
#: `RUN` and `MEDIA` stand for a finished run and the demo's videos, `ROUND` for which time it is let go to its end.
COMMANDS: dict[str, tuple[list[str], list[int], list[int]]] = {
    "prepare": (
        [*DEEPFAKE, "prepare", *SMALL[:5], "demo.people=8", "demo.seed=ROUND", "dataset.workers=2"],
        [1, 2, 3],
        [1],
    ),
    "train": ([*TRAIN, "trainer.epochs=2", "name=trained"], [1, 1, 1, 2, 5], [2]),
    "features": ([*FEATURES, "demo.seed=ROUND"], [1, 2, 3], []),
    "study": ([*SWEEP, "sweep.name=alone-ROUND"], [2, 3], []),
    "study of two workers": ([*SWEEP, "sweep.name=pair-ROUND", "sweep.n_jobs=2"], [2, 3], []),
    "grid": (GRID, [2, 2], []),
    "grid of two workers": ([*GRID, "sweep.n_jobs=2"], [2, 2], []),
    "evaluate": ([*DEEPFAKE, "evaluate", "RUN", "split=all"], [1, 2, 3], [1]),
    "predict": (PREDICT, [1, 2, 3], [2]),
}
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

    def __init__(self, folder: Path, seed: int = 1) -> None:
        self.outputs, self.temporary = folder / "outputs", folder / "temporary"
        self.temporary.mkdir()
        self._log = folder / "log.txt"
        self._draw = random.Random(seed)
        self._seconds: dict[str, float] = {}
        self._finished: dict[Path, str] = {}
        self._complete: dict[Path, int] = {}
        #: What was killed when, and how many of the kills met a command that had begun to write.
        self.kills: list[str] = []
        self.writing = 0
        #: The longest that processes of a killed command lived on, in seconds.
        self.longest = 0.0

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

    def whole(self, arguments: Sequence[str], name: str = "") -> str:
        """Run a command to its end, which is to be a good one; returns what it said."""
        mark, began = uuid.uuid4().hex, time.monotonic()
        process = self.start(arguments, mark)
        status = process.wait(900)
        said = self._log.read_text(errors="replace")
        assert status == 0, (arguments, said, self.kills[-5:])
        self._seconds[name] = time.monotonic() - began
        self._check_gone(mark)
        self.check()
        assert self._statuses().get("RUNNING", 0) == 0, self._statuses()
        assert self._leftovers() == []
        self._remember()
        return said

    def kill(self, arguments: Sequence[str], name: str) -> None:
        """Kill a command, alone or with its children, at a moment drawn; once more where it ended before."""
        longest = self._seconds.get(name, 10.0)
        group, late = (bool(self._draw.getrandbits(1)) for _ in range(2))
        for again in range(6):
            mark, before, began = uuid.uuid4().hex, self._written(), time.monotonic()
            process = self.start(arguments, mark)
            # Of the start the least is there yet, and of what follows the most is half done: as many moments of each.
            while late and process.poll() is None and self._written() == before:
                time.sleep(0.02)
            late = late and process.poll() is None
            if late:
                seconds = self._draw.uniform(0.0, max(longest - (time.monotonic() - began), 0.5)) * 0.5**again
            else:
                seconds = math.exp(self._draw.uniform(math.log(0.1), math.log(longest)))
            with suppress(subprocess.TimeoutExpired):
                assert process.wait(seconds) == 0, (arguments, self._log.read_text(errors="replace"), self.kills[-5:])
                longest = max(1.0, longest / 2) if not late else longest
                continue
            (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            ended = time.monotonic()
            self.writing += self._written() != before
            self.kills.append(f"{name} after {ended - began:.1f} s{' (group)' if group else ''}")
            self._check_gone(mark)
            self.longest = max(self.longest, time.monotonic() - ended)
            self.check()
            return
        pytest.fail(f"{arguments} always ended before it was killed")

    def check(self) -> None:
        """What holds at any moment: the database is sound, what was finished is there and unchanged."""
        database = self.outputs / "mlflow.db"
        if database.exists():
            with closing(sqlite3.connect(database)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        for file, digest in self._finished.items():
            assert _digest(file) == digest, f"{file} has changed after {self.kills[-1:]}"
        for journal, count in self._completed().items():
            assert count >= self._complete.get(journal, 0), f"{journal} has lost trials"
            self._complete[journal] = count

    def trials(self) -> dict[str, int]:
        """How many trials each study has completed."""
        return {journal.parent.name: count for journal, count in self._completed().items()}

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
            assert time.monotonic() < end, f"still there: {living}, after {self.kills[-1:]}"
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

    def _completed(self) -> dict[Path, int]:
        return {journal: _complete(journal) for journal in (self.outputs / "sweeps").glob("*/study.journal")}

    def _written(self) -> dict[str, tuple[int, int]]:
        """What is in both folders: each path with its size and time of change."""
        found = {}
        for path in (path for folder in (self.outputs, self.temporary) for path in _all_of(folder)):
            with suppress(FileNotFoundError):
                status = path.stat()
                found[str(path)] = (status.st_size, status.st_mtime_ns)
        return found


def _all_of(folder: Path) -> list[Path]:
    """All that is in a folder, which may change meanwhile."""
    return [Path(place) / name for place, folders, files in os.walk(folder) for name in (*folders, *files)]


def _complete(journal: Path) -> int:
    """How many trials a study's journal tells to be complete; its last line may be cut."""
    count = 0
    for line in journal.read_bytes().splitlines():
        with suppress(ValueError):
            entry = json.loads(line)
            count += entry.get("op_code") == 6 and entry.get("state") == 1
    return count


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


def _numbers(folder: Path) -> tuple[dict[str, float], pd.DataFrame]:
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    kept = {name: value for name, value in metrics.items() if not is_timing(name)}
    return kept, pd.read_parquet(folder / "predictions.parquet")


@pytest.fixture
def house(tmp_path: Path) -> House:
    if not Path("/proc/self/environ").exists():
        pytest.skip("no /proc to find processes in")
    return House(tmp_path)


def test_killed_anywhere_the_same_command_ends_well(house: House, full: bool, record_property) -> None:
    resumed = 0
    for name, (template, all_of_them, sample) in COMMANDS.items():
        for number, kills in enumerate(all_of_them if full else sample):
            arguments = [word.replace("ROUND", str(number)) for word in template]
            for _ in range(kills):
                house.kill(arguments, name)
            house.whole(arguments, name)
            print(f"{name}: {len(house.kills)} kills, {house.writing} of them while it wrote", flush=True)
        if name == "train":
            reference = _numbers(house.runs("trained", finished=True)[0])
            for folder in house.runs("trained", finished=False):
                house.whole(["train.py", f"resume={folder}"])
                metrics, predictions = _numbers(folder)
                assert metrics == reference[0]
                pd.testing.assert_frame_equal(predictions, reference[1], check_exact=True)
                resumed += 1
    if full:
        # A grid of two workers is a study as well, of its two jobs.
        assert sorted(house.trials().values()) == [2, 3, 3, 3, 3]
    told = (
        f"kills: {len(house.kills)}, {house.writing} of them while the command wrote, lost: 0, in the way: 0, "
        f"resumed to the same digits: {resumed}, slowest to vanish: {house.longest:.1f} s"
    )
    record_property("result", told)
    print(told)


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
