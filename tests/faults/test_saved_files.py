"""Whatever a run's folder, a study's journal or an override says: it is read, or refused in two lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.errors import HydraException
from hypothesis import strategies as st

from deepfake.config import load_values
from deepfake.errors import UserError
from deepfake.hydra_app import refuse_empty_choices
from deepfake.runs.saved_config import EVALUATE, REPRODUCE, read_overrides
from deepfake.sweeping.storage import locate, open_storage
from deepfake.tracking.run_record import RunRecord
from deepfake.training.decision import load_decision
from tests.faults.test_parsers import TEXTS, VALUES, WORDS, fuzz


def _record(folder: Path) -> RunRecord:
    return RunRecord("r", None, "FINISHED", None, (folder,))


#: Reads one file of a run.
READERS: dict[str, Callable[[RunRecord], object]] = {
    "resolved.yaml": lambda record: load_values(record.config()),
    "config.yaml": RunRecord.composed,
    "overrides.yaml": RunRecord.overrides,
    "provenance.json": RunRecord.provenance,
    "calibration.json": lambda record: load_decision(record.calibration()),
    "metrics.json": lambda record: (record.metrics(), record.unavailable()),
    "history.json": RunRecord.history,
}
WHOLE: dict[str, object] = {
    "resolved.yaml": {"name": "x", "seed": 0, "trainer": {"epochs": 2}, "dataset": {"name": "demo", "size": 64}},
    "config.yaml": {"name": "x", "seed": "${demo.seed}"},
    "overrides.yaml": ["seed=1", "model=cnn"],
    "provenance.json": {
        "format": 1,
        "git": {"commit": "c0", "untracked": []},
        "packages": {"deepfake-sweeps": "0.1.0"},
        "machine": {"threads": 1, "gpus": []},
        "data": {"choices": {"model": "cnn"}, "roots": {"demo": "/x"}},
    },
    "calibration.json": {
        "format": 2,
        "threshold": 0.4,
        "method": "youden",
        "default_threshold": 0.5,
        "calibrator": {"method": "platt", "slope": 0.7, "intercept": 1.4},
        "pooling": "mean",
        "fitted_on": {"data": "val", "n": 6, "real": 2, "fake": 4},
        "unavailable": {},
    },
    "metrics.json": {"metrics": {"test/roc_auc": 0.5}, "unavailable": {"test/f1": "none"}},
    "history.json": [{"epoch": 1, "val/loss": 0.5}],
}


def _mutated(whole: bytes) -> st.SearchStrategy[bytes]:
    """The bytes of a file with some replaced, cut out or put in."""
    place = st.integers(0, len(whole))

    def change(edits: list[tuple[int, int, bytes]]) -> bytes:
        data = whole
        for at, length, new in edits:
            data = data[:at] + new + data[at + length :]
        return data

    pieces = st.one_of(st.binary(max_size=4), st.sampled_from([b"null", b"[]", b"{}", b'"x"', b"-1", b"1e999", b"\n"]))
    return st.lists(st.tuples(place, st.integers(0, 12), pieces), min_size=1, max_size=4).map(change)


def _replaced(whole: Any) -> st.SearchStrategy[bytes]:
    """A JSON text with one value inside it replaced by another."""
    places = [*_places(whole, ())]
    return st.builds(lambda at, new: json.dumps(_put(whole, at, new)).encode(), st.sampled_from(places), VALUES)


def _places(value: Any, at: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, item in inner for place in _places(item, (*at, key)))]


def _put(value: Any, at: tuple[Any, ...], new: object) -> Any:
    if not at:
        return new
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[at[0]] = _put(changed[at[0]], at[1:], new)
    return changed


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_files_of_a_run(name: str, full: bool, tmp_path: Path, tell: Callable[[int], None]) -> None:
    whole = json.dumps(WHOLE[name]).encode()
    READERS[name](_written(tmp_path, name, whole))
    inputs = st.one_of(TEXTS, _mutated(whole), _replaced(WHOLE[name]))
    tell(fuzz(full, inputs, lambda data: READERS[name](_written(tmp_path, name, data))))


def _written(folder: Path, name: str, data: bytes) -> RunRecord:
    (folder / name).write_bytes(data)
    return _record(folder)


@pytest.mark.slow
def test_a_studys_journal(full: bool, tmp_path: Path, tell: Callable[[int], None]) -> None:
    place = locate("journal", tmp_path)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(storage=open_storage(place), study_name="s")
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.set_user_attr("job", 1)
    study.tell(trial, 0.5)
    assert place.journal is not None
    whole = place.journal.read_bytes()

    def read(data: bytes) -> None:
        place.journal.write_bytes(data)  # type: ignore[union-attr]
        storage = open_storage(place)
        for known in storage.get_all_studies():
            storage.get_all_trials(known._study_id)

    lines = [json.loads(line) for line in whole.splitlines()]
    replaced = _replaced(lines).map(lambda text: b"".join(json.dumps(x).encode() + b"\n" for x in _listed(text)))
    tell(fuzz(full, st.one_of(_mutated(whole), replaced, TEXTS), read))


def _listed(text: bytes) -> list[object]:
    found = json.loads(text)
    return found if isinstance(found, list) else [found]


KEYS = st.sampled_from(
    [
        "model",
        "trainer",
        "trainer.epochs",
        "dataset.root",
        "tracking.uri",
        "head",
        "hydra/launcher",
        "name",
        "experiment",
    ]
)
PARTS = st.sampled_from(
    ["=", ",", "[", "]", "{", "}", "(", ")", "'", '"', "\\", "${", "}", ":", "~", "+", "@", " ", "null"]
)
TYPED = st.one_of(
    st.text(max_size=40),
    st.builds(lambda key, value: f"{key}={value}", KEYS, st.one_of(WORDS, VALUES.map(str))),
    st.builds(lambda key, parts: key + "=" + "".join(parts), KEYS, st.lists(st.one_of(PARTS, WORDS), max_size=12)),
)


@pytest.mark.slow
def test_overrides(full: bool, tell: Callable[[int], None]) -> None:
    def read(text: str) -> None:
        try:
            refuse_empty_choices([text])
            read_overrides([text], REPRODUCE)
            read_overrides([text], EVALUATE)
        except HydraException as error:
            raise UserError(str(error), "it is Hydra's to tell") from error

    tell(fuzz(full, TYPED, read))
