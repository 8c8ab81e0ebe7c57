"""Which objective ranks heads as other data does: validation, or what ``selection=`` offers.

    python -m benchmarks.selection FOLDER

FOLDER is what ``python -m benchmarks.transfer build`` made. Heads are trained on stored features of a frozen
``tf_efficientnet_lite0`` (weights needed), 60 settings with three seeds each, drawn anew for each shift; which of them
is best there is not seen by either objective:

``unseen``   the same portraits framed alike, smaller and coarser; chosen by the equally framed check
``other``    faces of DFDC as reals; chosen by the equally framed check
``damaged``  the test part after strong JPEG and noise; chosen by validation made small, blurred and framed anew

Prints Spearman's correlation of each objective with ROC-AUC there, and the interval of their difference over drawn
settings. Takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console as Screen
from rich.table import Table

from benchmarks.measure import RESULTS, machine
from benchmarks.transfer import intervals
from deepfake.data.clips import ClipSet
from deepfake.data.corruptions import KINDS, DamagedClips
from deepfake.hydra_app import compose_run
from deepfake.metrics import sample_metrics
from deepfake.options import override_value
from deepfake.runs.build import Cache, Run, clips_key, first_detector, open_data, prepare_reading, read_manifest
from deepfake.runs.console import Console
from deepfake.runs.context import RunContext
from deepfake.runs.selection import with_selected
from deepfake.runs.train import fit_options
from deepfake.tracking.run import RunLog
from deepfake.tracking.run_folder import RunFolder
from deepfake.tracking.store import locate
from deepfake.training.runtime import create_fabric, seed_everything
from deepfake.training.scoring import score
from deepfake.training.trainer import Trainer

SETTINGS, SEEDS = 60, 3
AUGMENTS = ("none", "basic", "forensic", "strong")
DAMAGED = "damaged"
#: What the target of the shift ``damaged`` went through.
STRONG = (("JPEG", 30), ("noise", 16))


@dataclass(frozen=True)
class Shift:
    """Other data, and what is chosen by.

    Attributes:
        selection: Overrides.
        targets: Folders of images beside the training set, or ``damaged``: the test part under :data:`STRONG`.
    """

    selection: tuple[str, ...]
    targets: tuple[str, ...]


def shifts(folder: Path) -> list[Shift]:
    """All of them."""
    equal = ("selection=holdout_sets", _images("selection.holdout_sets", [folder / "equal"]))
    damaged = ("selection=damaged", "selection.damaged=[resize,blur,crop]", "selection.severity=3")
    return [Shift(equal, ("unseen", "other")), Shift(damaged, (DAMAGED,))]


def settings(seed: int) -> list[dict[str, object]]:
    """What heads differ in."""
    generator = np.random.default_rng(seed)
    return [
        {
            "augment": (augment := str(generator.choice(AUGMENTS))),
            "features.views": None if augment == "none" else 2,
            "optimizer.lr": float(10 ** generator.uniform(-4, -1.5)),
            "optimizer.weight_decay": float(10 ** generator.uniform(-4, 0)),
            "trainer.epochs": int(generator.choice([1, 2, 4, 8, 16])),
            "trainer.label_smoothing": float(generator.choice([0.0, 0.1, 0.2])),
            "head.dropout": float(generator.uniform(0, 0.8)),
            "trainer.batch_size": int(generator.choice([16, 32, 64])),
        }
        for _ in range(SETTINGS)
    ]


def trial(shift: Shift, folder: Path, keys: dict[str, object], outputs: Path, cache: Cache) -> dict[str, float]:
    """Train one head: its best epoch's ROC-AUC on validation and by the selection, and on each target."""
    words = [
        *("model=cnn", "backbone=efficientnet_lite0", "backbone.freeze=true", "features=cached", "dataset=images"),
        *(f"dataset.root={override_value(folder / 'set')}", f"paths.outputs={override_value(outputs)}"),
        *shift.selection,
        *(f"{key}={override_value(value)}" for key, value in keys.items()),
    ]
    config, console = compose_run(words), Console(quiet=True)
    manifest = cache.get("samples", "one", lambda: read_manifest(config, console))

    def opened() -> object:
        return with_selected(config, open_data(config, manifest, console), console)

    data = cache.get("clips", clips_key(config), opened)
    store = locate(config.tracking, outputs)
    seed_everything(config.seed, deterministic=True)
    with tempfile.TemporaryDirectory() as place:
        context = RunContext(Path(place), "", "", [], {})
        run = Run(
            config,
            context,
            RunFolder(Path(place)),
            RunLog(),
            console,
            create_fabric(config.trainer),
            data,
            first_detector(config, store, cache),
        )
        unseen = {name: cache.get("targets", name, partial(_target, name, folder, run)) for name in shift.targets}
        run.data = replace(data, selected={**data.selected, **unseen})
        prepare_reading(run, cache)
        targets = {name: run.data.selected.pop(name)[0] for name in shift.targets}
        trainer = Trainer(
            run.detector, run.data.splits["train"], run.data.splits["val"], fit_options(run), run.fabric, Path(place)
        )
        fitted = trainer.fit(lambda epoch, metrics: None)
        scored = {
            name: score(run.detector, clips, fabric=run.fabric, batch_size=256, split="test").samples
            for name, clips in targets.items()
        }
    found = {"val": fitted.best_metrics["val/roc_auc"], "check": fitted.best_metrics["select/roc_auc"]}
    return found | {name: sample_metrics(table).values["roc_auc"] for name, table in scored.items()}


