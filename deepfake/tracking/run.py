"""One run as MLflow remembers it: how it begins, how it ends and what is recorded of that.

No run is ever MLflow's "active run", so that runs may nest, follow one another in one process or share a parent
with other processes. Knows nothing of training or of the configuration's format.
"""

from __future__ import annotations

import getpass
import os
import re
import shlex
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepfake import __version__
from deepfake.errors import UserError, masked
from deepfake.tracking.delivery import MARK, Delivery, comes_again, name_best, reason
from deepfake.tracking.logger import Clock, RunLog, SystemSampler, TrackedRun, clean_name, param_texts, tag_text
from deepfake.tracking.options import TrackingOptions
from deepfake.tracking.outbox import IN_ALL, AwayError, Outbox, send_all
from deepfake.tracking.provenance import git_state
from deepfake.tracking.run_folder import RESOLVED
from deepfake.tracking.runs import end_dead, process_tags, search
from deepfake.tracking.spool import Entry, Journal, find_journals, open_journal, read_headers
from deepfake.tracking.store import Store, answer_soon, connect, experiment_id, without_room

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


#: The value of the tag of a run that was made from a journal.
_MARK = re.compile(r"[0-9a-f]{32}")

__all__ = [
    "Ending",
    "Origin",
    "RunLog",
    "TrackedRun",
    "add_failed",
    "clean_name",
    "name_runs",
    "reopen",
    "send_journal",
    "track",
]


@dataclass(frozen=True)
class Ending:
    """How a run ends when a certain exception leaves it: an MLflow status and a tag that says why."""

    status: str
    tag: str
    value: str = "true"


@dataclass(frozen=True)
class Origin:
    """The runs that a run comes from, by their ids.

    Attributes:
        parent: The run to nest it under, in whichever process that one lives.
        resumed: The run to go on with instead of making one, where the store still knows it.
        again: Whether an earlier process may have begun the run in its folder, though its id is not known: what that
            one kept is gone on with, else the run under the same parent that names the folder.
    """

    parent: str | None = None
    resumed: str | None = None
    again: bool = False


@dataclass(frozen=True)
class _Kept:
    """A run whose server had not heard of it as it began.

    Attributes:
        begin: What it is to be made of, as its journal says it.
        run_id: Its id, empty where no server has made it yet.
        name: Its journal's.
    """

    begin: Mapping[str, Any]
    run_id: str
    name: str


