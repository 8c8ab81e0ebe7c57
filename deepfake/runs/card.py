"""A run's report card: what came out, of what, at what cost, on one page that needs nothing else.

Every number is read from the run's files, where training and evaluation wrote it; nothing is measured here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepfake.data.crop_records import read_records
from deepfake.data.crop_store import CropStore
from deepfake.data.manifest import plain_path
from deepfake.errors import first_line
from deepfake.metrics import METRICS, READS, class_counts, lacking, metric_names, reliability
from deepfake.options import flatten
from deepfake.tracking import page
from deepfake.tracking import run_folder as files
from deepfake.tracking.figures import svg
from deepfake.tracking.figures.selection import LOSSES, SHOWN, most_typical, most_wrong, series
from deepfake.tracking.run_record import RunRecord, from_folder
from deepfake.tracking.tables import heading, without_ends
from deepfake.training.decision import Decision, load_decision
from deepfake.training.evaluation import RATES, break_down, resampling_units, usual_columns

if TYPE_CHECKING:
    from deepfake.runs.build import Run

#: The split whose numbers a card shows, and the one in its place where that has no samples with a score.
SPLITS = ("test", "val")
_FACES = 10  # samples of each kind
_PIXELS = 96  # of a face's side
_METHODS = 40  # the largest are told apart
_KEYS, _LETTERS = 2000, 400  # of a config that are shown, and of a value
_FILES = 60
#: Metrics whose intervals are not drawn beside those of the others.
_OTHER_SCALES = ("gain_over_probe", "drop_crop", "drop_jpeg", "saliency_face")
#: What a confusion matrix is kept as.
_COUNTS = ("threshold", "real_as_real", "real_as_fake", "fake_as_real", "fake_as_fake")
_KEY = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ``finished``, or in another word, with a reason; and its epochs, where no file has them."""

    word: str = "finished"
    reason: str = ""
    epochs: Sequence[Mapping[str, float]] = ()


@dataclass
class _Read:
    """What a run's files say, as far as they are there."""

    record: RunRecord
    store: CropStore | None
    outcome: Outcome
    config: dict[str, Any]
    numbers: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    history: Sequence[Mapping[str, float]] = ()
    manifest: pd.DataFrame | None = None
    samples: pd.DataFrame | None = None
    split: str = SPLITS[0]
    decision: Decision | None = None
    world: dict[str, Any] = field(default_factory=dict)
    audit: dict[str, Any] = field(default_factory=dict)

    def interval(self, name: str) -> tuple[float, float]:
        """Both ends of a metric's interval; NaN where there is none."""
        low, high = (self.metrics.get(f"{self.split}/{name}_{end}", math.nan) for end in ("low", "high"))
        return low, high

    def why_not(self, name: str) -> str:
        """Why a number of the split is missing; empty where nothing is said of it."""
        return str((self.numbers.get("unavailable") or {}).get(f"{self.split}/{name}", ""))


def keep_card(run: Run, outcome: Outcome = Outcome()) -> None:
    """Write a run's card into its folder and among its artifacts; a failure to do so is told and ends nothing."""
    if not (run.folder.path / files.RESOLVED).is_file():
        return  # it failed before it was anything
    try:
        record = replace(from_folder(run.folder.path), name=run.context.name or run.config.name)
        path = page.write_page(run.folder.path, run_card(record, run.data.store, outcome))
        run.log.files([path])
    except Exception as error:
        run.console.warn(f"the run's report card could not be written: {first_line(error)}")


def run_card(record: RunRecord, store: CropStore | None = None, outcome: Outcome = Outcome()) -> str:
    """A run's page.

    Args:
        record: The run; what it has no file of is left out, and said to be.
        store: The crops it read; None leaves the faces out.
        outcome: How it ended.

    Raises:
        UserError: A file of the run is damaged.
    """
    read = _read(record, store, outcome)
    body = [
        _head(read),
        page.section("Result", _result(read)),
        page.section("Members", _members(read)) if record.is_ensemble else page.section("Training", _training(read)),
        page.section(f"Scores on {read.split}", *_scores(read)),
        page.section("By method", _methods(read)),
        *_published(read),
        *_samples(read),
        page.section("What is wrong with the data", *_audit(read)),
        page.section("Cost", _cost(read)),
        page.section("Config", *_config(read)),
        page.section("Origin and files", *_origin(read)),
    ]
    return page.page(f"{record.name}: report card", body)


