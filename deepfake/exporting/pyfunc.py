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
from deepfake.reading.detector import FileReader, named_path
from deepfake.reading.file_answers import Input
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
        """One of the ``results`` of ``deepfake predict --json`` for each row; one that names no file has a reason.

        Args:
            rows: ``path``, where a file lies that this process may read, or ``content``, its bytes in base64.
            params: Taken because MLflow passes it; there are none.

        Raises:
            UserError: There is neither column, of which MLflow leaves all others away.
        """
        given = rows.to_dict("records")
        if not {"path", "content"} & set(rows.columns):
            raise UserError(
                "no row has a path or content", "name a file as path, or send its bytes in base64 as content"
            )
        with tempfile.TemporaryDirectory(prefix="deepfake-model-") as scratch:
            inputs = [_named(row, Path(scratch), place) for place, row in enumerate(given)]
            results = self._answering.predict_inputs(inputs)
        named = (row.get("path") for row in given)
        return [
            result | {"path": path if isinstance(path, str) and path else f"row {place}"}
            for place, (path, result) in enumerate(zip(named, results, strict=True))
        ]


def _named(row: dict[Any, Any], folder: Path, place: int) -> Input:
    """The file of a row, or why there is none."""
    path, content = (row[name] if isinstance(row.get(name), str) else None for name in ("path", "content"))
    if path and content:
        return _refused("both path and content are given; give one")
    if path:
        return named_path(Path(path))
    if content is None:
        return _refused("neither path nor content is given; give one")
    try:
        data = base64.b64decode("".join(content.split()), validate=True)  # many an encoder breaks lines
    except (binascii.Error, ValueError) as error:
        return _refused(f"content is no base64: {error}")
    # Which it is, its first bytes say; a name would only claim it.
    kind, suffix = ("video", ".mp4") if image_codec(data) == "other" else ("image", ".png")
    file = folder / f"{place}{suffix}"
    file.write_bytes(data)
    return Input(file, kind)


def _refused(detail: str) -> Input:
    return Input(Path(), reason="bad_row", detail=detail)


def _load_pyfunc(path: str, model_config: dict[str, str] | None = None) -> Model:
    """Called by MLflow under this name."""
    return Model(Path(path), (model_config or {}).get("device"))
