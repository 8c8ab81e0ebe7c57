"""Maps that add up to what the head says, frames that are relied on, and the check against random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepfake.models.detector import Detector, create_detector
from deepfake.models.options import BackboneOptions, ConvLstm, Gru, HeadOptions, Lstm, Mean, Vit
from deepfake.training import attribution
from deepfake.training.attribution import CASCADE, attribute, check_maps, randomised, rank_similarity
from deepfake.training.saliency import Attribution
from deepfake.training.views import View, views_of

SIDE, FRAMES = 64, 4


def detector(head: HeadOptions, name: str = "tiny", side: int = SIDE, **backbone: object) -> Detector:
    torch.manual_seed(0)
    options = BackboneOptions(**{"name": name, "pretrained": False, **backbone})  # type: ignore[arg-type]
    return create_detector(options, head, side).eval()


def clip(frames: int = FRAMES, side: int = SIDE) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (1, frames, 3, side, side), generator=generator, dtype=torch.uint8)
    return pixels, torch.ones(1, frames, dtype=torch.bool)


def test_the_map_of_a_pooling_backbone_and_a_linear_head_adds_up_to_the_logit() -> None:
    made = detector(Mean())
    pixels, mask = clip()
    found = attribute(made, pixels, mask)
    assert found.maps is not None
    assert found.maps.shape == (FRAMES, 4, 4)
    bias = float(made.head.classifier.bias.detach())
    assert float(found.maps.sum()) == pytest.approx(found.logit - bias, abs=1e-4)


@pytest.mark.parametrize("head", [Mean(), Lstm(hidden=8), Gru(hidden=8), Vit(width=16, heads=2), ConvLstm(hidden=8)])
@pytest.mark.parametrize("freeze", [False, True])
def test_every_head_has_maps_and_the_logit_of_the_detector(head: HeadOptions, freeze: bool) -> None:
    made = detector(head, freeze=freeze)
    pixels, mask = clip()
    found = attribute(made, pixels, mask)
    assert found.why == ""
    assert found.maps is not None
    assert np.isfinite(found.maps).all()
    assert np.abs(found.maps).sum() > 0
    with torch.no_grad():
        assert found.logit == pytest.approx(float(made(pixels, mask).logits), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "mobilenetv3_small_050", "swin_tiny_patch4_window7_224"])
@pytest.mark.parametrize("head", [Mean(), Vit(width=16, heads=2)])
def test_backbones_of_other_kinds_have_maps(name: str, head: HeadOptions) -> None:
    side = 224 if name.startswith("swin") else SIDE
    made = detector(head, name, side)
    found = attribute(made, *clip(2, side))
    assert found.why == ""
    assert found.maps is not None
    assert found.maps.shape[1:] == {"mob": (2, 2), "vit": (4, 4), "swi": (7, 7)}[name[:3]]
    assert np.abs(found.maps).sum() > 0


def test_chunks_change_nothing() -> None:
    pixels, mask = clip()
    whole = attribute(detector(Gru(hidden=8)), pixels, mask)
    parts = attribute(detector(Gru(hidden=8), chunk=3), pixels, mask)
    assert whole.maps is not None
    assert parts.maps is not None
    np.testing.assert_allclose(parts.maps, whole.maps, atol=1e-6)


def test_a_filler_has_no_map_and_no_reliance() -> None:
    pixels, mask = clip()
    mask[0, -1] = False
    found = attribute(detector(Gru(hidden=8)), pixels, mask)
    assert found.maps is not None
    assert not found.maps[-1].any()
    assert found.reliance is not None
    assert np.isnan(found.reliance).tolist() == [False, False, False, True]


def test_reliance_on_a_frame_is_what_the_mean_loses_without_it() -> None:
    found = attribute(detector(Mean()), *clip())
    assert found.reliance is not None
    assert found.frame_logits is not None
    expected = [found.logit - np.delete(found.frame_logits, i).mean() for i in range(FRAMES)]
    np.testing.assert_allclose(found.reliance, expected, atol=1e-5)


def test_a_clip_of_one_frame_says_nothing_of_reliance() -> None:
    assert attribute(detector(Mean()), *clip(1)).reliance is None


def test_attention_is_shared_among_frames_where_the_head_has_it() -> None:
    found = attribute(detector(Vit(width=16, heads=2)), *clip())
    assert found.attention is not None
    assert found.attention.shape == (FRAMES,)
    assert found.attention.sum() == pytest.approx(1)
    assert attribute(detector(Gru(hidden=8)), *clip()).attention is None


@pytest.mark.parametrize(("value", "why"), [(0.0, "0 everywhere"), (float("nan"), "not finite")])
def test_a_gradient_that_fails_is_no_map(value: float, why: str) -> None:
    made = detector(Mean())
    torch.nn.init.constant_(made.head.classifier.weight, value)
    found = attribute(made, *clip())
    assert found.maps is None
    assert why in found.why
    check = check_maps(made, *clip(), found)
    assert not check.meaningful
    assert check.why == found.why


def test_views_are_mapped_where_they_look() -> None:
    found = attribute(detector(Mean()), *clip(), views_of(["centre"], 0.5))
    assert found.maps is not None
    side = found.maps.shape[1]
    quarter = side // 4
    assert np.abs(found.maps[:, quarter:-quarter, quarter:-quarter]).sum() == pytest.approx(np.abs(found.maps).sum())
    assert np.abs(found.maps).sum() > 0


def test_a_mirrored_view_is_mapped_back() -> None:
    made = detector(Mean())
    pixels, mask = clip()
    mirrored = attribute(made, pixels.flip(-1), mask, [View(mirrored=True)])
    plain = attribute(made, pixels, mask)
    assert mirrored.maps is not None
    assert plain.maps is not None
    coarse = mirrored.maps.reshape(FRAMES, 4, 4, 4, 4).sum((2, 4))[:, :, ::-1]
    assert np.corrcoef(coarse.ravel(), plain.maps.ravel())[0, 1] > 0.9


def test_randomised_weights_are_drawn_from_the_top_and_the_detector_stays() -> None:
    made = detector(Gru(hidden=8))
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    for level in range(len(CASCADE)):
        drawn = dict(randomised(made, level, 0).named_parameters())
        changed = {name for name, own in made.named_parameters() if not torch.equal(own, drawn[name])}
        assert any(name.startswith("head.") for name in changed)
        assert any(name.startswith("backbone.model.stem") for name in changed) == (level == len(CASCADE) - 1)
        assert any(name.startswith("backbone.") for name in changed) == (level > 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in made.state_dict().items())


def test_a_map_that_random_weights_give_too_means_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A map that shows edges of the picture, whatever the weights are."""
    maps = np.random.default_rng(0).random((FRAMES, 7, 7), np.float32)
    edges = Attribution(1.0, None, maps)
    monkeypatch.setattr(attribution, "attribute", lambda *_, **__: edges)
    check = check_maps(detector(Mean()), *clip(), edges)
    assert not check.meaningful
    assert "not what was learned" in check.why
    assert check.similarity == dict.fromkeys(CASCADE, 1.0)


def test_a_map_that_depends_on_the_weights_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    other = lambda *_, **__: Attribution(1.0, None, rng.random((FRAMES, 7, 7), np.float32))  # noqa: E731
    own = other()
    monkeypatch.setattr(attribution, "attribute", other)
    check = check_maps(detector(Mean()), *clip(), own)
    assert check.meaningful
    assert max(check.similarity.values()) < attribution.SIMILAR


def test_a_map_of_few_places_means_nothing() -> None:
    check = check_maps(detector(Mean()), *clip(), Attribution(0.0, None, np.ones((FRAMES, 2, 2), np.float32)))
    assert not check.meaningful
    assert "2x2" in check.why


def test_a_level_map_is_similar_to_none() -> None:
    assert rank_similarity(np.ones((1, 3, 3), np.float32), np.arange(9, dtype=np.float32).reshape(1, 3, 3)) == 0