def open_crops(record: RunRecord, cache: Path) -> CropStore | None:
    """The crops that a run read, where they are still there.

    Args:
        record: The run.
        cache: The cache that stores lie in.
    """
    world = record.provenance() if record.has(files.PROVENANCE) else {}
    key = str(world.get("data", {}).get("crops", ""))
    folder = cache.absolute() / "crops" / key
    # A run's folder may come from anybody: no key leads out of the cache.
    if not _KEY.fullmatch(key) or not folder.is_dir():
        return None
    return CropStore(folder, read_records(folder))


def _read(record: RunRecord, store: CropStore | None, outcome: Outcome) -> _Read:
    read = _Read(record, store, outcome, record.config())
    if record.has(files.METRICS):
        read.metrics, read.numbers = record.metrics(), record.evaluation()
    read.history = record.history() if record.has(files.HISTORY) else list(outcome.epochs)
    read.manifest = record.manifest("path", "dataset") if record.has(files.MANIFEST) else None
    read.world = record.provenance() if record.has(files.PROVENANCE) else {}
    read.decision = load_decision(record.calibration()) if record.has(files.CALIBRATION) else None
    read.audit = record.audit() if record.has(files.AUDIT) else {}
    if record.has(files.PREDICTIONS):
        every = record.predictions("label", "split", "status", "method")
        scored = every[every["status"] == "ok"]
        read.split = next((name for name in SPLITS if (scored["split"] == name).any()), SPLITS[0])
        read.samples = every[every["split"] == read.split].reset_index(drop=True)
    return read


def _head(read: _Read) -> str:
    record, outcome = read.record, read.outcome
    parts = [f"<h1>{svg.escape(record.name)}</h1>"]
    said = {
        "ended": f"{outcome.word}: {outcome.reason}" if outcome.reason else outcome.word,
        "data": _data_line(read),
        "model": _model_line(read),
    }
    if outcome.word != "finished":
        parts.append(page.text(f"This run did not finish: {said['ended']}.", "note"))
    parts.append(page.facts(said))
    parts.append(page.tiles(_tiles(read)))
    if read.samples is not None and read.split != SPLITS[0]:
        parts.append(
            page.text(
                f"No {SPLITS[0]} sample has a score: scores and faces are of {read.split}, on which the best epoch "
                "was chosen.",
                "note",
            )
        )
    for note in read.numbers.get("notes") or ():
        parts.append(page.text(str(note), "note"))
    return "\n".join(parts)


def _model_line(read: _Read) -> str:
    if read.record.is_ensemble:
        return f"the mean log-odds of {len(read.record.members())} runs"
    return f"{_value(read, 'backbone.name')} + {str(_value(read, 'head._target_')).rpartition('.')[2].lower()}"


def _members(read: _Read) -> str:
    """The runs that an ensemble averages, with their own numbers on what it is tested on."""
    members = read.record.members()
    names = [name for name in metric_names(headline=True) if any(name in one.metrics for one in members)]
    own = {name: read.metrics.get(f"{SPLITS[0]}/{name}", math.nan) for name in names}
    rows = [
        {"run": one.name, "id": one.run_id or one.folder, **{name: one.metrics.get(name, math.nan) for name in names}}
        for one in members
    ]
    headed = {name: METRICS[name].heading for name in names}
    table = pd.DataFrame([*rows, {"run": read.record.name, "id": "", **own}]).rename(columns=headed)
    return page.table(table, ["run", *headed.values(), "id"], caption="each run, and all of them, on test")


