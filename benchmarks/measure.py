"""Ways of doing one thing, timed in turns in one run; results printed as ratios and kept as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from deepfake.installation import available_cores

RESULTS = Path(__file__).resolve().parent / "results"


def in_turns(
    ways: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Run all ways once a round, so that a busy machine slows them alike; the median seconds of each.

    Args:
        ways: What to run, by name.
        rounds: How often.
        clock: CPU seconds of this process, or ``time.perf_counter`` for what runs in several.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def machine(*packages: str) -> dict[str, Any]:
    """Where and with what this was measured."""
    return {
        "processor": _processor(),
        "cores": available_cores(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def row(what: str, ratio: float, reach: str, **detail: float | str) -> dict[str, Any]:
    """One line of a report: what was compared, the ratio, the figure to reach, and the seconds behind it."""
    return {"what": what, "ratio": float(f"{ratio:.4g}"), "reach": reach, **detail}


def report(name: str, method: str, rows: list[dict[str, Any]], where: dict[str, Any]) -> None:
    """Print the rows and keep them in ``results/<name>.json``."""
    print(
        f"{name}: {method}\n{where['processor']}, {where['cores']} cores, load {where['load']}, {where['packages']}\n"
    )
    for line in rows:
        detail = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in list(line.items())[3:])
        print(f"{line['ratio']:>9.4g}  {line['reach']:<8} {line['what']}  ({detail})")
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"benchmark": name, "method": method, "machine": where, "rows": rows}, indent=2)
    (RESULTS / f"{name}.json").write_text(text + "\n")


def beside(name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was measured, in the place of what was kept of it in ``results/<name>.json``, beside the rest."""
    path = RESULTS / f"{name}.json"
    kept = json.loads(path.read_text())["rows"] if path.exists() else []
    new = {line["what"]: line for line in rows}
    return [new.pop(line["what"], line) for line in kept] + list(new.values())
