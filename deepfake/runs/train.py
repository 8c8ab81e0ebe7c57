"""One training run, start to end: data, model, loop, scores, and the files that remain.

Wires the rooms; decides nothing that a room decides.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepfake.config import RunConfig, is_environment_key
from deepfake.errors import Interrupted, UserError, first_line
from deepfake.options import flatten
from deepfake.runs.artifacts import keep_audit, keep_inputs, keep_results, let_go, log_model
from deepfake.runs.build import (
    Cache,
    Data,
    Inputs,
    Run,
    clips_key,
    crops_read,
    describe_splits,
    first_detector,
    freeze_heap,
    open_data,
    prepare_reading,
    process_cache,
    read_manifest,
    samples_key,
    size_note,
)
from deepfake.runs.card import Outcome, keep_card
from deepfake.runs.checks import check_blending, check_features
from deepfake.runs.console import Console, end_lines, epoch_line
from deepfake.runs.context import RunContext
from deepfake.runs.domain import keep_domain
from deepfake.runs.evaluate import evaluate_run
from deepfake.runs.leaning import lean
from deepfake.runs.probing import add_gain, probe
from deepfake.runs.seen import draw_seen
from deepfake.runs.selection import selection_of, trained_on, with_selected
from deepfake.runs.together import company
from deepfake.sweeping import trial
from deepfake.tracking.options import TrackingOptions
from deepfake.tracking.run import Ending, Origin, RunLog, track
from deepfake.tracking.run_folder import UNFINISHED, WEIGHTS, RunFolder
from deepfake.tracking.runs import PAUSED, STATE
from deepfake.tracking.store import Store, locate

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from deepfake.data.manifest import Manifest
    from deepfake.models.detector import Detector
    from deepfake.training.trainer import FitOptions, FitResult


@dataclass
class RunResult:
    """What came out of a run: where it is kept and its metrics."""

    run_id: str | None
    run_dir: str
    name: str
    status: str
    metrics: dict[str, float]


#: How a run ends in MLflow whose training was ended by one of these.
ENDINGS: dict[type[BaseException], Ending | None] = {
    trial.Pruned: Ending("FINISHED", "pruned"),
    trial.LetGo: Ending("KILLED", "interrupted"),
    # MLflow's word for what is to be run later.
    trial.Paused: Ending("SCHEDULED", STATE, PAUSED),
    Interrupted: Ending("KILLED", "interrupted"),
    trial.Refused: Ending("KILLED", "refused"),
    # The process that has taken the trial up goes on with this very run.
    trial.Taken: None,
}


def run(config: RunConfig, context: RunContext, parameters: dict[str, Any], inputs: Inputs | None = None) -> RunResult:
    """Train, score and keep one run.

    Args:
        config: Typed and checked.
        context: Its folder, and what was typed.
        parameters: The resolved config with dotted keys, as it is logged.
        inputs: What it reads; None finds and prepares what the config leads to.
    """
    began = time.monotonic()
    from deepfake.training.profiling import restart_peak_memory
    from deepfake.training.runtime import create_fabric, seed_everything, use_threads

    check_blending(config)
    if (reporting := trial.current()) is not None and reporting.threads is not None:
        use_threads(reporting.threads)
    fabric = create_fabric(config.trainer)
    if reporting is not None:
        restart_peak_memory(fabric.device)
    console = Console(quiet=not fabric.is_global_zero)
    folder = RunFolder(Path(fabric.broadcast(str(context.folder))))
    if fabric.is_global_zero:
        folder.begin()
    store = locate(config.tracking, config.outputs)
    # What a user most often gets wrong fails here, before anything is recorded.
    cache = Cache() if context.number is None else process_cache()
    if not cache.is_empty:
        freeze_heap()
    if inputs is None:
        manifest = cache.get("samples", samples_key(config), lambda: read_manifest(config, console))
        crops = stored = None
    else:
        manifest, crops, stored = inputs.manifest, inputs.crops, inputs.features
    seed_everything(config.seed, config.trainer.deterministic)
    detector = first_detector(config, store, cache)
    if config.backbone.freeze and context.number is None:
        # Its weights may be carried anywhere; those of a sweep's heads would be the same backbone many times.
        detector.based = False
    check_features(config, detector)
    note = size_note(config)
    if note and cache.is_first(note):
        console.say(f"note: {note}")
    console.say(_start_line(config, describe_splits(manifest), detector, fabric))
    with (
        _told_at_last(_tracked(config, context, store, fabric)) as log,
        _identified(log, folder, context.name or config.name, config.tracking),
    ):
        data = cache.get("clips", clips_key(config), lambda: _open(config, manifest, console, crops))
        _agree_on_data(config, data)
        current = Run(config, context, folder, log, console, fabric, data, detector)
        if fabric.is_global_zero:
            folder.write_uses(crops_read(data))
            keep_inputs(current, parameters)
            _warn_of_data(current)
        if note:
            log.tags({"note.size": note})
        epochs: list[dict[str, float]] = []
        with _cut_short(current, epochs):
            prepare_reading(current, cache, stored)
            probes: list[str] = []
            probed = probe(current, probes.append) if fabric.is_global_zero else None
            if fabric.is_global_zero:
                folder.write_uses(crops_read(data), probes)
            if probed is not None:
                keep_audit(current)
            if fabric.is_global_zero:
                draw_seen(current)
            result = _fit(current, began, epochs)
            result.notes += [note] if note else []
            evaluated = evaluate_run(current, result)
            add_gain(evaluated.found, probed, current, evaluated.predictions, config.evaluation.level)
            leaning = lean(current, result, evaluated)
            result.notes += leaning
        if fabric.is_global_zero:
            keep_domain(current)
            if leaning:
                log.tags({"leaning": "; ".join(leaning)})
            keep_results(current, result, evaluated)
            keep_card(current)
        log_model(current)
        if fabric.is_global_zero:
            folder.end()
            if config.tracking.keep_weights == "none":
                let_go(folder, log, "tracking.keep_weights=none kept none")
    metrics = evaluated.found.values
    shown = None if context.number is not None else store.ui_command(log.id or str(folder.path))
    console.say(end_lines(folder.path, metrics, shown, leaning))
    return RunResult(log.id, str(folder.path), context.name or config.name, "finished", metrics)


def _open(config: RunConfig, manifest: Manifest, console: Console, crops: Path | None) -> Data:
    return with_selected(config, open_data(config, manifest, console, crops), console)


def _start_line(config: RunConfig, data: str, detector: Detector, fabric: Fabric) -> str:
    """What will run on what; ``data`` says how many samples lie in which split."""
    millions = sum(p.numel() for p in detector.parameters()) / 1e6
    trained = sum(p.numel() for p in detector.parameters() if p.requires_grad) / 1e6
    return (
        f"{config.name}: {config.backbone.name} + {type(config.head).__name__.lower()} "
        f"({millions:.2f} M parameters, {trained:.2f} M trained) on {config.dataset.name} ({data}), "
        f"{config.dataset.frames} frames of {config.dataset.size} px, batch {config.trainer.batch_size}, "
        f"{config.trainer.epochs} epochs, {fabric.device} x {fabric.world_size}"
    )


def _tracked(config: RunConfig, context: RunContext, store: Store, fabric: Fabric) -> AbstractContextManager[RunLog]:
    if not fabric.is_global_zero:
        return nullcontext(RunLog())
    tags = {"device": str(fabric.device), "run_dir": str(context.folder), **context.tags}
    if context.number is not None:
        tags["job"] = str(context.number)
    if (reporting := trial.current()) is not None and reporting.repeat is not None:
        tags["repeat"] = str(reporting.repeat)
    return track(
        store,
        config.tracking.experiment or config.dataset.name,
        context.name or config.name,
        folder=context.folder,
        origin=Origin(context.parent_run_id, context.resume_id or _earlier_attempt(), _goes_on(context)),
        tags=tags,
        options=config.tracking,
        endings=ENDINGS,
    )


def _goes_on(context: RunContext) -> bool:
    """Whether the run may have been begun before in its folder, by a process that died or until it was paused."""
    reporting = trial.current()
    return context.resume or (reporting is not None and reporting.attempt > 0)


@contextmanager
def _told_at_last(tracked: AbstractContextManager[RunLog]) -> Iterator[RunLog]:
    """The study knows a run by its id also where its server named it after it began."""
    with ExitStack() as known, tracked as log:
        if (reporting := trial.current()) is not None:
            known.push(partial(_tell_id, reporting, log))
        yield log


def _tell_id(reporting: trial.TrialHandle, log: RunLog, kind: type[BaseException] | None, *_: object) -> None:
    if log.id and (kind is None or issubclass(kind, Exception)):
        reporting.identify(run_id=log.id)


def _earlier_attempt() -> str | None:
    """The tracking run of this trial's earlier attempt, whose process died."""
    reporting = trial.current()
    return None if reporting is None else reporting.identity.get("run_id") or None