def _data_line(read: _Read) -> str:
    name = str(_value(read, "dataset.name"))
    if read.manifest is None:
        return name
    counts = []
    for split in ("train", "val", "test"):
        classes = class_counts(read.manifest.loc[read.manifest["split"] == split, "label"])
        counts.append(f"{split} {classes['real']} real + {classes['fake']} fake")
    return f"{name}: {', '.join(counts)}"


def _tiles(read: _Read) -> list[tuple[str, str, str]]:
    items = []
    for name in metric_names(headline=True):
        value, (low, high) = read.metrics.get(f"{read.split}/{name}"), read.interval(name)
        if value is None and not read.why_not(name):
            continue
        remark = f"{_level(read)} interval {low:.3f} to {high:.3f}" if math.isfinite(low) else "no interval"
        title = f"{METRICS[name].heading} on {read.split}"
        items.append(
            (title, "–" if value is None else f"{value:.3f}", remark if value is not None else read.why_not(name))
        )
    items.sort(key=lambda item: not item[0].startswith("ROC"))
    gain, (low, high) = read.metrics.get(f"{read.split}/gain_over_probe"), read.interval("gain_over_probe")
    if gain is not None:
        probe = f"{read.metrics[f'{read.split}/probe_roc_auc']:.3f} by a linear probe on the untrained backbone"
        bounds = f", {_level(read)} interval {low:+.3f} to {high:+.3f}" if math.isfinite(low) else ""
        items.insert(1, ("Gain over the probe", f"{gain:+.3f}", f"ROC-AUC {probe}{bounds}"))
    return items


def _level(read: _Read) -> str:
    level = _value(read, "evaluation.level")
    return f"{100 * level:g} %" if isinstance(level, float) else ""


def _value(read: _Read, key: str) -> Any:
    """A value of the config by its dotted key; empty where there is none."""
    found: Any = read.config
    for name in key.split("."):
        found = found.get(name, "") if isinstance(found, Mapping) else ""
    return found


def _result(read: _Read) -> str:
    """Every metric with its interval, at the other threshold or calibrated, and why one is missing."""
    names = [name for reads in READS for name in metric_names(reads)] + [f"tpr_at_fpr_{rate:g}" for rate in RATES]
    names[1:1] = ["probe_roc_auc"]
    names += _OTHER_SCALES
    rows, drawn = [], []
    for name in names:
        value, (low, high) = read.metrics.get(f"{read.split}/{name}"), read.interval(name)
        if value is None and not read.why_not(name):
            continue
        others = [read.metrics.get(f"{read.split}/{name}_{kind}") for kind in ("fitted", "calibrated")]
        title = _title(name)
        why = read.why_not(name) or (read.why_not(f"{name}_low") and f"no interval: {read.why_not(f'{name}_low')}")
        how = (read.numbers.get("intervals") or {}).get(f"{read.split}/{name}", "")
        rows.append(
            {
                "metric": title,
                "value": _number(value),
                "value_low": low,
                "value_high": high,
                "at fitted threshold": _number(others[0]),
                "calibrated": _number(others[1]),
                "remark": why or how,
            }
        )
        if math.isfinite(low) and name not in _OTHER_SCALES:
            drawn.append((title, math.nan if value is None else value, low, high))
    if not rows:
        return page.text("The run has no numbers.")
    table = pd.DataFrame(rows)
    # A column in which nothing stands says nothing.
    columns = [name for name in without_ends(table) if name == "value" or not table[name].isin(("", math.nan)).all()]
    chart = (
        page.figure(f"{_level(read)} intervals", svg.whiskers(drawn, "", "metrics with their intervals"))
        if drawn
        else ""
    )
    fitted = read.decision
    threshold = (
        ""
        if fitted is None
        else f"Threshold {fitted.default:g}"
        + ("" if fitted.threshold is None else f"; {fitted.threshold:.3f} was fitted on validation by {fitted.method}")
    )
    return page.text(threshold, "soft") + page.side_by_side(chart, page.table(table, columns, caption="metrics"))


