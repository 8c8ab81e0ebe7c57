"""From Python: what is typed in as keywords, what is refused before any work, and a process that is left as it was."""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import deepfake
from deepfake.api import _words
from deepfake.hydra_app import called_from_python, compose_config
from tests import PROJECT
from tests.test_imports import HEAVY

LIGHT = (*HEAVY, "hydra", "pandas", "numpy", "deepfake.api")


def said(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_it_imports_nothing() -> None:
    code = f"import sys, deepfake; dir(deepfake); print([m for m in {LIGHT} if m in sys.modules])"
    assert said(code) == "[]"


def test_runs_is_a_package_and_a_function_whichever_comes_first() -> None:
    first = (
        "import deepfake; a = callable(deepfake.runs); import deepfake.runs.context; print(a, callable(deepfake.runs))"
    )
    assert said(first) == "True True"
    assert said("import deepfake.runs.context; import deepfake; print(callable(deepfake.runs))") == "True"


def test_what_is_public_is_there_and_typed() -> None:
    stub = (PROJECT / "deepfake" / "__init__.pyi").read_text(encoding="utf-8")
    for name in deepfake.__all__:
        assert getattr(deepfake, name) is not None
        assert f"as {name}\n" in stub or f"{name}: " in stub
    assert (PROJECT / "deepfake" / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        deepfake.trian  # noqa: B018


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("cnn_lstm", "cnn_lstm"),
        (Path("/data/a b"), "'/data/a b'"),
        (2, "2"),
        (np.int64(2), "2"),
        (1e-3, "0.001"),
        (True, "true"),
        (None, "null"),
        ("null", "'null'"),
        ([1, "a,b"], "[1,'a,b']"),
        ({"a": "it's"}, "{a:'it\\'s'}"),
    ],
)
def test_a_keyword_is_written_as_an_override(value: object, text: str) -> None:
    assert _words(["seed=1"], {"name": value}) == ["seed=1", f"name={text}"]


@pytest.mark.parametrize(
    "name", ["it's", 'a "b"', "a\\b", "end\\", "${seed}", "\\${seed}", "a, b=c", " {[", "", "1", "ü\n"]
)
def test_a_keyword_is_that_very_value(name: str) -> None:
    assert compose_config(_words([], {"name": name})).name == name


def test_the_values_of_a_tuple_are_swept_over() -> None:
    values = {"model": ("cnn", "cnn_gru"), "name": ("a b", "c")}
    assert _words([], values, swept=True) == ["model=cnn,cnn_gru", "name='a b',c"]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["-m", "model=cnn"], "'-m' is no override"),
        (["model=cnn,cnn_gru"], "asks for several runs"),
        (["optimizer.lr=interval(1e-4,1e-2)"], "asks for several runs"),
        (["search=lr_batch"], "search=lr_batch asks for several runs"),
        (["model=cnn_gur"], "model=cnn_gur does not exist"),
        (["trainer.epoch=2"], "unknown key 'trainer.epoch'"),
        (["trainer.epochs=0"], "trainer.epochs=0 is out of range"),
        (["model"], "'model'"),
        ([""], "'' is no override"),
        ([3], "3 is no override"),
    ],
)
def test_a_mistake_is_raised(overrides: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPFAKE_OUTPUTS", str(tmp_path))
    with pytest.raises(deepfake.UserError) as caught:
        deepfake.train(*overrides)
    assert told in caught.value.message
    assert caught.value.hint
    assert caught.value._render_traceback_()[0].startswith("error: ")
    assert not list((tmp_path / "runs").glob("*"))


def test_a_value_of_no_kind_is_refused() -> None:
    with pytest.raises(deepfake.UserError, match="is no value of a key"):
        deepfake.train(name=object())


def test_without_runs_the_table_is_empty(tmp_path: Path) -> None:
    table = deepfake.runs(f"paths.outputs='{tmp_path}/none'")
    assert len(table) == 0
    assert "run_id" in table
    assert not list(tmp_path.iterdir())


def disturb(folder: Path) -> None:
    """What runs do to a process, and worse."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    os.environ.pop("KEPT", None)
    os.chdir(folder)
    logging.getLogger("alembic").setLevel(logging.CRITICAL)
    logging.root.handlers.clear()
    OmegaConf.register_new_resolver("project", lambda: "ours", replace=True)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
    torch.set_float32_matmul_precision("medium")
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.utils.deterministic.fill_uninitialized_memory = False
    gc.freeze()
    compose_config(["model=cnn"])


def state() -> list[object]:
    return [
        dict(os.environ),
        os.getcwd(),
        sys.argv,
        logging.getLogger("alembic").level,
        list(logging.root.handlers),
        random.getstate(),
        str(np.random.get_state()),
        torch.random.get_rng_state().tolist(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
        torch.get_float32_matmul_precision(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.is_grad_enabled(),
        signal.getsignal(signal.SIGTERM),
        GlobalHydra.instance().hydra,
        OmegaConf.to_container(OmegaConf.create({"a": "${project:}"}), resolve=True),
    ]


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, deepfake.UserError])
def test_a_process_is_left_as_it_was(
    error: type[BaseException] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEPT", "yes")
    OmegaConf.register_new_resolver("project", lambda: "theirs", replace=True)
    toy = Path("sweeping") / "toy_conf"
    name = next((PROJECT / "tests" / toy).glob("*.yaml")).stem
    try:
        with initialize(str(toy), version_base="1.3"), torch.no_grad():
            torch.set_default_dtype(torch.float64)
            before = state()
            with pytest.raises(error) if error else nullcontext(), called_from_python():
                assert torch.is_grad_enabled()
                assert torch.get_default_dtype() == torch.float32
                disturb(tmp_path)
                if error is not None:
                    raise error("what", "hint") if error is deepfake.UserError else error("what")
            assert state() == before
            # The app that was there still composes from its own configs.
            assert compose(name) is not None
    finally:
        torch.set_default_dtype(torch.float32)
        OmegaConf.clear_resolver("project")


def test_calls_from_threads_wait_for_each_other() -> None:
    inside, most = 0, 0

    def call() -> None:
        nonlocal inside, most
        for _ in range(20):
            with called_from_python(computes=False):
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_what_would_end_a_process_is_raised() -> None:
    with pytest.raises(deepfake.UserError, match="would have ended this process: the device"), called_from_python():
        raise SystemExit(2) from RuntimeError("the device")