@contextmanager
def track(
    store: Store,
    experiment: str,
    name: str,
    *,
    folder: Path | None = None,
    origin: Origin = Origin(),
    tags: Mapping[str, object] | None = None,
    options: TrackingOptions | None = None,
    endings: Mapping[type[BaseException], Ending | None] | None = None,
) -> Iterator[TrackedRun]:
    """A run for as long as the ``with`` block lasts; how the block is left decides how the run ends.

    An exception makes it FAILED, with the traceback as ``traceback.txt`` and its last line as the tag
    ``failure``; KeyboardInterrupt makes it KILLED. Whatever was raised is raised on.

    A server is sent everything in the background, through a journal in the run's folder: however slow it is, nothing
    waits for it between the beginning and the end, and the end not for long. One run of many begins without it too:
    its id there is found out later, until then it is empty. Whoever goes on with it in its folder goes on with what is
    kept of it, so that one run comes of both.

    Args:
        store: Where; see :func:`deepfake.tracking.store.locate`.
        experiment: Its experiment's name, made where it does not exist.
        name: The run's name, which need not be unique.
        folder: The run's folder; without one a server is sent everything at once.
        origin: The runs it is nested under or goes on with.
        tags: Tags beyond git, host, process and ``options.tags``.
        options: Whether and how often to sample the machine.
        endings: Exceptions that end a run in another way, such as pruning; None leaves it as it is, to others.

    Raises:
        UserError: The store cannot be opened, or its server stopped answering.
    """
    answer_soon()
    options = options or TrackingOptions()
    parent, resumed = origin.parent, origin.resumed
    known = _tags(parent, {**(options.tags or {}), **(tags or {})})
    kept = None if folder is None or not store.remote else _find_kept(store, folder, origin)
    if kept is not None:
        resumed = kept.run_id
    params: Mapping[str, str] = {}
    if folder is not None and kept is not None and not kept.run_id:
        run = _unborn(store, folder, kept)
    else:
        try:
            client = connect(store)
            with _answering(store, "the beginning of a run"):
                if resumed is None and origin.again:
                    resumed = _of_folder(client, experiment_id(client, store, experiment), known)
                begun = _begin(client, store, experiment, name, resumed, known)
                if parent is None:
                    end_dead(client, begun.info.experiment_id)
            run = _tracked(client, store, begun, folder, kept=kept)
            params = begun.data.params
        except UserError as error:
            if parent is None or folder is None or not store.remote:
                raise
            print(f"warning: {error.message}: training goes on without it", file=sys.stderr)
            if kept is None:
                mark = uuid.uuid4().hex
                begin = {"experiment": experiment, "name": name, "tags": {**known, MARK: mark}, "at": Clock().now()}
                kept = _Kept({**begin, "again": origin.again}, resumed or "", resumed or mark)
            run = _unborn(store, folder, kept)
    if (resumed is not None or origin.again) and run.id in (resumed, ""):
        run.resumed(params)
        run.tags({**known, "resumed": "true"})
        run.goes_on()
    sampler = SystemSampler(run.measured, options.system_metrics_seconds) if options.system_metrics else None
    if sampler is not None:
        sampler.start()
    status: str | None = "FINISHED"
    try:
        yield run
    except BaseException as error:
        status = _note_ending(run, error, endings or {})
        raise
    finally:
        if sampler is not None:
            sampler.stop()
        # On a full disk the error that stopped the run is raised, not the failure to record its ending: the next
        # process ends a run that a dead one has left.
        with nullcontext() if status == "FINISHED" else suppress(Exception):
            if status is not None:
                run.ended(status)
        hurried = status in ("KILLED", None)
        # Others of a sweep are to be trained yet: they do not wait for a server that is known to be away.
        run.close(hurried or (parent is not None and run.away))
        if store.remote and folder is not None and parent is None and not (hurried or run.away):
            _send_left(store, folder)


def reopen(store: Store, run_id: str) -> TrackedRun:
    """A run of the past, to add what was found out about it later; how it ended stays as it is.

    What a server does not take is kept in the run's folder, where that is still there.

    Raises:
        UserError: The store cannot be opened, or has no such run.
    """
    from mlflow.exceptions import MlflowException

    answer_soon()
    client = connect(store)
    with _answering(store, f"a question for the run {run_id}"):
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise UserError(f"{store.uri} has no run {run_id}", f"list the runs: {store.ui_command()}") from error
    folder = Path(run.data.tags.get("run_dir", ""))
    return _tracked(client, store, run, folder if (folder / RESOLVED).is_file() else None, background=False)


def add_failed(
    parent: TrackedRun,
    name: str,
    why: str,
    *,
    tags: Mapping[str, object],
    params: Mapping[str, object],
    trace: Path | None = None,
) -> None:
    """Record a job that failed before it began a run of its own, as a FAILED run nested under its parent.

    Args:
        parent: The sweep's run, still open.
        name: The run's name.
        why: Why it failed, in one line; the tag ``failure``.
        tags: Tags beyond git, host and process.
        params: What was chosen for it.
        trace: A file that holds its exception, kept with it.
    """
    file = trace if trace is not None and trace.is_file() else None
    parent.failed_child(name, _tags(parent.id, {**tags, "failure": why}), param_texts(params), file)


def name_runs(store: Store, parent: TrackedRun, folder: Path) -> dict[str, str]:
    """The ids of the runs nested under a sweep's, by their folders; what those kept is sent first, as far as possible.

    Args:
        store: Of the sweep's run.
        parent: That run, still open.
        folder: The sweep's.

    Raises:
        UserError: The store cannot be opened, or does not answer.
    """
    if store.remote:
        _send_left(store, folder)
    client = connect(store)
    with _answering(store, "a question for the runs of a sweep"):
        children = search(client, [parent.experiment], f"tags.`mlflow.parentRunId` = '{parent.id}'")
    return {run.data.tags["run_dir"]: run.info.run_id for run in children if "run_dir" in run.data.tags}


