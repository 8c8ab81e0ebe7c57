"""One run, from its config to what is kept of it: built, trained, scored, saved and loaded again. What verbs share.

``deepfake.runs()`` is the table of all of them, so this package can be called; see :mod:`deepfake.runs.listing`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Runs(ModuleType):
    def __call__(self, *arguments: Any, **named: Any) -> Any:
        from deepfake.runs.listing import runs

        return runs(*arguments, **named)


sys.modules[__name__].__class__ = _Runs