@contextmanager
def _identified(log: RunLog, folder: RunFolder, name: str, options: TrackingOptions) -> Iterator[None]:
    """The study knows which run its trial is from the start; a pruned one keeps its files too."""
    reporting = trial.current()
    if reporting is not None:
        reporting.identify(run_id=log.id or "", run_dir=str(folder.path), name=name)
    try:
        yield
    except trial.Pruned:
        keeps = options.keep_weights == "all"
        log.folder(folder.path, skip=UNFINISHED if keeps else (*UNFINISHED, WEIGHTS))
        folder.end()
        if not keeps:
            let_go(folder, log, f"it was pruned (tracking.keep_weights={options.keep_weights})")
        raise


@contextmanager
def _cut_short(run: Run, epochs: Sequence[dict[str, float]]) -> Iterator[None]:
    """A run that was pruned, or failed, leaves a card too, of the epochs it had."""
    try:
        yield
    except (Interrupted, trial.Paused):
        raise
    except Exception as error:
        if run.fabric.is_global_zero:
            pruned = isinstance(error, trial.Pruned)
            why = error.message if isinstance(error, UserError) else first_line(error)
            keep_card(run, Outcome("pruned" if pruned else "failed", why, epochs))
        raise


def _agree_on_data(config: RunConfig, data: Data) -> None:
    """The trials of a study may read their data from different places, and are to read the same."""
    from deepfake.data.prepare import known_digests

    reporting = trial.current()
    if reporting is not None:
        chosen = {
            key: value
            for key, value in flatten({"dataset": asdict(config.dataset), "demo": asdict(config.demo)}).items()
            if not is_environment_key(key)
        }
        topic = f"the data of dataset={config.dataset.name} ({zlib.crc32(repr(chosen).encode()):08x})"
        reporting.agree(topic, known_digests(data.manifest, data.store.records).content_digest())


