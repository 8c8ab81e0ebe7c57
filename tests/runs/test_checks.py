"""What of a config does not go together."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from deepfake.config import RunConfig
from deepfake.data.crop_records import Record
from deepfake.data.crop_store import CropStore
from deepfake.data.options import AugmentOptions, DatasetOptions
from deepfake.errors import UserError
from deepfake.runs.checks import check_blending, check_landmarks
from deepfake.runs.console import Console

BLEND = AugmentOptions(self_blend=0.5)
TABLE = pd.DataFrame({"sample_id": ["a", "b", "c"], "label": [0, 0, 1]})


@pytest.mark.parametrize("faces", ["none", "center"])
def test_blending_about_faces_that_are_not_looked_for_is_refused(faces: str) -> None:
    with pytest.raises(UserError, match=f"dataset.faces={faces} looks for no face") as caught:
        check_blending(RunConfig(augment=BLEND, dataset=DatasetOptions(faces=faces)))
    assert "augment.self_blend_mask=oval" in str(caught.value.hint)


def test_blending_of_patches_is_refused() -> None:
    with pytest.raises(UserError, match=r"dataset\.view=patches shows parts"):
        check_blending(RunConfig(augment=BLEND, dataset=DatasetOptions(view="patches")))


@pytest.mark.parametrize(
    ("augment", "faces"),
    [(BLEND, "mtcnn"), (AugmentOptions(self_blend=0.5, self_blend_mask="oval"), "none"), (AugmentOptions(), "none")],
    ids=["landmarks", "oval", "off"],
)
def test_what_can_be_blended_is(augment: AugmentOptions, faces: str) -> None:
    check_blending(RunConfig(augment=augment, dataset=DatasetOptions(faces=faces)))


def _store(**records: Record) -> CropStore:
    return CropStore(Path("store"), records)


def test_a_store_without_any_landmarks_is_refused() -> None:
    store = _store(a={"status": "ok"}, b={"status": "no_face"}, c={"status": "ok", "landmarks": "AA"})
    with pytest.raises(UserError, match="1 of 1 real training samples have no landmarks"):
        check_landmarks(BLEND, TABLE, store, Console(quiet=True))


def test_a_store_with_some_landmarks_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    store = _store(a={"status": "ok"}, b={"status": "ok", "landmarks": "AA"})
    check_landmarks(BLEND, TABLE, store, Console())
    assert "1 of 2 real training samples have no landmarks" in "".join(capsys.readouterr())


@pytest.mark.parametrize("augment", [AugmentOptions(), AugmentOptions(self_blend=0.5, self_blend_mask="oval")])
def test_landmarks_that_are_not_needed_are_not_missed(augment: AugmentOptions) -> None:
    check_landmarks(augment, TABLE, _store(a={"status": "ok"}), Console(quiet=True))
