"""Names of other packages that these do not promise to keep, all in one place, each with the version it was seen in.

An upgrade that takes one away breaks ``tests/test_compat.py``, which says which and what it is for. Imports nothing by
itself: whoever calls has the package already.
"""

from __future__ import annotations

import argparse
import copy
import functools
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def job_outcome(result: Any) -> Any:
    """What a Hydra job returned, or the exception that it ended in, which the public ``return_value`` raises.

    hydra-core 1.3.8: ``JobReturn._return_value``.
    """
    return result._return_value


def swept_value(override: Any) -> Any:
    """The sweep that an override describes, as parsed; the public ``value()`` refuses sweeps.

    hydra-core 1.3.8: ``Override._value``.
    """
    return override._value


def config_header(source: Any, text: str) -> dict[str, str | None]:
    """The ``# @package`` line of a config file.

    hydra-core 1.3.8: ``ConfigSource._get_header_dict``.
    """
    header: dict[str, str | None] = source._get_header_dict(text)
    return header


def set_parent(values: Any, parent: Any) -> None:
    """Let interpolations of a config be looked up in another.

    omegaconf 2.3.1: ``DictConfig._set_parent``.
    """
    values._set_parent(parent)


def is_basic_launcher(launcher: Any) -> bool:
    """Whether a launcher is Hydra's own, which runs jobs one after another in this process.

    hydra-core 1.3.8: ``hydra._internal.core_plugins.basic_launcher.BasicLauncher``. Looked up when asked: scanning for
    plugins executes that module again and makes its class anew.
    """
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher

    return isinstance(launcher, BasicLauncher)


def hydra_parser() -> argparse.ArgumentParser:
    """What reads the flags and overrides of a Hydra app.

    hydra-core 1.3.8: ``hydra._internal.utils.get_args_parser``.
    """
    from hydra._internal.utils import get_args_parser

    return get_args_parser()


def config_repository(loader: Any) -> Any:
    """The repository that a config loader reads from, which may be replaced; None where it has none.

    hydra-core 1.3.8: ``hydra._internal.config_loader_impl.ConfigLoaderImpl.repository``.
    """
    return getattr(loader, "repository", None)


@contextmanager
def resolvers_kept() -> Iterator[None]:
    """While entered, resolvers may be registered; afterwards there are those of before, as they were.

    omegaconf 2.3.1: ``BaseContainer._resolvers``.
    """
    from omegaconf.basecontainer import BaseContainer

    before = dict(BaseContainer._resolvers)
    try:
        yield
    finally:
        BaseContainer._resolvers = before


def swap_singletons(instances: dict[type, Any]) -> dict[type, Any]:
    """Give Hydra other singletons; returns those it had.

    hydra-core 1.3.8: ``Singleton._instances``.
    """
    from hydra.core.singleton import Singleton

    before = Singleton._instances
    Singleton._instances = instances
    return before


def trial_id(trial: Any) -> int:
    """The key of a trial in its storage, which is not its number within the study.

    optuna 5.0: ``Trial._trial_id`` and ``FrozenTrial._trial_id``.
    """
    key: int = trial._trial_id
    return key


def reported_values(trial: Any) -> dict[int, float]:
    """What a trial had reported, by step, when it was last read from the storage.

    optuna 5.0: ``Trial._cached_frozen_trial``; asking the storage anew costs a query.
    """
    values: dict[int, float] = trial._cached_frozen_trial.intermediate_values
    return values


def study_storage(study: Any) -> Any:
    """The storage that a study reads and writes.

    optuna 5.0: ``Study._storage``; of a database it is one that remembers ended trials.
    """
    return study._storage


def study_id(study: Any) -> int:
    """The key of a study in its storage.

    optuna 5.0: ``Study._study_id``.
    """
    key: int = study._study_id
    return key


def with_storage(study: Any, storage: Any, directions: Any = None) -> Any:
    """The same study, read and written through another storage.

    optuna 5.0: ``Study._storage``; ``Study._directions``, which it read from the former one.

    Args:
        directions: Those of the objectives that the other storage shows; None where they are the same.
    """
    other = copy.copy(study)
    other._storage = storage
    if directions is not None:
        other._directions = directions
    return other


def queued_values(trial: Any) -> dict[str, Any]:
    """The part of a trial's point that somebody queued, by key; empty where a sampler draws it all.

    optuna 5.0: ``Trial._fixed_params``.
    """
    values: dict[str, Any] = trial._fixed_params
    return values


def contains(distribution: Any, internal: float) -> bool:
    """Whether a distribution holds a value, in its internal form.

    optuna 5.0: ``BaseDistribution._contains``.
    """
    return bool(distribution._contains(internal))


def forget_compiled(module: Any) -> None:
    """Let a module run as it was before ``compile()``.

    torch 2.13: ``Module._compiled_call_impl``.
    """
    module._compiled_call_impl = None


def fused_optimizers() -> dict[str, Any]:
    """The kernels by which torch's optimizers step: Adam's, AdamW's and SGD's.

    torch 2.13: ``torch._fused_adam_``, ``torch._fused_adamw_``, ``torch._fused_sgd_``.
    """
    import torch

    return {"adam": torch._fused_adam_, "adamw": torch._fused_adamw_, "sgd": torch._fused_sgd_}


@functools.cache
def prepare_torchvision() -> Any:
    """Make ``import torchvision``, and so timm, work where a CPU-only torch stands beside PyPI's CUDA torchvision.

    Imports torchvision, defining the operators its compiled part would have brought if that cannot be loaded.

    Call it before the first import of timm, torchvision or ``mlflow.pytorch``. PyPI's torchvision is built for
    CUDA; beside a CPU-only torch its compiled part fails to load and its Python part then asks for operators
    nobody defined. Afterwards ``torchvision.ops`` and ``torchvision.io`` are still unusable; timm needs neither.

    Returns:
        The operator library, which must stay referenced to stay defined (the cache does that), or None
        where torchvision needed no help.

    Raises:
        RuntimeError: torchvision fails to import for another reason.
        ImportError: torchvision is not installed.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return None
    # The failed import left its submodules behind; they would be found half-initialised.
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    import torch

    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    importlib.import_module("torchvision")
    return library


def purge_run(client: Any, run_id: str) -> None:
    """Remove a deleted run from a database for good, as ``mlflow gc`` does.

    mlflow 3.17.2: ``SqlAlchemyStore._hard_delete_run``, behind ``MlflowClient._tracking_client``.
    """
    client._tracking_client.store._hard_delete_run(run_id)


def purge_model(client: Any, model_id: str) -> None:
    """The same of a logged model.

    mlflow 3.17.2: ``SqlAlchemyStore._hard_delete_logged_model``.
    """
    client._tracking_client.store._hard_delete_logged_model(model_id)
