"""What may be averaged, what the average is, and what is kept of it and read again."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file
from sklearn.metrics import roc_auc_score

from deepfake.config import load_values, plain_yaml, to_plain
from deepfake.data.manifest import Manifest, make_rows
from deepfake.errors import UserError
from deepfake.hydra_app import compose_config
from deepfake.runs.console import Console
from deepfake.runs.ensemble import join_runs, make_ensemble, shared_values
from deepfake.runs.load import find_member, pooled, read_decision
from deepfake.runs.saved_config import Changes, read_changes, restore
from deepfake.tracking.options import TrackingOptions
from deepfake.tracking.run_folder import RunFolder
from deepfake.tracking.run_record import RunRecord, from_folder
from deepfake.tracking.search import find_run
from deepfake.tracking.store import Store, locate
from deepfake.training.calibration import log_odds, sigmoid
from deepfake.training.fitting import fit_threshold

#: Of each split; every other one is fake, and two share their footage.
N = 24
SPLITS = ("train", "val", "test")


@dataclass
class Given:
    """What a member is made of; the seed draws its scores."""

    name: str
    seed: int = 0
    overrides: Sequence[str] = ()
    splits: dict[str, str] = field(default_factory=dict)  # of samples that lie elsewhere than in the others
    groups: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    failed: Sequence[str] = ()
    flipped: Sequence[str] = ()
    prefix: str = ""


@functools.cache
def composed(overrides: tuple[str, ...]) -> str:
    """A whole config as YAML."""
    return plain_yaml(to_plain(compose_config(["name=run", *overrides])))


def run(place: Path, given: Given) -> RunRecord:
    """A finished run's folder, with all that an ensemble reads of it."""
    folder = RunFolder(place / given.name)
    text = composed(tuple(given.overrides)).replace("name: run", f"name: {given.name}")
    folder.write_config(text, text, given.overrides)
    names = [f"{given.prefix}{split}/{i:02d}" for split in SPLITS for i in range(N)]
    labels = np.tile(np.arange(N) % 2, len(SPLITS))
    splits = np.repeat(SPLITS, N)
    rows = [
        {
            "sample_id": name, "path": name, "kind": "image", "label": int(label) ^ (name in given.flipped),
            "method": "m", "dataset": "demo", "split": given.splits.get(name, split), "bytes": 1,
            "groups": (given.groups.get(name, f"{split}{int(name[-2:]) // 2}"),),
            "sha256": given.digests.get(name, hashlib.sha256(name.encode()).hexdigest()),
        }
        for name, label, split in zip(names, labels, splits, strict=True)
    ]  # fmt: skip
    table = make_rows(rows)
    folder.write_manifest(Manifest(table, {"demo": place}))
    folder.write_provenance({"format": 1, "data": {"roots": {"demo": str(place)}}})
    scored = table[table["split"] != "train"].reset_index(drop=True)
    drawn = np.random.default_rng(given.seed).normal(0, 1, len(scored)) + scored["label"].to_numpy() - 0.5
    clips = scored.loc[scored.index.repeat(2), ["sample_id", "split"]].reset_index(drop=True)
    clips = clips.assign(
        clip=np.tile([0, 1], len(scored)), logit=np.repeat(drawn, 2) + np.tile([0.5, -0.5], len(scored))
    )
    failed = scored["sample_id"].isin(given.failed)
    score = sigmoid(clips["logit"].to_numpy()).reshape(-1, 2).mean(1)
    predictions = scored[["sample_id", "label", "method", "dataset", "split"]].assign(
        score=np.where(failed, np.nan, score), frames_used=8, status=np.where(failed, "no_face", "ok")
    )
    folder.write_predictions(predictions)
    folder.write_clips(clips[~clips["sample_id"].isin(given.failed)])
    folder.write_metrics({"metrics": {"parameters": 10.0, "latency_ms": 1.5}})
    folder.best_weights.parent.mkdir(exist_ok=True)
    save_file({"x": np.full(1, given.seed, np.float32)}, folder.best_weights)
    return from_folder(folder.path)