def _warn_of_data(run: Run) -> None:
    # A sweep's jobs mostly share their data: the first one's words are enough.
    for warning in run.data.audit.warnings if run.context.number in (None, 0) else ():
        run.console.warn(warning)


def fit_options(run: Run) -> FitOptions:
    """How a run's detector is trained, by its config and its clips."""
    from deepfake.training.trainer import FitOptions

    config = run.config
    return FitOptions(
        config.trainer,
        config.optimizer,
        config.scheduler,
        config.backbone.lr,
        config.evaluation,
        config.seed,
        selection_of(run),
        config.backbone.layer_decay,
    )


def _fit(run: Run, began: float, epochs: list[dict[str, float]]) -> FitResult:
    """Train; ``began`` is when the run did, by the monotonic clock, and ``epochs`` gets each epoch's metrics."""
    from deepfake.training.trainer import Trainer

    config, reporting, others = run.config, trial.current(), company()
    options = fit_options(run)
    # Lines of several trials come in turns.
    whose = "" if others is None else f"#{run.context.number} "

    def on_epoch(epoch: int, metrics: dict[str, float]) -> Exception | None:
        epochs.append({"epoch": float(epoch), **metrics})
        if reporting is not None:
            reporting.hold()
        run.log.epoch(epoch, metrics)
        run.console.say(whose + epoch_line(epoch, config.trainer.epochs, metrics))
        if reporting is not None:
            try:
                reporting.report(epoch, metrics, more=not trainer.in_last_epoch)
            except trial.Paused as paused:
                return paused
        return None

    run.log.summary({"startup_seconds": time.monotonic() - began})
    with run.console.progress() as bar:
        # One bar of many would be drawn over the others.
        trainer = Trainer(
            run.detector,
            trained_on(run),
            run.data.splits["val"],
            options,
            run.fabric,
            run.folder.path,
            bar if others is None else None,
            others,
        )
        # A trial whose process died, or that was paused, is begun again in the same folder.
        result = trainer.fit(on_epoch, resume=_goes_on(run.context))
    for note in result.notes:
        run.console.warn(note)
    return result