def _target(name: str, folder: Path, run: Run) -> tuple[object, dict[str, str]]:
    if name == DAMAGED:
        test = run.data.splits["test"]
        assert isinstance(test, ClipSet)
        clips: object = test
        for kind, severity in STRONG:
            clips = DamagedClips(clips, KINDS[kind], severity)  # type: ignore[arg-type]
        return clips, {sample: f"{digest} {STRONG}" for sample, digest in run.data.store.contents.items()}
    words = ["model=cnn", "dataset=images", f"dataset.root={override_value(folder / name)}"]
    config = compose_run([*words, f"paths.outputs={override_value(run.config.outputs)}"])
    manifest = read_manifest(config, run.console)
    manifest = replace(manifest, table=manifest.table.assign(split="test"))
    opened = open_data(config, manifest, run.console)
    return opened.splits["test"], dict(opened.store.contents)


def _images(key: str, folders: Sequence[Path]) -> str:
    parts = [{"layout": "images", "root": str(folder), "name": folder.name} for folder in folders]
    return f"{key}={override_value(parts)}"


def measured(folder: Path, outputs: Path, seeds: int, most: int) -> pd.DataFrame:
    """One row for each target, setting and seed; ``most`` is how many kinds of shift are tried."""
    rows = []
    for number, shift in enumerate(shifts(folder)[:most]):
        cache = Cache()
        for setting, keys in enumerate(settings(number)):
            for seed in range(seeds):
                found = trial(shift, folder, {**keys, "seed": seed}, outputs, cache)
                scores = {name: found[name] for name in ("val", "check")}
                for name in shift.targets:
                    rows.append(
                        {"shift": name, "setting": setting, "seed": seed, **keys, **scores, "there": found[name]}
                    )
            print(setting, {key: round(value, 3) for key, value in found.items()}, flush=True)
    return pd.DataFrame(rows)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--outputs", type=Path, default=Path(tempfile.gettempdir()) / "selection")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--shifts", type=int, default=2, help="1 leaves the damaged test part out")
    asked = parser.parse_args()
    table = measured(asked.folder.resolve(), asked.outputs.resolve(), asked.seeds, asked.shifts)
    title = f"{SETTINGS} heads x {asked.seeds} seeds"
    shown = Table("shift", "Spearman of val", "of the selection", "gain", "95 %", title=title)
    rows = []
    for name, part in table.groupby("shift", sort=False):
        means = part.groupby("setting")[["val", "check", "there"]].mean()
        row = {"shift": name, **intervals(means.to_numpy(float))}
        rows.append(row)
        numbers = [f"{row[key]:.2f}" for key in ("val", "check", "gain")]
        shown.add_row(str(name), *numbers, f"{row['low']:.2f} to {row['high']:.2f}")
    Screen().print(shown)
    found = {"machine": machine("torch", "timm"), "rows": rows, "trials": table.to_dict("records")}
    (RESULTS / "selection.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
