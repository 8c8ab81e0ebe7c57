"""Points to try first: those the user names, and the best of another study."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.errors import UserError
from tests.sweeping import toy

pytestmark = pytest.mark.usefixtures("no_figures")


RANDOM = ["x=interval(-2,2)", "sampler=random", "sweep.n_trials=4", "sweep.name=s"]


SPACE = ["x=interval(-2,2)", "sweep.n_trials=4", "sweep.name=s"]


def test_a_point_added_later_is_taken_once(tmp_path: Path) -> None:
    toy.multirun(tmp_path, RANDOM)
    added = [*RANDOM, "sweep.n_trials=6", "sweep.enqueue=[{x: 0.777}]"]
    jobs = toy.multirun(tmp_path, added).jobs
    assert jobs[4].overrides == ["x=0.777"]
    jobs = toy.multirun(tmp_path, [*added, "sweep.n_trials=8"]).jobs
    assert [job.overrides for job in jobs].count(["x=0.777"]) == 1


def test_another_studys_points_added_later_are_taken_once(tmp_path: Path) -> None:
    toy.multirun(tmp_path, ["x=interval(-2,2)", "sampler=random", "sweep.n_trials=2", "sweep.name=t"])
    toy.multirun(tmp_path, RANDOM)
    borrowed = [*RANDOM, "sweep.n_trials=6", "sweep.from=t"]
    jobs = toy.multirun(tmp_path, borrowed).jobs
    theirs = {job.overrides[0] for job in jobs[4:6]}
    # A better one there by the next start is not asked for again.
    toy.multirun(
        tmp_path, ["x=interval(-2,2)", "sampler=random", "sweep.n_trials=3", "sweep.name=t", "sweep.enqueue=[{x: 1.0}]"]
    )
    more = toy.multirun(tmp_path, [*borrowed, "sweep.n_trials=7"]).jobs
    assert [job.overrides[0] for job in more if job.overrides[0] in theirs] == [job.overrides[0] for job in jobs[4:6]]
    assert more[6].overrides != ["x=1.0"]


def test_what_was_fixed_there_completes_a_borrowed_point(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.multirun(tmp_path, [*RANDOM, "batch=64", "model=deep"])
    space = ["x=interval(-2,2)", "batch=choice(16,64)", "model=plain,deep", "sweep.name=t", "sweep.n_trials=3"]
    jobs = toy.multirun(tmp_path, [*space, "sweep.from=s"]).jobs
    assert all({"batch=64", "model=deep"} <= set(job.overrides) for job in jobs)
    assert "batch=64 was fixed there, and its points are completed with it" in capsys.readouterr().out


def test_a_point_whose_fixed_value_lies_outside_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.multirun(tmp_path, [*RANDOM, "batch=48"])
    space = ["x=interval(-2,2)", "batch=choice(16,64)", "sweep.name=t", "sweep.n_trials=2", "sweep.seed=9"]
    theirs = {job.overrides[0] for job in toy.multirun(tmp_path, [*RANDOM, "batch=48"]).jobs}
    jobs = toy.multirun(tmp_path, [*space, "sweep.from=s"]).jobs
    assert not theirs & {job.overrides[0] for job in jobs}
    assert "was run with batch=48, outside choice(16,64), and is left out" in capsys.readouterr().out


def test_settings_that_differ_from_the_other_studys_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.multirun(tmp_path, [*RANDOM, "epochs=5"])
    toy.multirun(tmp_path, ["x=interval(-2,2)", "sweep.name=t", "sweep.n_trials=1", "sweep.from=s"])
    assert "epochs was 5 and is 3 here" in capsys.readouterr().out


def test_enqueued_points_come_first(tmp_path: Path) -> None:
    jobs = toy.multirun(tmp_path, [*SPACE, "sweep.enqueue=[{x: 1.0}]"]).jobs
    assert jobs[0].overrides == ["x=1.0"]


def test_an_enqueued_point_outside_the_space_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="x=9, which lies outside"):
        toy.multirun(tmp_path, [*SPACE, "sweep.enqueue=[{x: 9}]"])


def test_another_studys_best_points_come_first(tmp_path: Path) -> None:
    toy.multirun(tmp_path, [*SPACE, "sweep.enqueue=[{x: 1.0}]"])
    jobs = toy.multirun(tmp_path, ["x=interval(-4,4)", "sweep.n_trials=2", "sweep.name=t", "sweep.from=s"]).jobs
    assert jobs[0].overrides == ["x=1.0"]


def test_the_best_of_several_studies_are_tried_in_turns(tmp_path: Path) -> None:
    for name, points in (("a", (1.0, 1.3, 1.6, 1.9)), ("b", (0.9, 0.6, 0.3))):
        enqueued = ",".join(f"{{x: {x}}}" for x in points)
        toy.multirun(
            tmp_path,
            [*RANDOM[:2], f"sweep.n_trials={len(points)}", f"sweep.name={name}", f"sweep.enqueue=[{enqueued}]"],
        )
    jobs = toy.multirun(tmp_path, [*RANDOM[:2], "sweep.n_trials=6", "sweep.name=c", "sweep.from=[a,b]"]).jobs
    assert sorted(job.overrides[0] for job in jobs[:5]) == ["x=0.6", "x=0.9", "x=1.0", "x=1.3", "x=1.6"]


def test_each_study_begun_from_is_tried_at_least_once(tmp_path: Path) -> None:
    names = [f"t{number}" for number in range(6)]
    for number, name in enumerate(names):
        toy.multirun(
            tmp_path, [*RANDOM[:2], "sweep.n_trials=1", f"sweep.name={name}", f"sweep.enqueue=[{{x: 0.{number}}}]"]
        )
    jobs = toy.multirun(
        tmp_path, [*RANDOM[:2], "sweep.n_trials=6", "sweep.name=all", f"sweep.from=[{','.join(names)}]"]
    ).jobs
    assert sorted(job.overrides[0] for job in jobs) == [f"x=0.{number}" for number in range(6)]


def test_a_study_of_several_that_is_not_there_is_told(tmp_path: Path) -> None:
    toy.multirun(tmp_path, [*RANDOM[:2], "sweep.n_trials=1", "sweep.name=a"])
    with pytest.raises(UserError, match=r"sweep.from=bb: there is no such study"):
        toy.multirun(tmp_path, [*RANDOM, "sweep.from=[a,bb]"])


def test_points_that_broke_their_studys_constraints_are_not_its_best(tmp_path: Path) -> None:
    points = "sweep.enqueue=[{x: 1.0}, {x: 0.5}]"
    bound = 'sweep.constraints=["score <= 0.8"]'
    toy.multirun(tmp_path, [*RANDOM[:2], "sweep.n_trials=2", "sweep.name=a", points, bound])
    jobs = toy.multirun(tmp_path, [*RANDOM[:2], "sweep.n_trials=1", "sweep.name=b", "sweep.from=a"]).jobs
    assert jobs[0].overrides == ["x=0.5"]