def _title(name: str) -> str:
    """What people call a metric."""
    if name in METRICS:
        return METRICS[name].heading
    if name.startswith("tpr_at_fpr_"):
        return f"Fakes found at {name.rpartition('_')[2]} false positives"
    return heading(f"{SPLITS[0]}/{name}")


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _training(read: _Read) -> str:
    if not read.history:
        return page.text("No epoch was recorded.")
    monitor = str(_value(read, "trainer.monitor"))
    best = read.metrics.get("best_epoch", math.nan)
    charts = []
    for caption, keys in (("Loss", LOSSES), ("Validation", dict.fromkeys([monitor, *SHOWN]))):
        curves = {key: series(read.history, key) for key in keys}
        curves = {key: points for key, points in curves.items() if len(points[0])}
        if caption == "Validation":
            curves = {key: points for key, points in curves.items() if key not in LOSSES}
        if not curves:
            charts.append(page.absent(caption, f"nothing of it was recorded in {len(read.history)} epochs"))
            continue
        epochs = [epoch for epochs, _ in curves.values() for epoch in epochs]
        values = [value for _, values in curves.values() for value in values]
        plot = svg.Plot(svg.axis_over("epoch", epochs, whole=True, room=0.02), svg.axis_over("", values))
        for place, (key, (across, up)) in enumerate(list(curves.items())[: svg.MOST]):
            plot.line(across.tolist(), up.tolist(), place, key.replace("_", " "))
        plot.upright(best, f"best epoch {best:.0f}")
        charts.append(page.figure(caption, plot.svg(f"{caption} over {len(read.history)} epochs")))
    return page.side_by_side(*charts)


def _scores(read: _Read) -> list[str]:
    samples = read.samples
    if samples is None or samples.empty:
        return [page.text("No sample was scored.")]
    missing = samples[samples["status"] != "ok"]
    remark = ""
    if len(missing):
        kinds = ", ".join(f"{count} {name}" for name, count in missing["status"].value_counts().items())
        remark = f"{len(missing):,} of {len(samples):,} samples have no score and are left out: {kinds}."
    scored = samples[(samples["status"] == "ok") & samples["score"].notna()]
    labels, scores = scored["label"].to_numpy(np.int64), scored["score"].to_numpy(np.float64)
    if not len(labels):
        return [page.text(remark or "No sample was scored.")]
    charts = (
        _roc(read, labels, scores),
        _confusion(read),
        _calibration(read, labels, scores),
        _spread(read, labels, scores),
    )
    return [page.text(remark, "soft"), page.side_by_side(*charts)]


def _roc(read: _Read, labels: np.ndarray, scores: np.ndarray) -> str:
    if reason := lacking(METRICS["roc_auc"], labels):
        return page.absent("ROC", f"no curve: {reason}")
    false_rate, true_rate = roc_points(labels, scores)
    plot = svg.Plot(svg.Axis("false positive rate", 0, 1), svg.Axis("true positive rate", 0, 1), 400, 380)
    value, (low, high) = read.metrics.get(f"{read.split}/roc_auc"), read.interval("roc_auc")
    area = "" if value is None else f" {value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if math.isfinite(low) else "")
    plot.line([0, 1], [0, 1], "guide", "chance").line(false_rate, true_rate, 0, f"ROC-AUC{area}")
    for name, counts in _matrices(read).items():
        false = counts["real_as_fake"] / max(counts["real_as_fake"] + counts["real_as_real"], 1)
        true = counts["fake_as_fake"] / max(counts["fake_as_fake"] + counts["fake_as_real"], 1)
        plot.points([false], [true], 1 if name == "default" else 2, f"{name} threshold {counts['threshold']:.3g}")
    return page.figure("ROC", plot.svg(f"ROC curve, area{area}"))


def roc_points(labels: np.ndarray, scores: np.ndarray) -> tuple[list[float], list[float]]:
    """False and true positive rates of every threshold at which either changes its course; both classes are there."""
    from sklearn.metrics import roc_curve

    false_rate, true_rate, _ = roc_curve(labels, scores)
    return false_rate.tolist(), true_rate.tolist()


