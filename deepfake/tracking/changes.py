"""What differs between the world a run was made in and this one: code, packages, machine, weights, and every file.

Compares what was written down with what is found now; finds nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

#: How a value that nobody wrote down is shown.
UNKNOWN = "not recorded"
_COLUMNS = ["what", "then", "now"]
_SHORT = 12
_FEW = 4
#: Columns of a manifest that say what a sample is, beside its file.
_MEANING = ("label", "split", "method")


@dataclass(frozen=True)
class DataChanges:
    """A manifest against the one of now.

    Attributes:
        rows: ``sample_id`` and ``change`` of every sample that is not the same.
        samples: How many there were.
        hashed: How many of them were compared by the SHA-256 of their file; the others only by its size.
        moved: Data sets whose folder is another one now: name to (then, now).
    """

    rows: pd.DataFrame
    samples: int
    hashed: int
    moved: Mapping[str, tuple[str, str]]

    @property
    def same(self) -> bool:
        """Whether every sample is there, with the same file, label and split."""
        return self.rows.empty


def compare_worlds(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[pd.DataFrame, list[str]]:
    """Two of :func:`deepfake.tracking.provenance.collect`.

    Returns:
        One row per thing that differs: what, then, now. And what is the same, for a line of text.
    """
    pairs = {**_code(then, now), **_machine(then, now), **_weights(then, now)}
    rows = [{"what": what, "then": _text(a), "now": _text(b)} for what, (a, b) in pairs.items() if a != b]
    packages = {**then.get("packages", {}), **now.get("packages", {})}
    other = 0
    for name in packages:
        a, b = (world.get("packages", {}).get(name) for world in (then, now))
        if a != b:
            other += 1
            rows.append({"what": f"package {name}", "then": a or "not installed", "now": b or "not installed"})
    same = [what for what, (a, b) in pairs.items() if a == b and a is not None]
    return pd.DataFrame(rows, columns=_COLUMNS), [f"{len(packages) - other} packages", *same]


def compare_manifests(
    then: pd.DataFrame, now: pd.DataFrame, roots: tuple[Mapping[str, str], Mapping[str, str]]
) -> DataChanges:
    """Every sample of a run's manifest against those that are found now.

    Args:
        then: With ``bytes`` and, where it was recorded, ``sha256``.
        now: The same of now.
        roots: The folder of each data set, then and now.
    """
    old, new = (table.set_index("sample_id") for table in (then, now))
    both = old.index.intersection(new.index, sort=False)
    a, b = old.loc[both], new.loc[both]
    known = (a["sha256"] != "") & (b["sha256"] != "")
    other = known & (a["sha256"] != b["sha256"])
    resized = ~known & (a["bytes"] != b["bytes"])
    changes = [
        _rows(old.index.difference(new.index, sort=False), "missing"),
        _rows(new.index.difference(old.index, sort=False), "was not there then"),
        _rows(both[(b["bytes"] < 0) & (a["bytes"] >= 0)], "missing"),
    ]
    for mask in (other, resized & (b["bytes"] >= 0)):
        sizes = zip(a["bytes"][mask], b["bytes"][mask], strict=True)
        changes.append(_rows(both[mask], [_resized(x, y) for x, y in sizes]))
    for column in _MEANING:
        mask = a[column] != b[column]
        pairs = zip(a[column][mask], b[column][mask], strict=True)
        changes.append(_rows(both[mask], [f"{column} {x} -> {y}" for x, y in pairs]))
    moved = {
        name: (folder, roots[1][name])
        for name, folder in roots[0].items()
        if name in roots[1] and folder != roots[1][name]
    }
    return DataChanges(pd.concat(changes, ignore_index=True), len(old), int(known.sum()), moved)


def _code(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[object, object]]:
    a, b = then.get("git") or {}, now.get("git") or {}
    return {
        "git commit": (a.get("commit"), b.get("commit")),
        "uncommitted changes": (_diff(a), _diff(b)),
        "untracked files": _apart(a.get("untracked"), b.get("untracked")),
        "python": (then.get("python"), now.get("python")),
        "platform": (then.get("platform"), now.get("platform")),
    }


def _machine(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[object, object]]:
    a, b = then.get("machine", {}), now.get("machine", {})
    pairs: dict[str, tuple[object, object]] = {
        "device": (a.get("device"), b.get("device")),
        "processor threads": (a.get("threads"), b.get("threads")),
        "processor": (a.get("cpu"), b.get("cpu")),
        "GPUs": (_listed(a.get("gpus")), _listed(b.get("gpus"))),
        "GPU driver": (a.get("driver"), b.get("driver")),
    }
    x, y = then.get("environment", {}), now.get("environment", {})
    return pairs | {name: (x.get(name, "unset"), y.get(name, "unset")) for name in sorted({**x, **y})}


def _weights(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[object, object]]:
    a, b = then.get("weights", {}), now.get("weights", {})
    return {f"first weights of the {part}": (a.get(part), b.get(part)) for part in sorted({**a, **b})}


def _diff(git: Mapping[str, Any]) -> str | None:
    if not git:
        return None
    return f"diff {git['diff_sha256'][:_SHORT]}" if git.get("diff_sha256") else "none"


def _apart(then: list[str] | None, now: list[str] | None) -> tuple[str | None, str | None]:
    """How many names there are, and the few that only one side has."""
    if then is None or now is None:
        return _counted(then, ()), _counted(now, ())
    return _counted(then, sorted({*then} - {*now})), _counted(now, sorted({*now} - {*then}))


def _counted(names: list[str] | None, own: Sequence[str]) -> str | None:
    if names is None:
        return None
    only = f", only here {', '.join(own[:_FEW])}{' …' if len(own) > _FEW else ''}" if own else ""
    return f"{len(names)}{only}"


def _listed(names: list[str] | None) -> str | None:
    return None if names is None else ", ".join(names) or "none"


def _text(value: object) -> str:
    if value is None:
        return UNKNOWN
    text = str(value)
    # Digests and commits are told apart by their beginning.
    return text[:_SHORT] if len(text) in (40, 64) and text.isalnum() else text


def _resized(then: int, now: int) -> str:
    return f"another file: {then} -> {now} bytes" if then != now else f"another file of the same {now} bytes"


def _rows(samples: pd.Index, change: str | list[str]) -> pd.DataFrame:
    return pd.DataFrame({"sample_id": list(samples), "change": change}, dtype=object)
