"""What is relied on of other packages although they do not promise it: an upgrade that takes it away is told here."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import optuna
import pytest
import torch
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.config_source import ConfigSource
from omegaconf import OmegaConf
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend

from deepfake import compat


def test_the_versions_are_those_that_the_names_were_seen_in() -> None:
    seen = {"hydra-core": "1.3", "omegaconf": "2.3", "optuna": "5."}
    assert [f"{name} {version(name)}" for name, start in seen.items() if not version(name).startswith(start)] == []


def test_a_jobs_outcome_is_read_whether_it_returned_or_raised() -> None:
    failed = JobReturn(status=JobStatus.FAILED)
    failed.return_value = ValueError("no")
    assert str(compat.job_outcome(failed)) == "no"
    done = JobReturn(status=JobStatus.COMPLETED)
    done.return_value = 3
    assert compat.job_outcome(done) == 3


def test_a_sweep_is_read_as_parsed() -> None:
    (override,) = OverridesParser.create().parse_overrides(["x=range(1,4)"])
    assert (compat.swept_value(override).start, compat.swept_value(override).stop) == (1, 4)


def test_the_header_of_a_config_file_is_read() -> None:
    assert compat.config_header(ConfigSource, "# @package _global_\nx: 1\n") == {"package": "_global_"}


def test_interpolations_are_looked_up_in_the_parent() -> None:
    values, parent = OmegaConf.create({"a": "${b}"}), OmegaConf.create({"b": 2})
    compat.set_parent(values, parent)
    assert values.a == 2


def test_the_flags_of_a_hydra_app_are_known() -> None:
    options = {name for action in compat.hydra_parser()._actions for name in action.option_strings}
    assert {"--multirun", "-m", "--cfg", "--help"} <= options


def test_hydras_own_launcher_is_known() -> None:
    # Scanning for plugins, as other tests have Hydra do, makes the class anew.
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher

    assert compat.is_basic_launcher(object.__new__(BasicLauncher))
    assert not compat.is_basic_launcher(object())


def test_a_config_loader_has_a_repository_that_may_be_replaced() -> None:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    loader = ConfigLoaderImpl(create_config_search_path(None))
    other = compat.config_repository(loader)
    assert other is not None
    for name in ("load_config", "get_schema_source", "initialize_sources", "group_exists", "config_exists"):
        assert hasattr(other, name)
    assert hasattr(other, "get_group_options")
    assert hasattr(other, "get_sources")


def test_a_trial_has_a_key_and_what_it_reported() -> None:
    study = optuna.create_study()
    study.ask()
    trial = study.ask()
    assert compat.trial_id(trial) == compat.trial_id(study.trials[1])
    assert compat.reported_values(trial) == {}
    assert compat.queued_values(trial) == {}
    study.enqueue_trial({"x": 0.5})
    assert compat.queued_values(study.ask()) == {"x": 0.5}


def test_a_study_has_a_key_in_its_storage() -> None:
    study = optuna.create_study(study_name="s")
    compat.study_storage(study).set_study_user_attr(compat.study_id(study), "word", 1)
    assert study.user_attrs == {"word": 1}


def test_a_study_is_read_through_another_storage() -> None:
    study, other = optuna.create_study(study_name="s"), optuna.create_study(study_name="s")
    study.ask()
    seen = compat.with_storage(other, compat.study_storage(study))
    assert (len(seen.trials), len(other.trials)) == (1, 0)


@pytest.mark.parametrize(
    ("distribution", "value", "inside"),
    [
        (FloatDistribution(0, 1), 0.5, True),
        (FloatDistribution(0, 1), 2, False),
        (IntDistribution(1, 9, step=2), 4, False),
    ],
)
def test_a_distribution_tells_what_it_holds(distribution: FloatDistribution, value: float, inside: bool) -> None:
    assert compat.contains(distribution, distribution.to_internal_repr(value)) is inside


def test_a_compiled_module_runs_as_it_was() -> None:
    module = torch.nn.Linear(2, 1)
    module.compile(backend="eager")
    assert module._compiled_call_impl is not None
    compat.forget_compiled(module)
    assert module._compiled_call_impl is None
    assert module(torch.ones(1, 2)).shape == (1, 1)


def test_the_journal_keeps_where_its_entries_end(tmp_path: Path) -> None:
    journal = JournalFileBackend(str(tmp_path / "journal"))
    assert journal._file_path == str(tmp_path / "journal")
    assert isinstance(journal._log_number_offset, dict)
