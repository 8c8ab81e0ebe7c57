"""What a user can say about training: the ``trainer.*``, ``optimizer.*``, ``scheduler.*`` and ``evaluation.*`` keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from deepfake.options import LARGEST, MOST, chosen, environment, ranged

#: Looks at a clip, see :mod:`deepfake.training.views`.
VIEWS = ("whole", "mirror", "centre", "corners", "edges")

#: Words for what may be left to us.
SWITCH = ("auto", "true", "false")


def switched(choice: str | bool, auto: bool) -> bool:
    """What a key of :data:`SWITCH` comes to, where ``auto`` is what we would do."""
    return auto if choice == "auto" else str(choice).lower() == "true"


@dataclass
class OptimizerOptions:
    """What every optimizer shares; ``lr`` is the head's rate."""

    lr: float = ranged(1e-3, above=0, high=LARGEST)
    weight_decay: float = ranged(0.0, low=0, high=LARGEST)


@dataclass
class Adam(OptimizerOptions):
    """torch.optim.Adam."""

    betas: list[float] = ranged([0.9, 0.999], low=0, high=1)
    eps: float = ranged(1e-8, above=0, high=LARGEST)


@dataclass
class AdamW(OptimizerOptions):
    """torch.optim.AdamW: weight decay decoupled from the gradient."""

    weight_decay: float = ranged(0.01, low=0, high=LARGEST)
    betas: list[float] = ranged([0.9, 0.999], low=0, high=1)
    eps: float = ranged(1e-8, above=0, high=LARGEST)


@dataclass
class Sgd(OptimizerOptions):
    """torch.optim.SGD with momentum."""

    lr: float = ranged(1e-2, above=0, high=LARGEST)
    weight_decay: float = ranged(1e-4, low=0, high=LARGEST)
    momentum: float = ranged(0.9, low=0, high=1)
    nesterov: bool = True


@dataclass
class Timm(OptimizerOptions):
    """Any optimizer of timm by its name there, such as ``lion``, ``lamb`` or ``muon``; ``arguments`` are its own."""

    name: str = "nadamw"
    weight_decay: float = ranged(0.01, low=0, high=LARGEST)
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass
class SchedulerOptions:
    """What every schedule shares. Rates change per step unless it says otherwise."""


@dataclass
class Constant(SchedulerOptions):
    """The rate stays as it is."""


@dataclass
class Cosine(SchedulerOptions):
    """Linear warm-up over the first ``warmup`` share of all steps, then a half cosine to ``floor`` x lr."""

    warmup: float = ranged(0.1, low=0, high=1)
    floor: float = ranged(0.01, low=0, high=1)


@dataclass
class Plateau(SchedulerOptions):
    """The rate times ``factor`` once ``trainer.monitor`` has not improved for ``patience`` epochs."""

    factor: float = ranged(0.3, above=0, high=1)
    patience: int = ranged(2, low=0, high=MOST)
    floor: float = ranged(1e-7, low=0, high=LARGEST)


