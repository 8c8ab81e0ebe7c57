"""What a run keeps of its training data, and when it does."""

from __future__ import annotations

import json
from pathlib import Path

from deepfake.runs import domain
from deepfake.runs.domain import affordable, domain_of, keep_domain
from deepfake.training.domain import load_domain
from tests.runs.begun import run_of


def test_what_was_trained_on_is_kept_with_the_reason_why_features_are_not(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.config.evaluation.domain = True
    keep_domain(run)
    kept = load_domain(json.loads((tmp_path / "run" / "domain.json").read_text()))
    # The crops were drawn: they come from no file.
    assert kept.media == {}
    assert kept.cloud is None
    assert "validation; 20 and 9 are needed" in kept.why


def test_features_of_training_are_compared_with_those_of_validation(tmp_path: Path) -> None:
    """Validation is too small here: the test split, as large as one should be, stands in."""
    run = run_of(tmp_path)
    run.data.splits["val"] = run.data.splits["test"]
    found = domain_of(run, 100)
    assert found.cloud is not None
    assert len(found.cloud.known) == 24
    assert 9 <= round(found.cloud.weights.sum()) <= 24
    # Of what it was fitted on hardly any is far.
    assert (found.cloud.p_values(found.cloud.mean[None]) == 1).all()


def test_nothing_is_kept_where_it_is_not_wanted(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.config.evaluation.domain = False
    keep_domain(run)
    assert not (tmp_path / "run" / "domain.json").exists()


def test_it_takes_a_twentieth_of_training_at_most(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    train = run.data.splits["train"]
    for epochs in (1, 10, 100):
        run.config.trainer.epochs = epochs
        trained = epochs * int(train.lengths.sum()) * domain._TRAINED
        read = 2 * affordable(run) * int(max(train.lengths))
        assert read <= trained / domain._PART
    run.config.trainer.epochs = 10_000
    assert affordable(run) == domain._MOST