def _matrices(read: _Read) -> dict[str, dict[str, float]]:
    found = read.numbers.get("confusion") or {}
    return {
        name.rpartition("/")[2]: counts
        for name, counts in found.items()
        if name.startswith(f"{read.split}/") and set(_COUNTS) <= set(counts)
    }


def _confusion(read: _Read) -> str:
    shown = []
    for name, counts in _matrices(read).items():
        rows = [[counts[f"{truth}_as_{called}"] for called in ("real", "fake")] for truth in ("real", "fake")]
        names = [f"{truth}\n(n={sum(row):,.0f})" for truth, row in zip(("real", "fake"), rows, strict=True)]
        said = ", ".join(f"{key.replace('_', ' ')} {count:.0f}" for key, count in counts.items() if key != "threshold")
        caption = f"Confusion at the {name} threshold, {counts['threshold']:.3g}"
        shown.append(page.figure(caption, svg.cells(rows, names, ["real", "fake"], said)))
    return "".join(shown) or page.absent("Confusion", f"no counts were kept of {read.split}")


def _calibration(read: _Read, labels: np.ndarray, scores: np.ndarray) -> str:
    plot = svg.Plot(svg.Axis("fake probability", 0, 1), svg.Axis("fraction that is fake", 0, 1), 400, 380)
    plot.line([0, 1], [0, 1], "guide", "perfectly calibrated")
    read_as = {"as scored": (scores, "ece")}
    if read.decision is not None and read.decision.calibrator is not None:
        read_as["calibrated on validation"] = (read.decision.calibrated(scores), "ece_calibrated")
    for place, (name, (probabilities, metric)) in enumerate(read_as.items()):
        bins = reliability(labels, probabilities)
        ece = read.metrics.get(f"{read.split}/{metric}")
        plot.errors(bins["score"].tolist(), bins["low"].tolist(), bins["high"].tolist(), 2 * place)
        label = name if ece is None else f"{name}, ECE {ece:.3f}"
        plot.line(bins["score"].tolist(), bins["fraction"].tolist(), 2 * place, label)
    return page.figure("Calibration", plot.svg("how often samples of a probability are fake"))


def _spread(read: _Read, labels: np.ndarray, scores: np.ndarray) -> str:
    edges = np.linspace(0, 1, 26)
    heights = {
        name: np.histogram(scores[labels == label], edges)[0] / (labels == label).sum()
        for label, name in enumerate(("real", "fake"))
        if (labels == label).any()
    }
    most = max(float(values.max()) for values in heights.values())
    plot = svg.Plot(svg.Axis("fake probability", 0, 1), svg.Axis("fraction of the class", 0, most))
    for place, (name, values) in enumerate(heights.items()):
        count = int((labels == ("real", "fake").index(name)).sum())
        plot.steps(edges.tolist(), values.tolist(), place, f"{name} (n={count:,})")
    if read.decision is not None:
        plot.upright(read.decision.applied_threshold, f"threshold {read.decision.applied_threshold:.3g}")
    return page.figure("Scores by class", plot.svg("how scores are spread in each class"))


