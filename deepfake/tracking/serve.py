"""A logged detector as something that maps clips to probabilities. Needs torch and the detector, not MLflow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from deepfake.models.detector import create_detector
from deepfake.tracking.model import BASE, SPEC, WEIGHTS, DetectorSpec


class Served:
    """The detector behind MLflow's ``predict``."""

    def __init__(self, folder: Path, device: str | None = None) -> None:
        self.spec = DetectorSpec.from_json((folder / SPEC).read_text())
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        detector = create_detector(self.spec.backbone, self.spec.head, self.spec.size)
        base = load_file(folder / BASE) if (folder / BASE).exists() else {}
        detector.load_state_dict({**base, **load_file(folder / WEIGHTS)})
        self.detector = detector.eval().to(self.device)

    @torch.inference_mode()
    def predict(self, clips: npt.NDArray[np.uint8], params: dict[str, object] | None = None) -> npt.NDArray[np.float32]:
        """Fake probabilities [B] of uint8 clips [B, T, 3, H, W].

        Args:
            clips: RGB, as the signature says.
            params: Taken because MLflow passes it; there are none.
        """
        if isinstance(clips, dict):
            # MLflow's server wraps a named tensor in a dict.
            (clips,) = clips.values()
        batch = torch.from_numpy(np.ascontiguousarray(clips)).to(self.device)  # [B, T, 3, H, W]
        mask = torch.ones(batch.shape[:2], dtype=torch.bool, device=self.device)
        return torch.sigmoid(self.detector(batch, mask).logits).float().cpu().numpy()


def _load_pyfunc(path: str, model_config: dict[str, str] | None = None) -> Served:
    """Called by MLflow under this name."""
    return Served(Path(path), (model_config or {}).get("device"))
