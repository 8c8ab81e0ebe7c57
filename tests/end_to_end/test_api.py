"""From Python the same numbers as from the command line, wherever it is called from, with results to go on with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

import deepfake
from deepfake.tracking.reproducibility import is_timing
from deepfake.tracking.run_record import from_folder
from tests.end_to_end.conftest import SMALL, TWO_EPOCHS, Command

#: A single one; what these tests need beyond is cut.
QUICK = [*SMALL, "model=cnn_gru", "tracking.log_model=false", "tracking.system_metrics=false"]


@pytest.fixture(scope="module", autouse=True)
def _outputs(outputs: Path) -> Iterator[None]:
    """Where commands of this session put theirs, with as many threads as these have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPFAKE_OUTPUTS", str(outputs))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run() -> deepfake.Run:
    return deepfake.train(*TWO_EPOCHS, model="cnn_gru", name="from python: it's")


pytestmark = pytest.mark.slow


def test_the_command_gives_the_same_numbers(command: Command, run: deepfake.Run) -> None:
    done = command("train.py", *TWO_EPOCHS, "model=cnn_gru", "name=from_the_shell")
    assert done.returncode == 0, done.stderr
    found = re.search(r"^run: (.+)$", done.stdout, re.MULTILINE)
    assert found
    shell = from_folder(Path(found[1]))
    typed = {name: value for name, value in shell.metrics().items() if not is_timing(name)}
    assert {name: value for name, value in run.metrics.items() if not is_timing(name)} == typed
    pd.testing.assert_frame_equal(run.predictions, shell.predictions(), check_exact=True)
    assert len(run.history) == 2
    assert run.config["name"] == "from python: it's"
    assert run.figures["roc"].is_file()


def test_a_loaded_run_predicts_as_the_command_does(
    command: Command, run: deepfake.Run, outputs: Path, tmp_path: Path
) -> None:
    videos = sorted(str(path) for path in outputs.glob("cache/demo/*/original_sequences/**/*.mp4"))[:2]
    named = [*videos, str(tmp_path / "none.mp4")]
    done = command("-m", "deepfake.cli", "predict", str(run.folder), *named, "--json")
    answers = json.loads(done.stdout)
    table = run.load().predict(named)
    for column in ("path", "kind", "class", "probability", "confidence", "score"):
        told = [answer[column] for answer in answers["results"]]
        assert [None if pd.isna(value) else value for value in table[column]] == told
    assert table["reason_code"].tolist() == [None, None, "not_found"]
    again = deepfake.load(run.run_id or "", "trainer.accelerator=cpu")
    assert again.threshold == answers["threshold"]
    pd.testing.assert_frame_equal(again.predict(videos[0]), table[:1])
    assert isinstance(again.model, torch.nn.Module)
    assert not again.model.training


def test_a_run_is_evaluated_and_reproduced(run: deepfake.Run) -> None:
    found = run.evaluate(split="val", by=["kind"])
    assert found.metrics["roc_auc"] == run.metrics["val/roc_auc"]
    assert len(found.predictions) == (run.predictions["split"] == "val").sum()
    assert len(found.breakdown)
    again = run.reproduce("seed=0")
    assert again.verdict == "identical"
    assert again.run.metrics["test/roc_auc"] == run.metrics["test/roc_auc"]
    with pytest.raises(deepfake.UserError, match="would change the run"):
        run.evaluate("model=cnn")


def test_a_sweep_says_which_is_best_and_which_failed() -> None:
    found = deepfake.sweep(*QUICK, **{"trainer.precision": ("32", "fp16")}, name="swept")
    assert list(found.table["status"]) == ["finished", "failed"]
    assert found.best is not None
    assert found.best.metrics["val/roc_auc"] == found.table["val/roc_auc"].iloc[0]
    assert found.best.load().run.name == found.best.name == found.table["run"].iloc[0]
    assert found.failed["reason"].tolist() == ["trainer.precision=fp16 does not work on a CPU"]
    table = deepfake.runs(experiment="demo").set_index("run_id")
    assert table.loc[found.best.run_id, "val/roc_auc"] == found.best.metrics["val/roc_auc"]
    assert table.loc[found.best.run_id, "sweep"] == found.name
    assert set(table[table["sweep"] == found.name]["status"]) == {"finished", "failed"}


def test_a_sweep_that_only_failed_raises_with_what_there_is() -> None:
    with pytest.raises(deepfake.SweepError, match=r"none of 1 runs finished.*fp16") as caught:
        deepfake.sweep(*QUICK, "trainer.precision=fp16")
    assert len(caught.value.sweep.failed) == 1


def test_a_study_is_begun_in_python_and_gone_on_with(command: Command) -> None:
    asked = [*QUICK, "search=lr_batch", "sweep.name=both"]
    found = deepfake.sweep(*asked, **{"sweep.n_trials": 1})
    assert (len(found.table), found.status) == (1, "finished")
    assert "history" in found.figures
    done = command("train.py", "-m", *asked, "sweep.n_trials=2")
    assert done.returncode == 0, done.stderr
    # Nothing is left to do, and what there is comes back.
    assert len(deepfake.sweep(*asked, **{"sweep.n_trials": 2}).table) == 2


ELSEWHERE = """
import asyncio, logging, os, signal, sys
import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
import deepfake

def state():
    return (list(sys.argv), os.getcwd(), signal.getsignal(signal.SIGTERM), GlobalHydra.instance().hydra,
            HydraConfig.get().job.name, list(logging.root.handlers), logging.root.level, dict(os.environ))

async def both():
    # In the event loop itself, as in a notebook, and in a thread beside it.
    one = deepfake.train(*{words!r}, name="in the loop")
    two = await asyncio.to_thread(deepfake.train, *{words!r}, name="in a thread")
    return one, two

import deepfake.runs.train

@hydra.main(version_base="1.3", config_path=None)
def app(config):
    # A file that is opened anew loses what it held, and one that was closed takes nothing more.
    logging.root.addHandler(logging.FileHandler("theirs.log", mode="w"))
    logging.getLogger("mine").warning("before")
    was = state()
    one, two = asyncio.run(both())
    try:
        deepfake.train("model=nothing")
    except deepfake.UserError as error:
        print("raised", error.message)
    assert state() == was
    logging.getLogger("mine").warning("after")
    assert one.metrics["test/roc_auc"] == two.metrics["test/roc_auc"]
    assert one.folder != two.folder
    print("log", open("theirs.log").read().split())
    print("runs", (deepfake.runs()["run_id"].isin([one.run_id, two.run_id])).sum())

app()
"""


def test_it_works_in_another_app_in_an_event_loop_and_in_a_thread(command: Command, tmp_path: Path) -> None:
    """A script without a main guard; the log file of its Hydra app is written to as before."""
    script = tmp_path / "app.py"
    script.write_text(ELSEWHERE.format(words=QUICK), encoding="utf-8")
    done = command(str(script), f"hydra.run.dir={tmp_path / 'theirs'}", "hydra.job.chdir=true")
    assert done.returncode == 0, done.stderr
    assert "raised model=nothing does not exist" in done.stdout
    assert "log ['before', 'after']" in done.stdout
    assert "runs 2" in done.stdout