def send_journal(store: Store, journal: Journal, refused: Callable[[Entry, str], None]) -> None:
    """Send what an earlier process left in a journal.

    Args:
        store: Of the journal's run.
        journal: Open; what is sent counts as sent.
        refused: Hears of each entry that will never be taken, and why.

    Raises:
        UserError: The store cannot be opened.
        AwayError: The server has no such run, or does not take what it is sent now.
    """
    client = connect(store)
    deliver = _arrived(lambda: client, store, journal)
    send_all(journal, deliver, refused)
    # A killed process recorded no ending.
    end_dead(client, deliver.experiment)


def _send_left(store: Store, folder: Path) -> None:
    """Send what the jobs of a sweep left, until something is not taken or the time that an end may take is over."""
    over = time.monotonic() + IN_ALL
    for path in find_journals([folder]):
        if time.monotonic() > over:
            return
        with suppress(BlockingIOError):
            journal = Journal(path)
            try:
                send_journal(store, journal, lambda entry, why: None)
                print(f"note: what {path.parent.parent} had kept is sent", file=sys.stderr)
            except (UserError, AwayError):
                return
            finally:
                journal.close()


def _tracked(
    client: MlflowClient,
    store: Store,
    run: Run,
    folder: Path | None,
    *,
    background: bool = True,
    kept: _Kept | None = None,
) -> TrackedRun:
    info = run.info
    outbox = None
    if store.remote and folder is not None:
        header = {"run_id": info.run_id, "store": masked(store.uri)}
        name = kept.name if kept is not None and kept.run_id == info.run_id else info.run_id
        outbox = _outbox(store, folder, lambda: client, name, header, background=background)
    tracked = TrackedRun(client, info.run_id, info.experiment_id, info.artifact_uri, outbox)
    if outbox is None:
        tracked.ask = partial(_answering, store)
    return tracked


def _unborn(store: Store, folder: Path, kept: _Kept) -> TrackedRun:
    """A run that its server is to hear of later."""
    header = {"run_id": kept.run_id, "store": masked(store.uri), "begin": kept.begin}
    # A client of a database opens it, which is the outbox's to wait for.
    outbox = _outbox(store, folder, partial(connect, store), kept.name, header)
    return TrackedRun(None, kept.run_id, "", "", outbox)


def _find_kept(store: Store, folder: Path, origin: Origin) -> _Kept | None:
    """What an earlier process kept in the folder of a run that began without its server, where that is gone on with."""
    if not origin.again and origin.resumed is None:
        return None
    for header in read_headers(folder):
        run_id, begin = header["run_id"], header.get("begin")
        if not isinstance(begin, dict) or not isinstance(begin.get("tags"), dict):
            continue
        mark = begin["tags"].get(MARK)
        # Of the folder of a stranger, it becomes the name of a file.
        if not isinstance(mark, str) or not _MARK.fullmatch(mark) or header.get("store") != masked(store.uri):
            continue
        if origin.resumed in (None, run_id):
            return _Kept(begin, run_id, mark)
    return None


def _of_folder(client: MlflowClient, experiment: str, tags: Mapping[str, str]) -> str | None:
    """The id of the run that has the same parent and folder as these tags say, made last where there are several."""
    parent, folder = tags.get("mlflow.parentRunId"), tags.get("run_dir")
    if not parent or not folder:
        return None
    children = search(client, [experiment], f"tags.`mlflow.parentRunId` = '{parent}'", newest=True)
    return next((run.info.run_id for run in children if run.data.tags.get("run_dir") == folder), None)


def _outbox(
    store: Store,
    folder: Path,
    reach: Callable[[], MlflowClient],
    name: str,
    header: Mapping[str, object],
    *,
    background: bool = True,
) -> Outbox:
    return Outbox(
        lambda: open_journal(folder, name, header),
        partial(_arrived, reach, store),
        f"the tracking server {store.uri}",
        f"deepfake sync {shlex.quote(str(folder))} tracking.uri={shlex.quote(masked(store.uri))}",
        background=background,
    )


