"""Several looks at a clip."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepfake.errors import UserError
from deepfake.options import check
from deepfake.training.options import VIEWS as NAMES
from deepfake.training.options import EvaluationOptions
from deepfake.training.scoring import score_clips
from deepfake.training.views import VIEWS, WHOLE, View, viewed, views_of
from tests.training.fakes import FakeClips, cpu, small_detector


def gradient(size: int = 40) -> torch.Tensor:
    """uint8 [1, 2, 3, size, size]: brightness grows from left to right."""
    row = torch.linspace(0, 255, size).round().to(torch.uint8)
    return row.expand(1, 2, 3, size, size).clone()


def test_every_name_has_its_looks() -> None:
    assert tuple(VIEWS) == NAMES
    assert views_of(["whole"], 0.65) == [WHOLE]
    assert len(views_of(NAMES, 0.65)) == 1 + 1 + 1 + 4 + 4


def test_the_whole_is_the_very_clip() -> None:
    clips = gradient()
    assert WHOLE.of(clips) is clips


def test_mirrored_twice_is_as_before() -> None:
    clips, mirror = gradient(), View(mirrored=True)
    assert torch.equal(mirror.of(mirror.of(clips)), clips)
    assert mirror.of(clips)[0, 0, 0, 0, 0] == 255


@pytest.mark.parametrize(("across", "mean"), [(0.0, 0.25), (0.5, 0.5), (1.0, 0.75)])
def test_a_part_lies_where_it_is_said(across: float, mean: float) -> None:
    look = View(0.5, across).of(gradient())
    assert look.shape == gradient().shape
    assert 0 <= float(look.min()) <= float(look.max()) <= 1
    assert float(look.mean()) == pytest.approx(mean, abs=0.01)


def test_a_part_of_bytes_and_of_numbers_is_the_same() -> None:
    look = View(0.6, 1, 0)
    torch.testing.assert_close(look.of(gradient()), look.of(gradient().float() / 255))


def test_a_part_is_brought_to_the_side_that_the_backbone_reads() -> None:
    for side in (16, 24, 36):
        look = View(0.6).of(gradient(), side)
        assert look.shape == (1, 2, 3, side, side)
        assert float(look.float().mean()) / (255 if look.dtype == torch.uint8 else 1) == pytest.approx(0.5, abs=0.02)


def test_a_part_of_a_picture_of_two_pixels_is_one() -> None:
    assert View(0.1).of(gradient(2)).shape == (1, 2, 3, 2, 2)


def test_scores_are_the_mean_of_the_looks_logits() -> None:
    detector, clips = small_detector(), FakeClips(6)

    def logits(*views: str) -> np.ndarray:
        options = EvaluationOptions(views=list(views), view_scale=0.7)
        return score_clips(viewed(detector, options), clips, fabric=cpu(), batch_size=4, autocast=False).logits

    whole, mirror = logits("whole"), logits("mirror")
    assert not np.allclose(whole, mirror)
    np.testing.assert_allclose(logits("whole", "mirror"), (whole + mirror) / 2, atol=1e-6)
    np.testing.assert_array_equal(
        whole, score_clips(detector, clips, fabric=cpu(), batch_size=4, autocast=False).logits
    )


@pytest.mark.parametrize("views", [[], ["whole", "whole"], ["whol"]])
def test_what_is_no_choice_of_looks_is_refused(views: list[str]) -> None:
    with pytest.raises(UserError, match=r"evaluation\.views"):
        check(EvaluationOptions(views=views), "evaluation")
