from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from deepfake.models.detector import Detector, create_detector
from deepfake.models.options import BackboneOptions, Gru, HeadOptions, Mean
from deepfake.tracking.model import DetectorSpec
from deepfake.tracking.run import track
from deepfake.tracking.store import local_folder
from deepfake.training.checkpoint import base_of, save_rest, save_weights

SPEC = DetectorSpec(BackboneOptions(name="tiny", pretrained=False), Gru(hidden=8), frames=3, size=32)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return create_detector(SPEC.backbone, SPEC.head, SPEC.size).eval()


@pytest.fixture(scope="module")
def weights(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "best.safetensors"
    save_file({key: value.contiguous() for key, value in detector.state_dict().items()}, path)
    return path


@pytest.fixture
def loaded(store, client, experiment, quiet, weights: Path):
    import mlflow

    with track(store, experiment, "model", options=quiet) as run:
        uri = run.model(weights, SPEC.to_json())
    # By its place: MLflow finds "models:/..." only in the store that is set for the whole process.
    return mlflow.pyfunc.load_model(client.get_logged_model(uri.removeprefix("models:/")).artifact_location)


@pytest.mark.parametrize("batch", [1, 3])
def test_loaded_model_gives_the_detectors_probabilities(loaded, detector: Detector, batch: int) -> None:
    clips = np.random.default_rng(0).integers(0, 256, (batch, 3, 3, 32, 32), dtype=np.uint8)
    with torch.inference_mode():
        logits = detector(torch.from_numpy(clips), torch.ones(batch, 3, dtype=torch.bool)).logits
    np.testing.assert_allclose(loaded.predict(clips), torch.sigmoid(logits).numpy(), rtol=1e-6)


def test_signature_says_shapes_and_types(loaded) -> None:
    (clips,) = loaded.metadata.signature.inputs.inputs
    (probability,) = loaded.metadata.signature.outputs.inputs
    assert (clips.type, clips.shape) == (np.uint8, (-1, 3, 3, 32, 32))
    assert (probability.type, probability.shape) == (np.float32, (-1,))


def test_clips_of_another_size_are_refused(loaded) -> None:
    with pytest.raises(Exception, match="shape"):
        loaded.predict(np.zeros((1, 3, 3, 16, 16), np.uint8))


@pytest.mark.parametrize("head", [Mean(), Gru(hidden=4, layers=2)])
def test_spec_reads_back_as_written(head: HeadOptions) -> None:
    spec = DetectorSpec(BackboneOptions(name="tiny", pretrained=False), head, 4, 64, 0.3)
    assert DetectorSpec.from_json(spec.to_json()) == spec


def test_spec_of_a_newer_version_is_refused() -> None:
    with pytest.raises(ValueError, match="newer"):
        DetectorSpec.from_json(SPEC.to_json().replace('"format": 1', '"format": 99'))


def test_models_of_one_backbone_share_its_file(
    store, client, experiment, quiet, detector: Detector, weights: Path, tmp_path: Path
) -> None:
    import mlflow

    part, rest = tmp_path / "part.safetensors", tmp_path / "rest.safetensors"
    names = [name for name in detector.state_dict() if name.startswith("backbone.")]
    save_weights(detector, part, {}, base_of(detector, names))
    save_rest(detector, part, rest)
    places = []
    for _ in range(2):
        with track(store, experiment, "model", options=quiet) as run:
            assert run.shares_disk
            uri = run.model(part, SPEC.to_json(), base=rest)
        found = client.get_logged_model(uri.removeprefix("models:/")).artifact_location
        places.append(local_folder(found))
    files = [place / "data" / "detector" / "backbone.safetensors" for place in places]
    assert len({file.stat().st_ino for file in [*files, rest]}) == 1
    clips = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 32, 32), dtype=np.uint8)
    with torch.inference_mode():
        logits = detector(torch.from_numpy(clips), torch.ones(2, 3, dtype=torch.bool)).logits
    given = mlflow.pyfunc.load_model(str(places[0])).predict(clips)
    np.testing.assert_allclose(given, torch.sigmoid(logits).numpy(), rtol=1e-6)