def _arrived(reach: Callable[[], MlflowClient], store: Store, journal: Journal) -> Delivery:
    """What sends a journal's entries, its run made first where no server has heard of it.

    Raises:
        AwayError: The server does not say where to.
    """
    try:
        client = reach()
        if not journal.header["run_id"]:
            begin = journal.header["begin"]
            place = experiment_id(client, store, begin["experiment"])
            marked = f"tags.{MARK} = '{begin['tags'][MARK]}'"
            made = search(client, [place], marked)
            if not made and begin.get("again") and (earlier := _of_folder(client, place, begin["tags"])):
                made = [client.get_run(earlier)]
            if not made:
                # A server that was away may answer long after this was given up, when somebody else makes the run.
                _check_wanted(journal)
                made = [client.create_run(place, begin["at"], begin["tags"], begin["name"])]
                if journal.closed and len(search(client, [place], marked)) > 1:
                    client.delete_run(made[0].info.run_id)
                _check_wanted(journal)
            name_best(client, made[0])
            journal.known(made[0].info.run_id)
        run = client.get_run(journal.header["run_id"])
    except Exception as error:
        raise AwayError(reason(error)) from error
    return Delivery(client, run.info.run_id, run.info.experiment_id, run.info.artifact_uri, journal.named)


def _check_wanted(journal: Journal) -> None:
    if journal.closed:
        raise AwayError("it was given up")


def _begin(
    client: MlflowClient, store: Store, experiment: str, name: str, resume_id: str | None, tags: dict[str, str]
) -> Run:
    found = None if resume_id is None else _still_there(client, resume_id)
    if found is None and resume_id is not None:
        print(
            f"warning: {masked(store.uri)} does not know run {resume_id}: it goes on as a new run there",
            file=sys.stderr,
        )
    return found or client.create_run(experiment_id(client, store, experiment), run_name=name, tags=tags)


def _still_there(client: MlflowClient, run_id: str) -> Run | None:
    """A run that can be written to; None where it was deleted, or the store is another one."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


@contextmanager
def _answering(store: Store, what: str) -> Iterator[None]:
    """A server that does not answer to what cannot wait, or a database whose disk is full, as an error in two lines."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError):
            raise
        if (full := without_room(store, error)) is not None:
            raise full from error
        if not store.remote or not comes_again(error):
            raise
        raise UserError(
            f"the tracking server {store.uri} did not answer to {what}: {reason(error)}",
            "see what is wrong with it, or leave tracking.uri and MLFLOW_TRACKING_URI unset to write to "
            "outputs/mlflow.db",
        ) from error


def _tags(parent_run_id: str | None, given: Mapping[str, object]) -> dict[str, str]:
    git = git_state()
    tags: dict[str, object] = {
        "mlflow.user": _user(),
        "mlflow.source.name": Path(sys.argv[0]).name or "python",
        "mlflow.source.type": "LOCAL",
        **process_tags(),
    }
    if git.commit is not None:
        tags |= {"mlflow.source.git.commit": git.commit, "git_commit": git.commit, "git_dirty": git.dirty}
    else:
        tags["version"] = __version__
    if parent_run_id is not None:
        tags["mlflow.parentRunId"] = parent_run_id
    return {clean_name(key): tag_text(value) for key, value in {**tags, **given}.items()}


def _note_ending(
    run: TrackedRun, error: BaseException, endings: Mapping[type[BaseException], Ending | None]
) -> str | None:
    """The status that a run ends with, None where it is to be left alone."""
    known = [ending for kind, ending in endings.items() if isinstance(error, kind)]
    if known == [None]:
        return None
    ending = known[0] if known else None
    # A failure to record the ending must not hide the error that ended the run.
    with suppress(Exception):
        if ending is not None:
            run.tags({ending.tag: ending.value})
            return ending.status
        if isinstance(error, KeyboardInterrupt):
            run.tags({"interrupted": "true"})
            return "KILLED"
        lines = traceback.format_exception_only(error)
        run.tags({"failure": lines[-1].strip()[:500]})
        run.text("".join(traceback.format_exception(error)), "traceback.txt")
    return "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # Containers run as ids that have no name.
        return str(os.getuid())
