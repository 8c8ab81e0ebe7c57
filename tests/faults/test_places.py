"""Data and outputs in places that are read only, another's, oddly named or on another disk; clocks that are set."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.faults.conftest import Disk
from tests.faults.test_disks import ROOM, STUDY, TINY, TRAIN, check_whole, only_run, query, values
from tests.forked import Fault, Forks

pytestmark = pytest.mark.slow

#: Somebody who owns nothing and has no entry anywhere, as processes in containers do.
NOBODY = 65533
DAY = 86400.0


@pytest.fixture(scope="module")
def undisturbed(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of a run that nothing happened to."""
    outputs = tmp_path_factory.mktemp("undisturbed")
    done = forks(*TRAIN, outputs=outputs)
    assert done.status == 0, done.text
    return outputs


def skip_unless(wanted: bool, full: bool) -> None:
    if not full and not wanted:
        pytest.skip("only with --full")


def started(undisturbed: Path, outputs: Path) -> Path:
    """An outputs folder in which the demo is made and cut."""
    shutil.copytree(undisturbed / "cache", outputs / "cache")
    return outputs


@pytest.mark.parametrize("verb", ["train", "prepare"])
def test_data_that_is_read_only(verb: str, full: bool, forks: Forks, disk: Disk, undisturbed: Path) -> None:
    skip_unless(verb == "prepare", full)
    place = disk(ROOM)
    (demo,) = (path for path in (undisturbed / "cache" / "demo").iterdir() if path.is_dir())
    data = shutil.copytree(demo, place / "data")
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    own = [text for text in TINY if not text.startswith("demo.")]
    own = [*own, "backbone.name=tiny", "backbone.pretrained=false"]
    own = own if verb == "train" else [text for text in own if text.startswith("dataset.")]
    chosen = ["dataset=faceforensics", "dataset.methods=null", f"dataset.root={data}"]
    done = forks(verb, *own, *chosen, outputs=undisturbed.parent / verb)
    assert done.status == 0, done.text


@pytest.mark.parametrize("verb", ["train", "prepare", "study", "evaluate", "compare"])
def test_outputs_that_are_read_only(verb: str, full: bool, forks: Forks, disk: Disk, undisturbed: Path) -> None:
    skip_unless(verb == "train", full)
    place = disk(ROOM)
    shutil.copytree(undisturbed, place, dirs_exist_ok=True)
    run = str(only_run(place))
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    words = {
        "train": TRAIN,
        "prepare": ["prepare", "demo.people=8", "demo.seconds=1"],
        "study": STUDY,
        "evaluate": ["evaluate", run],
        "compare": ["compare", run, run],
    }[verb]
    done = forks(*words, outputs=place)
    assert done.is_told, done.text


NAMES = ["per%cent %41", "what?x=1", "ha#sh", "two  spaces", "ü 漢 é", "it's", 'so "called"', "a:b", "a,b [c]", "a\nb"]


@pytest.mark.parametrize("name", NAMES)
def test_outputs_of_any_name(name: str, full: bool, forks: Forks, tmp_path: Path, undisturbed: Path) -> None:
    skip_unless(name == "it's", full)
    outputs = started(undisturbed, tmp_path / name)
    done = forks(*TRAIN, outputs=outputs)
    assert done.status == 0, done.text
    assert values(only_run(outputs)) == values(only_run(undisturbed))
    assert query(outputs, "SELECT status FROM runs") == [("FINISHED",)]


@pytest.mark.parametrize(
    "place", ["x" * 300, "/".join(["x" * 200, "y" * 200, "z" * 200]), "/proc/nothing", "/etc/hostname", "/dev/null/a"]
)
def test_outputs_that_cannot_be(place: str, full: bool, forks: Forks, tmp_path: Path) -> None:
    skip_unless(place == "/proc/nothing", full)
    done = forks(*TRAIN, outputs=tmp_path / place, limit=100)
    assert done.is_told, done.text


@pytest.mark.parametrize("name", ["HOME", "TMPDIR"])
@pytest.mark.parametrize("value", [None, "/nonexistent/a"])
def test_no_home_and_no_place_for_temporary_files(
    name: str, value: str | None, full: bool, forks: Forks, tmp_path: Path, undisturbed: Path
) -> None:
    skip_unless(False, full)
    done = forks(*TRAIN, outputs=started(undisturbed, tmp_path / "o"), **{name: value})
    assert done.status == 0, done.text


def test_outputs_on_another_disk_than_temporary_files(
    full: bool, forks: Forks, disk: Disk, tmp_path: Path, undisturbed: Path
) -> None:
    skip_unless(False, full)
    outputs = started(undisturbed, disk(ROOM) / "outputs")
    temporary = disk(ROOM)
    (demo,) = (path for path in (undisturbed / "cache" / "demo").iterdir() if path.is_dir())
    for words in (
        TRAIN,
        ["evaluate", "full"],
        ["predict", "full", str(next(demo.rglob("*.mp4")))],
        [*TRAIN, "backbone.freeze=true", "features=cached", "augment=none", "name=frozen"],
        ["compare", "full", "frozen"],
        [*STUDY, "sweep.name=other"],
    ):
        done = forks(*words, outputs=outputs, TMPDIR=str(temporary))
        assert done.status == 0, done.text
        assert "cross-device" not in done.text
    check_whole(outputs)
    assert list(temporary.iterdir()) == []


