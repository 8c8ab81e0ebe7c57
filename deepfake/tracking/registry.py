"""A run's logged model in the registry of the tracking store: a name, a version, an alias. Knows MLflow."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deepfake.errors import UserError
from deepfake.tracking.removal import models_of
from deepfake.tracking.run_record import RunRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: What MLflow takes for an alias, and what means something to it.
_ALIAS = re.compile(r"[A-Za-z][\w-]*")
_TAKEN = re.compile(r"latest|v\d+", re.IGNORECASE)


@dataclass(frozen=True)
class Registered:
    """A version of a registered model.

    Attributes:
        name: The model's.
        version: Its number.
        alias: What points to it; empty where nothing was asked to.
        anew: Whether the version was made for this.
    """

    name: str
    version: str
    alias: str
    anew: bool

    @property
    def uri(self) -> str:
        """By which MLflow loads it."""
        return f"models:/{self.name}@{self.alias}" if self.alias else f"models:/{self.name}/{self.version}"


def split_name(text: str) -> tuple[str, str]:
    """``name@alias`` as a name and an alias, which may be left out.

    Raises:
        UserError: MLflow would take it for something else.
    """
    name, found, alias = text.partition("@")
    if not name.strip() or re.search(r"[/:.%\"']", name):
        raise UserError(f"{name!r} is no name of a registered model", "leave out / : . % and quotes")
    if found and (not _ALIAS.fullmatch(alias) or _TAKEN.fullmatch(alias)):
        raise UserError(f"{alias!r} is no alias", "begin with a letter; latest and v1 mean something to MLflow already")
    return name, alias


def register(client: MlflowClient, record: RunRecord, name: str, alias: str) -> Registered:
    """Make a run's model a version of a registered model, once, and let an alias point to it.

    Args:
        client: Opened on the store that remembers the run.
        record: The run.
        name: Of the registered model, made where there is none.
        alias: Moved to this version; empty for none.

    Raises:
        UserError: The run is in no store, logged no model, or the store refuses.
    """
    from mlflow.exceptions import MlflowException

    if record.run_id is None:
        raise UserError(f"run {record} is in no tracking store", "name it by its id, with tracking.uri= of its store")
    try:
        experiment = client.get_run(record.run_id).info.experiment_id
        models = models_of(client, experiment, record.run_id)
        if not models:
            raise UserError(
                f"run {record} logged no model", "train it with tracking.log_model=true, or hand deepfake export on"
            )
        source = models[-1]
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        found = client.search_model_versions(f"name = '{name}'")
        known = next((one for one in found if one.run_id == record.run_id), None)
        # By where it lies: MLflow looks up "models:/…" in the store that is set for the whole process.
        version = known or client.create_model_version(
            name, source.artifact_location, run_id=record.run_id, model_id=source.model_id
        )
        if alias:
            client.set_registered_model_alias(name, alias, version.version)
    except MlflowException as error:
        raise UserError(f"{name} cannot be registered: {error.message}", "look at the store's own messages") from error
    return Registered(name, str(version.version), alias, known is None)
