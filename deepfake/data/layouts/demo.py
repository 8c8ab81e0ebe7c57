"""The generated demo, which lies on disk as FaceForensics++ does. Knows nothing of how it is drawn."""

from __future__ import annotations

from pathlib import Path

from deepfake.data.layouts.faceforensics import FaceForensics

BLEND, FLICKER = "SyntheticBlend", "SyntheticFlicker"


class Demo(FaceForensics):
    """FaceForensics++'s tree with the two synthetic methods."""

    name = "demo"
    summary = f"manipulated_sequences/{{{BLEND},{FLICKER}}} (the generated demo)"
    methods = (BLEND, FLICKER)

    def probe(self, root: Path) -> Path | None:
        """The folder of the official tree, if its fakes are synthetic."""
        folder = super().probe(root)
        return folder if folder and (folder / "manipulated_sequences" / BLEND).is_dir() else None
