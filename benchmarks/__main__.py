"""All benchmarks, one after another, each in a process of its own: ``python -m benchmarks``.

Takes about an hour and a quarter; each can be run alone, as ``python -m benchmarks.<name>``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

#: In the order in which they run, the short ones first.
NAMES = (
    "step",
    "loop",
    "clips",
    "evaluate",
    "calibration",
    "tracking",
    "gpu",
    "features",
    "fuse",
    "report",
    "prepare",
    "predict",
    "explain",
    "hostile",
    "serve",
    "sweep",
)


def main() -> int:
    """Run them; one that fails does not stop the others. Returns how many failed."""
    failed = []
    for name in NAMES:
        print(f"== {name}", flush=True)
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=Path(__file__).parents[1], check=False)
        if done.returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    print("The table: python -m benchmarks.table --write")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
