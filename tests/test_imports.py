"""A mistyped key is told before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys

from tests import PROJECT

HEAVY = ("torch", "timm", "mlflow", "optuna", "sklearn", "matplotlib", "cv2", "av")


def test_the_way_in_imports_nothing_heavy() -> None:
    code = f"import sys, deepfake.cli, deepfake.commands.train; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_worker_watches_its_parent_before_anything_heavy_is_imported() -> None:
    code = f"import sys, deepfake.sweeping.worker; print([m for m in {(*HEAVY, 'hydra', 'numpy')} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
