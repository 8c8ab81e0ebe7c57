"""What each head and each augmentation is good for, on the demo, where it is known what shows a fake.

    python -m benchmarks.shifts heads
    python -m benchmarks.shifts augment

``heads``    every model with three seeds: ROC-AUC against the manipulation that shows in any frame, and against the one
             that shows only over time
``augment``  each change alone against none, three seeds: ROC-AUC under the damage that it stands for, mean of its
             severities

Needs no data, no weights and no network. A training run takes about a minute on two cores; there are fifteen and
twenty-seven.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import deepfake
from benchmarks.measure import RESULTS, machine

SEEDS = (0, 1, 2)
MODELS = ("cnn", "cnn_lstm", "cnn_gru", "cnn_vit", "conv_lstm")
SPATIAL, TEMPORAL = "SyntheticBlend", "SyntheticFlicker"
#: Each augmentation, and the damage of ``--robustness`` that it stands for.
CHANGES = {
    "augment.jpeg=0.5": "JPEG",
    "augment.resize=0.5": "resize",
    "augment.crop=0.7": "crop",
    "augment.blur=0.5": "blur",
    "augment.noise=0.7": "noise",
    "augment.brightness=0.5": "darker",
    "augment.h264=0.3": "H.264",
    "augment.drop=0.5": "frames dropped",
}


def heads(outputs: Path) -> list[dict[str, object]]:
    """Each model's ROC-AUC against each manipulation, by seed."""
    rows: list[dict[str, object]] = []
    for model in MODELS:
        found: dict[str, list[float]] = {SPATIAL: [], TEMPORAL: []}
        for seed in SEEDS:
            run = deepfake.train(model=model, seed=seed, **{"paths.outputs": str(outputs)})
            methods = run.evaluate().breakdown.query("by == 'method'").set_index("group")["roc_auc"]
            for name, values in found.items():
                values.append(float(methods[name]))
        rows.append({"model": model, **{name: [round(v, 4) for v in values] for name, values in found.items()}})
        print(rows[-1], flush=True)
    return rows


def augment(outputs: Path) -> list[dict[str, object]]:
    """Each change's ROC-AUC under its damage, beside that of no change, by seed."""
    rows: list[dict[str, object]] = []
    for keys, damage in CHANGES.items():
        # Lost frames are nothing to a head that knows no order.
        model = "cnn_gru" if damage == "frames dropped" else "cnn"
        found: dict[str, list[float]] = {"without": [], "with": []}
        for seed in SEEDS:
            for name, words in (("without", ()), ("with", (keys,))):
                found[name].append(_under(damage, model, seed, words, outputs))
        rows.append({"change": keys, "damage": damage, **{k: [round(v, 4) for v in vs] for k, vs in found.items()}})
        print(rows[-1], flush=True)
    return rows


_KNOWN: dict[tuple[str, int, tuple[str, ...]], dict[str, float]] = {}


def _under(damage: str, model: str, seed: int, words: tuple[str, ...], outputs: Path) -> float:
    """The mean ROC-AUC over a damage's severities; a run that was trained before is not trained again."""
    key = (model, seed, words)
    if key not in _KNOWN:
        run = deepfake.train("augment=none", *words, model=model, seed=seed, **{"paths.outputs": str(outputs)})
        curves = run.evaluate(robustness=True).curves
        _KNOWN[key] = {name: float(curve["value"].mean()) for name, curve in curves.items()}
    return _KNOWN[key][damage]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["heads", "augment"])
    parser.add_argument("--outputs", type=Path, default=Path(tempfile.gettempdir()) / "shifts")
    asked = parser.parse_args()
    rows = {"heads": heads, "augment": augment}[asked.what](asked.outputs.resolve())
    columns = list(rows[0])
    shown = Table(*columns)
    for row in rows:
        shown.add_row(*(_cell(row[column]) for column in columns))
    Console().print(shown)
    found = {"machine": machine("torch", "timm"), "rows": rows}
    (RESULTS / f"shifts_{asked.what}.json").write_text(json.dumps(found, indent=1) + "\n")


def _cell(value: object) -> str:
    return f"{np.mean(value):.3f} ({min(value):.3f} to {max(value):.3f})" if isinstance(value, list) else str(value)


if __name__ == "__main__":
    main()