def let_others_in(folder: Path) -> None:
    """Let a user who is not root look into a folder, whose parents pytest keeps closed."""
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    for needed in [Path(sys.executable).resolve(), Path(os.__file__), Path(__file__)]:
        for one in needed.parents:
            if not one.stat().st_mode & stat.S_IXOTH:
                pytest.skip(f"other users may not look into {one}, where Python or a module is")
    for one in [folder, *folder.parents]:
        if not one.stat().st_mode & stat.S_IXOTH:
            one.chmod(one.stat().st_mode | stat.S_IXOTH)


def give_away(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, NOBODY, NOBODY)


@pytest.mark.parametrize("own", [True, False])
def test_an_unprivileged_user(own: bool, full: bool, forks: Forks, tmp_path: Path, undisturbed: Path) -> None:
    skip_unless(own, full)
    let_others_in(tmp_path)
    outputs = started(undisturbed, tmp_path / "o")
    if own:
        give_away(outputs)
    done = forks(*TRAIN, outputs=outputs, TEST_UID=str(NOBODY), HOME=None, TMPDIR="/tmp")
    assert done.status == 0 if own else done.is_told, done.text


def test_a_folder_that_may_not_be_read(full: bool, forks: Forks, tmp_path: Path, undisturbed: Path) -> None:
    skip_unless(False, full)
    let_others_in(tmp_path)
    outputs = shutil.copytree(undisturbed, tmp_path / "o")
    give_away(outputs)
    video = next((outputs / "cache" / "demo").rglob("*.mp4"))
    (tmp_path / "data" / "closed").mkdir(parents=True)
    for place in ("a.mp4", "closed/b.mp4"):
        shutil.copy(video, tmp_path / "data" / place)
        (tmp_path / "data" / place).chmod(0o644)
    (tmp_path / "data").chmod(0o755)
    (tmp_path / "data" / "closed").chmod(0)
    words = ["predict", str(only_run(outputs)), str(tmp_path / "data"), "--json"]
    done = forks(*words, outputs=outputs, TEST_UID=str(NOBODY), HOME=None, TMPDIR="/tmp")
    assert done.status == 3, done.text
    told = json.loads(done.text[done.text.index("{\n") :])
    reasons = {Path(one["path"]).name: one["reason"] and one["reason"]["code"] for one in told["results"]}
    assert reasons == {"a.mp4": None, "closed": "unreadable"}


@pytest.mark.parametrize("days", [-10, 400])
@pytest.mark.parametrize("call", [1, 2])
def test_a_clock_that_is_set_in_mid_run(
    days: int, call: int, full: bool, forks: Forks, tmp_path: Path, undisturbed: Path
) -> None:
    skip_unless((days, call) == (-10, 2), full)
    outputs = started(undisturbed, tmp_path / "o")
    done = forks(
        *TRAIN,
        outputs=outputs,
        faults=[Fault("deepfake.tracking.logger:TrackedRun.epoch", "clock", "", days * DAY, call)],
    )
    assert done.status == 0, done.text
    assert values(only_run(outputs)) == values(only_run(undisturbed))
    assert query(outputs, "SELECT status FROM runs") == [("FINISHED",)]
    ((seconds,),) = query(outputs, "SELECT value FROM metrics WHERE key = 'train_seconds'")
    assert isinstance(seconds, float)
    assert 0 < seconds < 3600
    # And a run that another process tells of meanwhile is not taken for dead.
    assert "was killed" not in done.text


@pytest.mark.parametrize("days", [-10, 400])
@pytest.mark.parametrize(("at", "call"), [("Claims._assign", 2), ("Claims.report", 1), ("Claims.finish", 1)])
def test_a_clock_that_is_set_in_mid_study(
    days: int, at: str, call: int, full: bool, forks: Forks, tmp_path: Path, undisturbed: Path
) -> None:
    skip_unless((days, at) == (400, "Claims._assign"), full)
    outputs = started(undisturbed, tmp_path / "o")
    fault = Fault(f"deepfake.sweeping.claims:{at}", "clock", "", days * DAY, call)
    done = forks(*STUDY, "sweep.timeout=2h", outputs=outputs, faults=[fault])
    assert done.status == 0, done.text
    table = pd.read_csv(outputs / "sweeps" / "full" / "trials.csv")
    assert list(table["status"]) == ["completed"] * 3
    assert query(outputs, "SELECT COUNT(*) FROM runs WHERE status != 'FINISHED'") == [(0,)]
    again = forks(*STUDY, "sweep.timeout=2h", outputs=outputs)
    assert again.status == 0, again.text
    assert len(pd.read_csv(outputs / "sweeps" / "full" / "comparison.csv")) == 3
