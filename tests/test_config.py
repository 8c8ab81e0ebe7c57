"""Every choice of every group composes into options of the right type, and every mistake names its key."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import HydraException
from hydra.utils import get_class
from omegaconf import OmegaConf

from deepfake.config import environment_keys, is_environment_key, known_keys, load_config, to_plain
from deepfake.data.options import AugmentOptions, DatasetOptions, DemoOptions
from deepfake.errors import UserError
from deepfake.hydra_app import compose_config as composed
from deepfake.hydra_app import translate
from deepfake.installation import CONF, SWEEPS
from deepfake.models.options import BackboneOptions
from deepfake.options import flatten
from deepfake.sweeping.options import SweepOptions
from deepfake.tracking.options import TrackingOptions
from deepfake.training.options import EvaluationOptions, FeatureOptions, SelectionOptions, TrainerOptions

CHOICES = [
    f"{path.parent.name}={path.stem}"
    for path in sorted(CONF.glob("*/*.yaml"))
    if not path.stem.startswith("_") and path.parent.name not in ("hydra", "suite")
]
#: Keys of heads whose file asks for more than a head had before they came.
CAME_LATER = {"changes"}


def test_what_says_where_or_how_is_marked_and_everything_else_is_what_a_run_is() -> None:
    machine = ["dataset.file_timeout", "dataset.workers", "name", "paths", "tracking"]
    machine += ["trainer.accelerator", "trainer.devices", "trainer.num_workers"]
    data = ["backbone.weights", "dataset.face_model", "dataset.parts", "dataset.root", "dataset.split_files"]
    data = [*data, "dataset.table", "selection.holdout_sets"]
    assert environment_keys("machine") == machine
    assert environment_keys("data") == data
    assert environment_keys() == sorted([*machine, *data])
    assert all(is_environment_key(text) for text in ("paths.outputs", "dataset.root=/x", "tracking", "name=a.b"))
    assert not any(is_environment_key(text) for text in ("dataset", "dataset=demo", "dataset.rootless=1", "names"))


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes(choice: str) -> None:
    assert load_config(composed([choice])).trainer.batch_size >= 1


def _defaults(kind: type[Any]) -> dict[str, Any]:
    return {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(kind)
    }


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("augment/_base", AugmentOptions),
        ("backbone/_base", BackboneOptions),
        ("dataset/_base", DatasetOptions),
        ("evaluation/default", EvaluationOptions),
        ("features/none", FeatureOptions),
        ("selection/_base", SelectionOptions),
        ("tracking/mlflow", TrackingOptions),
        ("trainer/default", TrainerOptions),
        *[(choice.replace("=", "/"), None) for choice in CHOICES if choice.startswith(("head", "optim", "sched"))],
    ],
)
def test_a_default_is_the_same_in_its_file_and_in_its_class(file: str, kind: type[Any] | None) -> None:
    written = to_plain(OmegaConf.load(CONF / f"{file}.yaml"))
    target = written.pop("_target_", None)
    defaults = _defaults(kind or get_class(target))
    # A class says what is meant by a run that was saved before there was such a key.
    assert written == defaults | {key: value for key, value in written.items() if key in CAME_LATER & {*defaults}}


def test_the_demo_and_a_sweep_have_the_same_defaults_in_their_files_and_classes() -> None:
    assert to_plain(OmegaConf.load(CONF / "train.yaml").demo) == _defaults(DemoOptions)
    sweep = to_plain(OmegaConf.create({"kept": OmegaConf.load(SWEEPS / "sweep" / "default.yaml")}))["kept"]
    # Python has a word of its own called so, and two come from groups beside it.
    sweep["source"] = sweep.pop("from")
    assert sweep == {key: value for key, value in _defaults(SweepOptions).items() if key not in ("sampler", "pruner")}


def test_a_model_takes_another_backbone() -> None:
    options = load_config(composed(["model=cnn_lstm", "dataset=images", "backbone=efficientnet_b4"]))
    assert (options.backbone.name, type(options.head).__name__, options.name) == (
        "efficientnet_b4",
        "Lstm",
        "cnn_lstm",
    )


def test_the_demo_brings_its_own_scale_and_a_named_backbone_still_wins() -> None:
    assert load_config(composed()).backbone.name == "tiny"
    assert load_config(composed(["backbone=resnet18"])).backbone.name == "resnet18"


def test_an_automatic_size_is_the_backbones_and_a_number_wherever_it_is_read() -> None:
    asked = composed(["dataset=faceforensics", "backbone=xception", "dataset.size=auto"])
    assert (to_plain(asked)["dataset"]["size"], load_config(asked).dataset.size) == (299, 299)
    assert load_config(composed(["dataset.size=auto"])).dataset.size == 64
    assert load_config(composed(["dataset.size=auto", "backbone.name=convnext_tiny"])).dataset.size == 224
    with pytest.raises(UserError) as raised:
        load_config(composed(["dataset.size=automatic"]))
    assert "dataset.size takes int or auto" in raised.value.hint


@pytest.mark.parametrize("file", sorted((CONF / "backbone").glob("[!_]*.yaml")), ids=lambda file: str(file.stem))
def test_every_backbones_file_states_the_size_its_weights_were_made_for(file: Path) -> None:
    from deepfake.models.backbone import made_for

    stated = re.search(r"^# Made for images of (\d+) pixels", file.read_text(encoding="utf-8"), re.MULTILINE)
    assert stated
    assert int(stated[1]) == made_for(load_config(composed([f"backbone={file.stem}"])).backbone.name)


def test_real_data_gets_the_fields_defaults() -> None:
    options = load_config(composed(["dataset=faceforensics"]))
    assert (options.dataset.size, options.trainer.batch_size, options.backbone.pretrained) == (224, 32, True)
    assert type(options.optimizer).__name__ == "AdamW"


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("trainer.batch_size=0", "trainer.batch_size=0"),
        ("optimizer.lr=-1", "optimizer.lr=-1"),
        ("dataset.frames=0", "dataset.frames=0"),
        ("trainer.epochs=many", "trainer.epochs='many'"),
        ("trainer.num_workers=few", "trainer.num_workers='few'"),
        ("trainer.balance=equal", "trainer.balance='equal'"),
        ("+trainer.batchsize=3", "'trainer.batchsize'"),
        ("optimizer.lr=nan", "optimizer.lr=nan"),
        ("seed=-1", "seed=-1"),
        ("head._target_=os.system", "head._target_='os.system'"),
        ("name=a/b", "name='a/b'"),
    ],
)
def test_a_bad_value_names_its_key(override: str, key: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(composed([override]))
    assert key in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("model=cnn_lstn", "'cnn_lstm'"),
        ("trainer.batch_sizee=3", "'trainer.batch_size'"),
        ("modell=cnn", "'model'"),
        ("dataset=faceforensic", "'faceforensics'"),
        ("sweep.study_name=s", "'sweep.name'"),
        ("sweep.n_trails=3", "'sweep.n_trials'"),
        ("hydra.sweeper.directions=minimize", "'sweep.direction'"),
    ],
)
def test_a_misspelt_choice_or_key_is_answered_with_the_nearest(override: str, hint: str) -> None:
    with pytest.raises(HydraException) as caught:
        composed([override])
    assert hint in translate(caught.value).hint


def test_what_a_sweep_adds_is_not_part_of_a_run() -> None:
    assert "sweep" not in to_plain(composed(["++sweep={n_trials: 3}"]))


def test_flatten_keeps_lists_whole() -> None:
    assert flatten({"a": {"b": [1, 2], "c": {}}}) == {"a.b": [1, 2], "a.c": {}}


def test_known_keys_cover_every_head() -> None:
    assert {"head.hidden", "head.depth", "trainer.batch_size"} <= set(known_keys())
