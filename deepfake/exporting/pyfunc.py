"""A logged detector as MLflow's ``predict``: files, by path or as bytes, to what ``deepfake predict`` says of them.

Needs torch and the detector, not MLflow. Loading runs no code from the model: it is JSON and safetensors."""

from __future__ import annotations

import base64
import binascii
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deepfake.data.media import image_codec
from deepfake.errors import UserError
from deepfake.reading.detector import FileReader
from deepfake.tracking.serve import Served
from deepfake.training.domain_features import pooled_features
from deepfake.training.scoring import full_precision
from deepfake.training.views import View, viewed_by

if TYPE_CHECKING:
    import pandas as pd


class Answering(FileReader):
    """The detector behind MLflow's ``predict``."""

    def __init__(self, folder: Path, device: str | None = None) -> None:
        served = Served(folder, device)
        described: Any = served.spec.reading
        super().__init__(described, described.get("domain"))
        self._detector, self._device = served.detector, served.device
        views = [View(**view) for view in described["preprocessing"]["views"]]
        self._first, self._viewed = views[0], viewed_by(served.detector, views)

    @torch.inference_mode()
    def run(self, clips: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`deepfake.reading.detector.FileReader.run`."""
        pixels, real = (torch.from_numpy(array).to(self._device) for array in (clips, mask))
        with full_precision():
            logits = self._viewed(pixels, real).logits
            features = pooled_features(self._detector.extract(self._first.of(pixels, self._detector.size)), real)
        return logits.float().cpu().numpy(), features.cpu().numpy()


class Model:
    """What MLflow calls."""

    def __init__(self, folder: Path, device: str | None = None) -> None:
        self._answering = Answering(folder, device)

    def predict(self, rows: pd.DataFrame, params: dict[str, object] | None = None) -> list[dict[str, Any]]:
        """One of the ``results`` of ``deepfake predict --json`` for each row.

        Args:
            rows: ``path``, where a file lies that this process may read, or ``content``, its bytes in base64.
            params: Taken because MLflow passes it; there are none.

        Raises:
            UserError: A row has both or neither, or content that is no base64.
        """
        with tempfile.TemporaryDirectory(prefix="deepfake-model-") as scratch:
            named = [_named(row, Path(scratch), place) for place, row in enumerate(rows.to_dict("records"))]
            results = self._answering.predict_all([path for path, _ in named])
        return [
            result if told is None else result | {"path": told}
            for result, (_, told) in zip(results, named, strict=True)
        ]


def _named(row: dict[Any, Any], folder: Path, place: int) -> tuple[Path, str | None]:
    """Where the file of a row lies, and what it is called in place of that."""
    path, content = (
        row[name] if isinstance(row.get(name), str) and row[name] else None for name in ("path", "content")
    )
    if (path is None) == (content is None):
        raise UserError(
            f"row {place} has {'neither path nor' if path is None else 'both path and'} content", "give one"
        )
    if path is not None:
        return Path(path), None
    try:
        data = base64.b64decode("".join(str(content).split()), validate=True)  # many an encoder breaks lines
    except binascii.Error as error:
        raise UserError(f"the content of row {place} is no base64: {error}", "encode the file's bytes") from error
    # Which it is, its first bytes say; a name would only claim it.
    file = folder / f"{place}{'.mp4' if image_codec(data) == 'other' else '.png'}"
    file.write_bytes(data)
    return file, f"content {place}"


def _load_pyfunc(path: str, model_config: dict[str, str] | None = None) -> Model:
    """Called by MLflow under this name."""
    return Model(Path(path), (model_config or {}).get("device"))