def _methods(read: _Read) -> str:
    """Each kind of fake against all reals, by the same breakdown as an evaluation's."""
    samples, decision = read.samples, read.decision
    if samples is None or decision is None or not (samples["label"] == 1).any() or samples["score"].isna().all():
        return page.text("No fake was scored.") if samples is not None else ""
    sizes = samples.loc[samples["label"] == 1, "method"].value_counts()
    few = samples[(samples["label"] == 0) | samples["method"].isin(sizes.index[:_METHODS])].reset_index(drop=True)
    units = None
    if read.manifest is not None:
        groups = read.manifest.set_index("sample_id")["groups"].reindex(few["sample_id"]).reset_index(drop=True)
        if groups.notna().all():
            units = resampling_units(groups, few["label"].to_numpy())
    level = _value(read, "evaluation.level")
    found = break_down(few, usual_columns(few), decision, level if isinstance(level, float) else 0.95, units)
    methods = found[found["by"] == "method"]
    rows = [
        (f"{row['group']} (n={row['fake']:,})", row["roc_auc"], row["roc_auc_low"], row["roc_auc_high"])
        for row in methods.to_dict("records")
    ]
    remark = f"The {_METHODS} of {len(sizes):,} methods with the most samples." if len(sizes) > _METHODS else ""
    chart = page.figure(
        "ROC-AUC of each method against all reals", svg.whiskers(rows, "ROC-AUC", "ROC-AUC by method"), remark
    )
    columns = [str(name) for name in found if name not in ("roc_auc_low", "roc_auc_high", "n")]
    columns = [name for name in columns if name != "reason" or (found["reason"] != "").any()]
    headed = {name: METRICS[name].heading for name in columns if name in METRICS}
    table = found.rename(columns={**headed, "roc_auc_low": "ROC-AUC_low", "roc_auc_high": "ROC-AUC_high"})
    return page.side_by_side(
        chart, page.table(table, [headed.get(name, name) for name in columns], caption="by method")
    )


def _published(read: _Read) -> list[str]:
    """A suite's published numbers beside the run's, where one was evaluated."""
    if not read.record.has(files.PUBLISHED):
        return []
    try:
        table = pd.read_csv(read.record.file(files.PUBLISHED))
        shown = table.sort_values(["set", "level"], kind="stable")
        columns = [name for name in without_ends(shown) if not shown[name].isna().all()]
        drawn = page.table(shown, columns, caption="ours beside published numbers")
    except (ValueError, KeyError) as error:
        drawn = page.text(f"{files.PUBLISHED} cannot be read: {first_line(error)}")
    said = "Levels differ, and so do frames, crops and how checkpoints were chosen: a few points mean nothing."
    return [page.section("Beside published numbers", page.text(said, "soft"), drawn)]


def _samples(read: _Read) -> list[str]:
    samples = read.samples
    if samples is None or samples["score"].isna().all():
        return []
    threshold = read.decision.applied_threshold if read.decision is not None else 0.5
    wrong, typical = most_wrong(samples, _FACES, threshold), most_typical(samples, _FACES, threshold)
    called = f"Called fake from {threshold:.3g} on. Blue and single frames are real, orange and double ones fake."
    nearest = "Called rightly, with the scores nearest to the median of their class."
    return [
        page.section("Most wrong", page.text(called, "soft"), _faces(read, wrong) or page.text("None is wrong.")),
        page.section("Most typical", page.text(nearest, "soft"), _faces(read, typical) or page.text("None is right.")),
    ]


def _faces(read: _Read, chosen: pd.DataFrame) -> str:
    if chosen.empty:
        return ""
    paths: dict[str, str] = {}
    if read.manifest is not None:
        listed = read.manifest.set_index("sample_id").reindex(chosen["sample_id"]).dropna(subset=["path"])
        roots = read.world.get("data", {}).get("roots", {})
        for row in listed.reset_index()[["sample_id", "dataset", "path"]].astype(str).to_dict("records"):
            if row["dataset"] in roots:
                paths[row["sample_id"]] = _address(Path(roots[row["dataset"]]) / plain_path(row["path"]))
    items = []
    for row in chosen.to_dict("records"):
        name, fake = str(row["sample_id"]), row["label"] == 1
        method = row.get("method")
        lines = [f"fake, {method}" if fake and isinstance(method, str) else ("fake" if fake else "real")]
        lines.append(f"scored {row['score']:.3f}")
        items.append((bool(fake), thumbnail(read.store, name), name, lines, paths.get(name, "")))
    return page.faces(items)


def thumbnail(store: CropStore | None, sample_id: str) -> bytes | None:
    """A sample's first face as a small JPEG; None where its crop is gone."""
    import cv2
    import simplejpeg

    try:
        crop = np.array(store.clip(sample_id, 0)[0][0]) if store is not None else None
    except (KeyError, OSError, ValueError, IndexError):  # never cut, or pruned since
        return None
    if crop is None:
        return None
    if crop.shape[0] > _PIXELS:
        crop = cv2.resize(crop, (_PIXELS, _PIXELS), interpolation=cv2.INTER_AREA)
    return simplejpeg.encode_jpeg(np.ascontiguousarray(crop), quality=80)