@dataclass
class TrainerOptions:
    """The loop: how long, how large, on what, and which epoch wins."""

    epochs: int = ranged(10, low=1, high=1_000_000)
    # A run whose detector this one begins with, such as best:<sweep>; all its weights must fit.
    init_from: str | None = None
    # Clips a step over all devices; auto takes the largest that fits, 16 to 64.
    batch_size: str | int = ranged(32, low=1, high=MOST, words=("auto",))
    # Batches whose gradients are added up before a step; the effective batch is batch_size x accumulate.
    accumulate: int = ranged(1, low=1, high=MOST)
    clip_norm: float | None = ranged(1.0, above=0, high=LARGEST)
    # The best epoch and early stopping follow this validation metric; the test split never chooses.
    monitor: str = "val/roc_auc"
    mode: str = chosen("max", ("max", "min"))
    patience: int | None = ranged(None, low=1, high=MOST)
    ema: float | None = ranged(None, low=0, high=1)
    # The fraction of the epochs, the last ones, whose weights are averaged; None averages none.
    swa: float | None = ranged(None, above=0, high=1)
    # How far weights climb before each step's gradient is taken: two passes a step; None takes one.
    sam: float | None = ranged(None, above=0, high=LARGEST)
    # Class imbalance: none, a positive weight in the loss, or batches that draw both classes equally often, and within
    # a class its methods, data sets or groups.
    balance: str = chosen("pos_weight", ("none", "pos_weight", "sampler", "method", "set", "identity"))
    # Each fake in one batch with an original that it was made from; both classes are drawn equally often.
    pairs: bool = False
    label_smoothing: float = ranged(0.0, low=0, high=0.5)
    # What the loss of single frames counts beside the clip's, where the head gives logits of frames.
    frame_loss: float = ranged(0.0, low=0, high=LARGEST)
    accelerator: str = environment(chosen("auto", ("auto", "cpu", "cuda", "gpu", "mps")))
    devices: str | int = environment(ranged("auto", low=1, high=1024, words=("auto",)))
    precision: str = chosen("auto", ("auto", "32", "bf16", "fp16"))
    # TensorFloat-32 for float32 products on a CUDA device: 10 bits instead of 23, several times faster.
    tf32: bool = True
    channels_last: bool = True
    compile: bool = False
    # Out of memory: fail, or split batches and add their gradients up, at the same effective batch.
    on_oom: str = chosen("fail", ("fail", "accumulate"))
    deterministic: bool = True
    num_workers: str | int = environment(ranged("auto", low=0, high=1024, words=("auto",)))
    threshold: float = ranged(0.5, low=0, high=1)
    # Where each epoch's time went, as metrics.
    profile: bool = False


@dataclass
class SelectionOptions:
    """What chooses the best epoch and is a study's objective: validation as it is, or what is harder to please.

    Where anything but ``val`` counts, each epoch has ``select/<name>/roc_auc`` of each, and ``select/roc_auc`` of all.
    """

    val: bool = True
    holdout_methods: list[str] = field(default_factory=list)
    holdout_sets: list[dict[str, Any]] = environment(field(default_factory=list), of_data=True)
    leave_one_out: str = chosen("none", ("none", "methods", "sets"))
    damaged: list[str] = field(default_factory=list)
    severity: int = ranged(2, low=1, high=5)
    combine: str = chosen("mean", ("mean", "worst"))

    @property
    def plain(self) -> bool:
        """Whether validation alone counts."""
        others = (self.holdout_methods, self.holdout_sets, self.damaged, self.leave_one_out != "none")
        return self.val and not any(others)


@dataclass
class EvaluationOptions:
    """How clips' scores become a video's, scores become calls, and how sure the numbers are."""

    # A video's score from its clips': their mean, median, the mean of the top_k highest, or of their log-odds.
    clips: str = chosen("mean", ("mean", "median", "topk", "log_odds"))
    top_k: int = ranged(2, low=1, high=MOST)
    # A video's score from its faces', where dataset.max_faces kept several: the highest, the mean of top_k or of all.
    faces: str = chosen("max", ("max", "topk", "mean"))
    # The looks at each clip whose logits are averaged (training/views.py), and the side of those that are a part of it.
    views: list[str] = chosen(["whole"], VIEWS)
    view_scale: float = ranged(0.65, low=0.1, high=1)
    # The cut fitted on validation, beside trainer.threshold: its own criterion, or fixed for trainer.threshold.
    threshold: str = chosen("youden", ("youden", "f1", "fixed"))
    calibration: str = chosen("platt", ("platt", "temperature", "isotonic", "none"))
    # Draws of a bootstrap, and the confidence of its intervals.
    resamples: int = ranged(1000, low=100, high=100_000)
    level: float = ranged(0.95, low=0.5, high=0.999)
    # The share of samples that must have a score for a number to stand unmarked.
    min_coverage: float = ranged(0.95, low=0, high=1)
    # What a linear model makes of the backbone's features before training; auto: of pretrained ones, where it is cheap.
    probe: str | bool = chosen("auto", SWITCH)
    # What a run leans on beside the face, on up to 200 test samples; auto: for a tenth of what training costs at most.
    leaning: str | bool = chosen("auto", SWITCH)
    # What the run was trained on, kept to tell files from it; auto: for a twentieth of what training costs at most.
    domain: str | bool = chosen("auto", SWITCH)


@dataclass
class FeatureOptions:
    """A frozen backbone's outputs, computed once and read from then on; ``views`` is the number of changed versions
    of each training clip that are stored where clips are changed at random."""

    cached: bool = False
    views: int | None = ranged(None, low=1, high=64)
