"""Heads over clips of several lengths: shapes, masks, gradients."""

from __future__ import annotations

import pytest
import torch

from deepfake.errors import UserError
from deepfake.models.heads import Head, create_head
from deepfake.models.heads.base import beside_changes
from deepfake.models.options import ConvLstm, Gru, HeadOptions, Lstm, Mean, Vit

D = 12
OPTIONS: list[HeadOptions] = [
    Mean(),
    Lstm(hidden=8),
    Lstm(hidden=8, layers=2, bidirectional=False),
    Gru(hidden=8, layers=2),
    Vit(width=16, depth=2, heads=2, max_grid=3),
    Vit(width=16, depth=1, heads=2, changes=True),
    ConvLstm(hidden=6, layers=2),
    ConvLstm(hidden=6, layers=2, changes=True),
]


def head_of(options: HeadOptions) -> Head:
    torch.manual_seed(0)
    return create_head(options, D)


def features_for(options: HeadOptions, frames: int, batch: int = 3) -> torch.Tensor:
    torch.manual_seed(1)
    place = (4, 4) if options.reads == "maps" else ()
    return torch.randn(batch, frames, D, *place)


def test_every_class_of_options_is_tried() -> None:
    assert {type(options) for options in OPTIONS} == set(HeadOptions.__subclasses__())


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
@pytest.mark.parametrize("frames", [1, 8])
def test_one_logit_per_clip_and_per_frame(options: HeadOptions, frames: int) -> None:
    output = head_of(options)(features_for(options, frames), torch.ones(3, frames, dtype=torch.bool))
    assert output.logits.shape == (3,)
    assert output.frame_logits is not None
    assert output.frame_logits.shape == (3, frames)
    assert torch.isfinite(output.logits).all()


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
def test_padded_frames_never_change_the_logit(options: HeadOptions) -> None:
    head = head_of(options).eval()
    features = features_for(options, 6)
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[0, 4:] = False
    mask[1, 1:] = False
    other = features.clone()
    other[0, 4:] = 1e3
    other[1, 1:] = -7.0
    torch.testing.assert_close(head(features, mask).logits, head(other, mask).logits, rtol=0, atol=0)
    other[~mask] = float("nan")
    torch.testing.assert_close(head(features, mask).logits, head(other, mask).logits, rtol=0, atol=0)


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
def test_a_padded_clip_equals_the_short_one(options: HeadOptions) -> None:
    head = head_of(options).eval()
    features = features_for(options, 6)
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[:, :4] = True
    short = head(features[:, :4], mask[:, :4]).logits
    torch.testing.assert_close(head(features, mask).logits, short, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
def test_a_clip_without_a_real_frame_gives_no_nan(options: HeadOptions) -> None:
    output = head_of(options)(features_for(options, 2), torch.zeros(3, 2, dtype=torch.bool))
    assert torch.isfinite(output.logits).all()


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
def test_gradients_reach_every_parameter_and_every_frame(options: HeadOptions) -> None:
    head = head_of(options)
    features = features_for(options, 4).requires_grad_()
    head(features, torch.ones(3, 4, dtype=torch.bool)).logits.sum().backward()
    assert all(p.grad is not None for p in head.parameters())
    assert features.grad is not None
    assert (features.grad.flatten(2).abs().sum(-1) > 0).all()


@pytest.mark.parametrize("options", [o for o in OPTIONS if o.temporal], ids=repr)
def test_temporal_heads_see_the_order_of_frames(options: HeadOptions) -> None:
    head = head_of(options).eval()
    features = features_for(options, 6)
    mask = torch.ones(3, 6, dtype=torch.bool)
    swapped = features[:, [0, 2, 1, 3, 5, 4]]
    assert not torch.allclose(head(features, mask).logits, head(swapped, mask).logits, atol=1e-6)


def test_the_mean_head_does_not() -> None:
    head = head_of(Mean()).eval()
    features = features_for(Mean(), 4)
    mask = torch.ones(3, 4, dtype=torch.bool)
    torch.testing.assert_close(head(features, mask).logits, head(features.flip(1), mask).logits)


def test_an_lstm_equals_torchs_own_on_full_clips() -> None:
    head = head_of(Lstm(hidden=8)).eval()
    own = torch.nn.LSTM(2 * D, 8, batch_first=True, bidirectional=True)
    state = dict(head.forwards[0].state_dict())  # type: ignore[arg-type,operator,union-attr]
    state |= {f"{k}_reverse": v for k, v in head.backwards[0].state_dict().items()}  # type: ignore[operator,union-attr,index]
    own.load_state_dict(state)
    features = features_for(Lstm(), 5)
    frames = head.norm(features)  # type: ignore[operator]
    changes = torch.diff(frames, dim=1, prepend=frames[:, :1])
    expected = head.classifier(own(torch.cat([frames, changes], dim=-1))[0]).mean(1)  # type: ignore[operator]
    torch.testing.assert_close(head(features, torch.ones(3, 5, dtype=torch.bool)).logits, expected)


def test_changes_are_from_the_real_frame_before() -> None:
    x = torch.tensor([[1.0, 4.0, 9.0, 16.0], [1.0, 4.0, 9.0, 16.0]])[..., None]
    mask = torch.tensor([[True, True, True, True], [False, True, False, True]])
    changes = beside_changes(x, mask)[..., 1]
    assert changes[0].tolist() == [0, 3, 5, 7]
    assert changes[1, mask[1]].tolist() == [0, 12]


def test_changes_of_maps_stand_behind_their_channels() -> None:
    x = torch.randn(2, 3, D, 4, 5)
    joined = beside_changes(x, torch.ones(2, 3, dtype=torch.bool))
    assert joined.shape == (2, 3, 2 * D, 4, 5)
    torch.testing.assert_close(joined[:, :, :D], x)
    torch.testing.assert_close(joined[:, :, D:], torch.diff(x, dim=1, prepend=x[:, :1]))


@pytest.mark.parametrize(
    ("without", "beside"),
    [
        (Vit(width=16, depth=1, heads=2), Vit(width=16, depth=1, heads=2, changes=True)),
        (ConvLstm(hidden=6, layers=2), ConvLstm(hidden=6, layers=2, changes=True)),
    ],
    ids=repr,
)
def test_weights_without_changes_are_the_same_function_beside_them(without: HeadOptions, beside: HeadOptions) -> None:
    old, new = head_of(without).eval(), head_of(beside).eval()
    saved = old.state_dict()
    shapes = {name: tensor.shape for name, tensor in saved.items()}
    new.load_state_dict(saved)
    features, mask = features_for(without, 5), torch.ones(3, 5, dtype=torch.bool)
    torch.testing.assert_close(new(features, mask).logits, old(features, mask).logits)
    assert {name: tensor.shape for name, tensor in saved.items()} == shapes
    assert new.state_dict().keys() == shapes.keys()
    # Its own are read as they are.
    head_of(beside).load_state_dict(new.state_dict())


def test_what_was_saved_before_there_were_changes_is_read_as_it_was() -> None:
    assert not Vit().changes
    assert not ConvLstm().changes


def test_a_vit_tells_place_from_place() -> None:
    head = head_of(Vit(width=16, heads=2)).eval()
    features = features_for(Vit(), 2)
    mask = torch.ones(3, 2, dtype=torch.bool)
    assert not torch.allclose(head(features, mask).logits, head(features.transpose(3, 4), mask).logits, atol=1e-6)


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match=r"head\.width=30"):
        create_head(Vit(width=30, heads=4), D)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(UserError, match="HeadOptions"):
        create_head(HeadOptions(), D)