def _address(path: Path) -> str:
    """A file's address; empty for a name that has none."""
    try:
        return path.absolute().as_uri()
    except (ValueError, OSError):
        return ""


def _audit(read: _Read) -> list[str]:
    if not read.audit:
        return []
    warnings = [page.text(str(text), "note") for text in read.audit.get("warnings") or ()]
    whole = ""
    if read.record.has(files.AUDIT_TEXT):
        whole = read.record.file(files.AUDIT_TEXT).read_text(encoding="utf-8", errors="surrogateescape")
    return [
        *(warnings or [page.text("The audit found nothing.")]),
        page.folded("the whole audit", page.verbatim(whole)),
    ]


def _cost(read: _Read) -> str:
    metrics = read.metrics
    last = read.history[-1] if read.history else {}
    told = {
        "training": _seconds(metrics.get("train_seconds")),
        "epochs": _plain(metrics.get("epochs_run"), "{:.0f}"),
        "an epoch": _seconds(last.get("epoch_seconds")),
        "clips a second": _plain(last.get("samples_per_second"), "{:,.0f}"),
        "peak memory": _plain(metrics.get("peak_memory_bytes"), "{:.2f} GB", 1e9),
        "parameters": _plain(metrics.get("parameters"), "{:,.0f}"),
        "latency of a clip": _plain(metrics.get("latency_ms"), "{:.1f} ms"),
        "batch size": _plain(metrics.get("batch_size"), "{:.0f}"),
    }
    machine = read.world.get("machine", {})
    gpus = ", ".join(map(str, machine.get("gpus") or ()))
    told["machine"] = ", ".join(
        str(part) for part in (machine.get("device"), gpus or machine.get("cpu"), _threads(machine)) if part
    )
    return page.facts(told)


def _threads(machine: Mapping[str, Any]) -> str:
    return f"{machine['threads']} threads" if machine.get("threads") else ""


def _plain(value: float | None, form: str, unit: float = 1.0) -> str:
    return "" if value is None else form.format(value / unit)


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def _config(read: _Read) -> list[str]:
    typed = read.record.overrides() if read.record.has(files.OVERRIDES) else []
    values = flatten(read.config)
    rows = [(key, _short(value)) for key, value in list(values.items())[:_KEYS]]
    left = f"and {len(values) - _KEYS:,} more, in {files.RESOLVED}" if len(values) > _KEYS else ""
    table = page.table(pd.DataFrame(rows, columns=["key", "value"]), ["key", "value"], caption="config") if rows else ""
    said = page.verbatim("\n".join(typed)) if typed else page.text("Nothing was typed: all is as the config has it.")
    return [said, page.folded(f"all {len(values):,} keys", table, page.text(left))]


def _short(value: object) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= _LETTERS else f"{text[:_LETTERS]}…"


def _origin(read: _Read) -> list[str]:
    git, data = read.world.get("git") or {}, read.world.get("data", {})
    told = {
        "command": read.world.get("command", ""),
        "code": f"{git['commit']}{' with changes' if git.get('dirty') else ''}" if git.get("commit") else "",
        "version": read.world.get("version", ""),
        "seeds": ", ".join(f"{name} {value}" for name, value in (read.world.get("seeds") or {}).items()),
        "choices": ", ".join(f"{group}={choice}" for group, choice in (data.get("choices") or {}).items()),
        "manifest": data.get("manifest", ""),
        "folder": str(read.record.places[0]),
    }
    place = read.record.places[0]
    found = sorted(file.relative_to(place) for file in place.glob("*") if file.is_file() and file.name[0] != ".")
    found += (file.relative_to(place) for file in files.pictures(place))
    targets = {str(name): page.address(str(name)) for name in found[:_FILES] if name.name != page.PAGE}
    return [page.facts(told), page.links(targets)]