Make = Callable[..., list[RunRecord]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda *given: [run(tmp_path, one) for one in given]


def test_two_runs_on_the_same_splits_are_joined(make: Make) -> None:
    joined = join_runs(make(Given("a"), Given("b", 1)))
    assert joined.manifest.table["split"].value_counts().to_dict() == dict.fromkeys(SPLITS, N)
    assert list(joined.notes) == []


def test_one_run_is_no_ensemble(make: Make) -> None:
    with pytest.raises(UserError, match="an ensemble of one run is that run"):
        join_runs(make(Given("a")))


def test_the_same_weights_twice_are_refused(make: Make) -> None:
    with pytest.raises(UserError, match="are one detector: their weights are the same"):
        join_runs(make(Given("a"), Given("b", 1), Given("c")))


def test_a_run_without_weights_is_named(make: Make) -> None:
    records = make(Given("a"), Given("b", 1))
    records[1].weights().unlink()
    with pytest.raises(UserError, match=r"best.safetensors of run 'b' .* was deleted"):
        join_runs(records)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_run_that_saw_what_another_is_tested_on_is_refused(make: Make, split: str) -> None:
    with pytest.raises(UserError, match=r"'b' .* was trained or chosen on 2 of the 24 samples that 'a'") as caught:
        join_runs(make(Given("a"), Given("b", 1, splits={"test/03": split})))
    assert caught.value.hint is not None
    assert "dataset.split_seed" in caught.value.hint


def test_footage_that_another_was_trained_on_is_refused(make: Make) -> None:
    with pytest.raises(UserError, match="or on footage of theirs"):
        join_runs(make(Given("a"), Given("b", 1, groups={"train/00": "test0"})))


def test_content_that_another_was_trained_on_under_another_name_is_refused(make: Make) -> None:
    digest = hashlib.sha256(b"test/05").hexdigest()
    with pytest.raises(UserError, match="such as 'test/05'"):
        join_runs(make(Given("a"), Given("b", 1, digests={"train/00": digest})))


def test_what_a_published_split_shares_with_itself_is_no_reason(make: Make) -> None:
    shared = {"train/00": "test0"}
    assert len(join_runs(make(Given("a", groups=shared), Given("b", 1, groups=shared))).records) == 2


def test_labels_that_differ_are_refused(make: Make) -> None:
    with pytest.raises(UserError, match="do not agree on the label of 1 samples, such as 'test/04'"):
        join_runs(make(Given("a"), Given("b", 1, flipped=["test/04"])))


def test_runs_on_other_data_share_no_test(make: Make) -> None:
    own = {f"{split}/{i:02d}": f"x{split}{i}" for split in SPLITS for i in range(N)}
    other = Given("b", 1, prefix="x", groups={f"x{name}": group for name, group in own.items()})
    with pytest.raises(UserError, match="no sample was tested by all 2 runs: a 24; b 24"):
        join_runs(make(Given("a"), other))


def test_samples_that_only_some_were_tested_on_are_left_out_and_told(make: Make) -> None:
    joined = join_runs(make(Given("a", splits={"test/00": "", "test/01": ""}), Given("b", 1)))
    assert (joined.manifest.table["split"] == "test").sum() == N - 2
    assert list(joined.notes) == ["tested on the 22 samples that every run was tested on, of 24"]


def changes(place: Path, *typed: str) -> Changes:
    return read_changes([f"paths.outputs={place}/outputs", "tracking.system_metrics=false", *typed])


def test_its_config_is_what_its_members_share(make: Make, tmp_path: Path) -> None:
    records = make(
        Given("a", overrides=["model=cnn_lstm", "dataset.size=32", "seed=1"]),
        Given("b", 1, overrides=["model=cnn_gru", "dataset.size=48", "seed=2", "tracking.experiment=mine"]),
    )
    values = shared_values(records, "both", changes(tmp_path, "evaluation.threshold=f1"))
    assert "head" not in values
    assert "size" not in values["dataset"]
    assert "seed" not in values
    assert values["backbone"] == records[0].config()["backbone"]
    config = load_values(values)
    assert (config.name, config.evaluation.threshold, config.dataset.name) == ("both", "f1", "demo")


def test_its_experiment_is_that_of_the_first_unless_one_is_typed(make: Make, tmp_path: Path) -> None:
    records = make(Given("a", overrides=["tracking.experiment=mine"]), Given("b", 1))
    assert shared_values(records, "x", changes(tmp_path))["tracking"]["experiment"] == "mine"
    typed = changes(tmp_path, "tracking.experiment=other")
    assert shared_values(records, "x", typed)["tracking"]["experiment"] == "other"


@dataclass
class Made:
    """An ensemble of two runs, of which one could not score a sample."""

    record: RunRecord
    members: list[RunRecord]
    store: Store
    outputs: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    place = tmp_path_factory.mktemp("ensemble")
    members = [run(place, Given("a")), run(place, Given("b", 1, failed=["test/06"]))]
    typed = changes(place)
    store = locate(TrackingOptions(), typed.outputs)
    record = make_ensemble(join_runs(members), "both", typed, store, Console(quiet=True))
    return Made(record, members, store, typed.outputs)


def test_its_score_is_the_probability_of_the_mean_log_odds(made: Made) -> None:
    tables = [one.predictions().set_index("sample_id")["score"] for one in made.members]
    found = made.record.predictions("split", "status").set_index("sample_id")
    assert found["split"].value_counts().to_dict() == {"val": N, "test": N}
    expected = sigmoid(np.mean([log_odds(table[found.index].to_numpy()) for table in tables], axis=0))
    np.testing.assert_allclose(found["score"].to_numpy(), expected, atol=1e-12)
    assert (np.isnan(found.loc["test/06", "score"]), found.loc["test/06", "status"]) == (True, "no_face")


def test_its_numbers_are_of_the_average(made: Made) -> None:
    test = made.record.predictions("split", "label", "status")
    test = test[(test["split"] == "test") & (test["status"] == "ok")]
    metrics = made.record.metrics()
    assert metrics["test/roc_auc"] == pytest.approx(roc_auc_score(test["label"], test["score"]))
    assert metrics["test/roc_auc_low"] < metrics["test/roc_auc"] < metrics["test/roc_auc_high"]
    assert (metrics["parameters"], metrics["latency_ms"]) == (20.0, 3.0)
    own = made.members[0].predictions("split", "label")
    own = own[own["sample_id"].isin(test["sample_id"]) | (own["sample_id"] == "test/06")]
    told = made.record.members()[0].metrics["roc_auc"]
    assert told == pytest.approx(roc_auc_score(own["label"], own["score"]))


def test_the_store_knows_it_as_a_run(made: Made) -> None:
    from deepfake.tracking.run_table import run_table

    (row,) = run_table(made.store).to_dict("records")
    assert (row["run"], row["status"], row["ensemble"]) == ("both", "finished", "a, b")
    assert row["test/roc_auc"] == made.record.metrics()["test/roc_auc"]
    found = find_run("both", made.store, made.outputs)
    assert found.is_ensemble
    assert [one.name for one in found.members()] == ["a", "b"]


def test_its_card_names_its_members(made: Made) -> None:
    page = made.record.file("report.html").read_text()
    assert "the mean log-odds of 2 runs" in page
    assert "Members" in page
    assert "No epoch was recorded" not in page


def test_what_needs_a_trained_run_names_its_members(made: Made) -> None:
    with pytest.raises(UserError, match=r"has no weights of its own: it is an ensemble of a \(.*, b \("):
        made.record.weights()
    with pytest.raises(UserError, match="cannot be run again: it is an ensemble of a"):
        restore(made.record, [], [])
    with pytest.raises(UserError, match="cannot be a member of an ensemble"):
        join_runs([made.record, made.members[0]])


def test_another_criterion_is_fitted_on_what_is_validation_to_all(made: Made) -> None:
    from dataclasses import replace

    config = load_values(made.record.config())
    options = replace(config.evaluation, threshold="f1", clips="log_odds")
    decision = read_decision(made.record, options, 0.5, made.members)
    tables = [pooled(one, options, "val") for one in made.members]
    scores = sigmoid(np.mean([log_odds(table["score"].to_numpy()) for table in tables], axis=0))
    assert decision.threshold == pytest.approx(fit_threshold(tables[0]["label"].to_numpy(), scores, "f1"))
    assert decision.fitted_on["n"] == N


def test_a_member_is_found_beside_the_ensemble_where_both_were_moved(made: Made, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(made.members[0].places[0], tmp_path / "a")
    shutil.copytree(made.record.places[0], tmp_path / "both")
    record = from_folder(tmp_path / "both")
    member = record.members()[0]
    gone = type(member)(member.name, None, "/nowhere/a", member.weights)
    assert find_member(record, gone, made.store, made.outputs).places[0] == tmp_path / "a"


def test_a_member_with_other_weights_is_refused(made: Made) -> None:
    member = made.record.members()[0]
    other = type(member)(member.name, member.run_id, member.folder, "0" * 64)
    with pytest.raises(UserError, match="'a', a member of the ensemble 'both', has other weights by now"):
        find_member(made.record, other, made.store, made.outputs)


def test_a_member_that_is_gone_is_named(made: Made) -> None:
    member = made.record.members()[0]
    gone = type(member)("gone", None, "/nowhere/gone", member.weights)
    with pytest.raises(UserError, match="the weights of 'gone', a member of the ensemble 'both', are gone"):
        find_member(made.record, gone, made.store, made.outputs)


@pytest.mark.parametrize("text", ["[]", '{"members": 3}', '{"format": 1, "members": [{"name": 1}]}', "{}"])
def test_a_damaged_list_of_members_is_told(tmp_path: Path, make: Make, text: str) -> None:
    (record,) = make(Given("a"))
    (record.places[0] / "ensemble.json").write_text(text)
    with pytest.raises(UserError, match="is damaged"):
        record.members()


def test_samples_of_one_table_are_that_table() -> None:
    from deepfake.training.scoring import average_samples

    table = pd.DataFrame({"sample_id": ["x"], "score": [0.3], "status": ["ok"]})
    assert average_samples([table]) is table
