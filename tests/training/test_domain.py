"""What a run was trained on, and how often files are called far from it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from deepfake.errors import UserError
from deepfake.training.domain import Cloud, Domain, fit_cloud, load_domain, media_ranges

WIDTH = 24


def people(rng: np.random.Generator, count: int, each: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Features of ``each`` files of so many people, who differ more than a person's files do; and whose they are."""
    scales = np.geomspace(3, 0.3, WIDTH)
    own = rng.normal(size=(count, 1, WIDTH)) * scales
    files = own + 0.5 * scales * rng.normal(size=(count, each, WIDTH)) + shift
    return files.reshape(-1, WIDTH), np.repeat(np.arange(count), each)


def cloud(rng: np.random.Generator, val: int, each: int = 3) -> Cloud:
    return fit_cloud(people(rng, 60, 3)[0], *people(rng, val, each))


@pytest.mark.parametrize(("val", "level"), [(12, 0.1), (40, 0.05), (250, 0.01)])
def test_files_of_other_people_are_called_far_no_more_often_than_is_stated(val: int, level: float) -> None:
    rng = np.random.default_rng(val)
    far = []
    for _ in range(30):
        made = cloud(rng, val)
        assert made.level == level
        far.append((made.p_values(people(rng, 60, 1)[0]) <= made.level).mean())
    wrong = float(np.mean(far))
    assert level / 6 < wrong < level + 3 * np.std(far) / np.sqrt(len(far))


def test_files_that_differ_are_called_far() -> None:
    rng = np.random.default_rng(0)
    made = cloud(rng, 40)
    assert (made.p_values(people(rng, 200, 1, shift=2.0)[0]) <= made.level).mean() > 0.95


def test_many_files_of_one_person_count_as_one() -> None:
    rng = np.random.default_rng(1)
    few, whose = people(rng, 40, 1)
    many = np.concatenate([few, few[:1] + 1e-3 * rng.normal(size=(500, WIDTH))])
    train = people(rng, 60, 3)[0]
    alone = fit_cloud(train, few, whose)
    crowded = fit_cloud(train, many, np.concatenate([whose, np.zeros(500, int)]))
    looked = people(rng, 100, 1)[0]
    np.testing.assert_allclose(crowded.p_values(looked), alone.p_values(looked), atol=1 / 41)


def test_what_varies_nowhere_in_training_is_not_divided_by_nothing() -> None:
    rng = np.random.default_rng(2)
    train, (val, whose) = people(rng, 30, 1)[0], people(rng, 30, 1)
    train[:, 3:] = val[:, 3:] = 0.0
    found = fit_cloud(train, val, whose).distances(val)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(("train", "people_"), [(10, 30), (60, 8)])
def test_too_few_samples_make_no_cloud_and_say_so(train: int, people_: int) -> None:
    rng = np.random.default_rng(3)
    with pytest.raises(ValueError, match=r"are needed"):
        fit_cloud(people(rng, train, 1)[0], *people(rng, people_, 5))


def test_features_that_are_not_finite_make_no_cloud() -> None:
    rng = np.random.default_rng(4)
    train, (val, whose) = people(rng, 30, 1)[0], people(rng, 30, 1)
    val[3, 2] = np.inf
    with pytest.raises(ValueError, match="not finite"):
        fit_cloud(train, val, whose)


def test_a_domain_is_the_same_after_it_was_kept() -> None:
    rng = np.random.default_rng(5)
    domain = Domain({"video": {"side": (96.0, 720.0)}}, cloud(rng, 40))
    again = load_domain(json.loads(json.dumps(domain.to_dict())))
    looked = people(rng, 50, 1, shift=0.7)[0]
    assert again.media == {"video": {"side": (96.0, 720.0)}}
    assert again.cloud is not None
    assert domain.cloud is not None
    np.testing.assert_array_equal(again.cloud.p_values(looked), domain.cloud.p_values(looked))


@pytest.mark.parametrize(
    "change",
    [
        {"media": {"video": {"side": [1]}}},
        {"features": {"mean": "AAAA"}},
        {"features": None},
        {"media": None},
    ],
)
def test_a_damaged_domain_is_refused(change: dict[str, object]) -> None:
    saved = Domain({}, cloud(np.random.default_rng(6), 40)).to_dict() | change
    with pytest.raises(UserError, match="damaged"):
        load_domain(saved)


def test_a_domain_of_another_width_or_with_nan_is_refused() -> None:
    saved = Domain({}, cloud(np.random.default_rng(7), 40)).to_dict()
    for name, value in (("width", 7), ("rest", float("nan")), ("rest", -1.0), ("weights", [0.1])):
        with pytest.raises(UserError, match="damaged"):
            load_domain({**saved, "features": {**saved["features"], name: value}})


def test_a_newer_domain_is_refused() -> None:
    with pytest.raises(UserError, match="format 99"):
        load_domain({"format": 99})


FACTS = {"side": 360.0, "bits_per_pixel": 0.1, "face": 100.0, "faces": 1.0, "fps": 25.0}


def test_a_file_like_those_of_training_is_inside() -> None:
    domain = Domain({"video": media_ranges([FACTS, {**FACTS, "side": 720.0}])})
    assert domain.outside("video", {**FACTS, "side": 500.0}, None) == []


@pytest.mark.parametrize(
    ("name", "value", "code", "said"),
    [
        ("side", 2160.0, "resolution", "2160 pixels on its shorter side; the run was trained on 360"),
        ("bits_per_pixel", 0.001, "compression", "0.0010 bits for each pixel"),
        ("face", 20.0, "face_size", "a face of 20 pixels"),
        ("faces", 10.0, "faces", "10 faces; the run was trained on 1"),
        ("fps", 120.0, "frame_rate", "120.0 frames a second"),
    ],
)
def test_each_fact_beyond_training_is_told(name: str, value: float, code: str, said: str) -> None:
    domain = Domain({"video": media_ranges([FACTS])})
    (found,) = domain.outside("video", {**FACTS, name: value}, None)
    assert found.code == code
    assert said in found.detail


def test_what_is_not_known_of_a_file_or_of_training_is_not_compared() -> None:
    domain = Domain({"video": media_ranges([FACTS])})
    assert domain.outside("video", {}, None) == []
    assert Domain().outside("image", {"side": 4000.0}, None) == []


def test_a_kind_that_training_had_not_is_told_and_its_size_is_not_compared() -> None:
    (found,) = Domain({"video": media_ranges([FACTS])}).outside("image", {"side": 4000.0}, None)
    assert found.code == "kind"
    assert "trained on video files" in found.detail


def test_features_that_are_nan_are_told() -> None:
    domain = Domain({}, cloud(np.random.default_rng(8), 40))
    (found,) = domain.outside("image", {}, np.full(WIDTH, np.nan))
    assert found.code == "features"
