from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.errors import UserError
from deepfake.hydra_app import absolute_config_path, refuse_empty_choices, refuse_saved_config
from deepfake.installation import CONF, SWEEPS


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "a run"
    folder.mkdir()
    for name in ("config.yaml", "resolved.yaml", "overrides.yaml", "provenance.json"):
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["--config-path", "{}", "--config-name", "config"],
        ["--config-path={}", "--config-name=resolved"],
        ["-cp", "{}", "-cn", "config.yaml"],
        ["--config-dir={}"],
        ["experiment={}/config.yaml"],
    ],
)
def test_a_saved_config_names_the_command_that_runs_it_again(words: list[str], run: Path) -> None:
    with pytest.raises(UserError, match="has no groups left") as caught:
        refuse_saved_config([word.format(run) for word in words], run.parent)
    assert caught.value.hint == f"run it again with: deepfake reproduce '{run}'"


def test_a_path_from_the_programs_folder_is_found(run: Path) -> None:
    with pytest.raises(UserError, match="has no groups left"):
        refuse_saved_config(["--config-path", run.name], run.parent)


def test_what_else_was_typed_comes_along(run: Path) -> None:
    with pytest.raises(UserError) as caught:
        refuse_saved_config(["--config-path", str(run), "seed=1", "dataset.root=/data"], run.parent)
    assert caught.value.hint.endswith("--set seed=1 dataset.root=/data")


@pytest.mark.parametrize("words", [[], ["model=cnn"], ["--config-path", "conf"], ["experiment=quick"], ["-cp"]])
def test_other_commands_pass(words: list[str], tmp_path: Path) -> None:
    refuse_saved_config(words, tmp_path)


@pytest.mark.parametrize(
    ("words", "counted"),
    [
        (["--config-path", "mine", "seed=1"], ["--config-path", "{}/mine", "seed=1"]),
        (["-cp=mine"], ["-cp={}/mine"]),
        (["--config-path=pkg://a.b"], ["--config-path=pkg://a.b"]),
        (["--config-dir", "mine", "-cp"], ["--config-dir", "mine", "-cp"]),
    ],
)
def test_an_installed_command_counts_config_paths_from_here(
    words: list[str], counted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_config_path(words) == [word.format(tmp_path) for word in counted]


GROUPS = sorted(path.name for root in (CONF, SWEEPS) for path in root.iterdir() if path.is_dir())


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("value", ["null", "1", "1.5", "true"])
def test_a_group_that_is_given_no_choice_is_named(group: str, value: str) -> None:
    with pytest.raises(UserError, match=group):
        refuse_empty_choices([f"{group}={value}"])


@pytest.mark.parametrize(
    "word",
    [
        "-m",
        "seed=null",
        "model=cnn,cnn_gru",
        "~trainer",
        "=",
        "a=b=c",
        "",
        "model=",
        "x=[",
        "++sweep={n_trials: 3}",
        "--x=null",
    ],
)
def test_whatever_else_is_typed_is_left_to_hydra(word: str) -> None:
    refuse_empty_choices([word])


def test_one_of_several_choices_that_is_none_is_named() -> None:
    with pytest.raises(UserError, match="model"):
        refuse_empty_choices(["-m", "model=cnn,null"])
