"""Hostile configs and run folders: nothing of them is run, nothing is fetched, nothing is written outside."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.faults.runs import Told, make_run, run, snapshot

SECRET = "hunter2-4711"  # noqa: S105 - it protects nothing
#: Stand for what is known only once a test has its folder: where to leave a trace, where to ask.
MARK, OUTSIDE, SERVER, OURS = "@MARK@", "@OUTSIDE@", "@SERVER@", "@RUN@"


class Listener:
    """Counts connections to a port of this machine."""

    def __init__(self) -> None:
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


class Touch:
    """Unpickled, it leaves a trace."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.file}",)


#: Ten of ten of ten … of x.
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)
ALL = ("predict", "evaluate", "check", "compare", "resume")

#: A key of the saved config and the value it is given there.
VALUES: dict[str, tuple[str, object]] = {
    "a secret in the tracking store": ("tracking.uri", f"{SERVER}/${{oc.env:MY_SECRET}}"),
    "another tracking store": ("tracking.uri", SERVER),
    "a tracking store with a password": ("tracking.uri", "postgresql://a:b@127.0.0.1:@PORT@/x"),
    "a tracking store of files": ("tracking.uri", f"file://{OUTSIDE}/mlruns"),
    "a database outside": ("tracking.uri", f"sqlite:///{OUTSIDE}/x.db"),
    "a secret in an experiment's name": ("tracking.experiment", "${oc.env:MY_SECRET}"),
    "a secret in a tag": ("tracking.tags", {"x": "${oc.env:MY_SECRET}"}),
    "a secret in the name": ("name", "${oc.env:MY_SECRET}"),
    "decoded": ("name", "${oc.decode:'${oc.env:MY_SECRET}'}"),
    "created": ("tracking.tags", {"x": "${oc.dict.values:.}"}),
    "a resolver of ours": ("name", "${project:}${unique:}"),
    "a resolver of Hydra's": ("name", "${hydra:runtime.cwd}"),
    "a reference to itself": ("name", "${name}"),
    "an interpolation without an end": ("name", "${" * 200),
    "outputs outside": ("paths.outputs", OUTSIDE),
    "outputs of a secret": ("paths.outputs", f"{OUTSIDE}/${{oc.env:MY_SECRET}}"),
    "a name that leads out": ("name", "../../../outside/x"),
    "a name that is absolute": ("name", f"{OUTSIDE}/x"),
    "a data set's name that leads out": ("dataset.name", "../../../outside/x"),
    "a data set's name that is the folder above": ("dataset.name", ".."),
    "a data set's name that is nothing": ("dataset.name", ""),
    "a data set's name that is absolute": ("dataset.name", f"{OUTSIDE}/x"),
    "an experiment's name that leads out": ("tracking.experiment", "../../outside/x"),
    "a root at a server": ("dataset.root", f"{SERVER}/data"),
    "a table at a server": ("dataset.table", f"{SERVER}/t.csv"),
    "a split file at a server": ("dataset.split_files", SERVER),
    "a layout that is a module": ("dataset.layout", "os.system"),
    "faces by a network of theirs": ("dataset.face_model", f"{OURS}/evil.pth"),
    "a backbone of a hub": ("backbone.name", "hf-hub:stranger/model"),
    "a backbone of a hub, pretrained": ("backbone", {"name": "hf_hub:stranger/model", "pretrained": True}),
    "weights of a hub": ("backbone", {"name": "resnet18.hf-hub:stranger/model", "pretrained": True}),
    "a backbone of a folder": ("backbone.name", f"local-dir:{OURS}"),
    "weights at a server": ("backbone.weights", f"{SERVER}/w.pth"),
    "weights that are a pickle": ("backbone.weights", f"{OURS}/evil.pth"),
    "begun from a server's run": ("trainer.init_from", f"{SERVER}/x"),
    "begun from a folder of theirs": ("trainer.init_from", OUTSIDE),
    "a head that is a command": ("head", {"_target_": "os.system", "command": f"touch {MARK}"}),
    "a head called with arguments": ("head", {"_target_": "subprocess.run", "_args_": [["touch", MARK]]}),
    "a head found by import": ("head", {"_target_": "evil.Head"}),
    "an optimizer that is a command": ("optimizer", {"_target_": "os.system", "command": f"touch {MARK}"}),
    "a schedule that is a command": ("scheduler", {"_target_": "builtins.exec", "_args_": [f"open('{MARK}','w')"]}),
    "a target below a head": ("head.dropout", {"_target_": "os.system", "command": f"touch {MARK}"}),
    "a target in the data": ("dataset.columns", {"_target_": "os.system", "command": f"touch {MARK}"}),
    "a part that is a command": ("dataset.parts", [{"_target_": "os.system", "command": f"touch {MARK}"}]),
    "Hydra's folder": ("hydra", {"run": {"dir": OUTSIDE}}),
    "Hydra's environment": ("hydra", {"job": {"env_set": {"PATH": OUTSIDE}}}),
    "Hydra's callbacks": ("hydra", {"callbacks": {"x": {"_target_": "os.system", "command": f"touch {MARK}"}}}),
    "Hydra's search path": ("hydra", {"searchpath": [f"file://{OUTSIDE}"]}),
    "Hydra's launcher": ("hydra", {"launcher": {"_target_": "os.system", "command": f"touch {MARK}"}}),
    "Hydra's defaults": ("defaults", [{"dataset": f"{OUTSIDE}/x"}]),
    "a sweep's storage": ("sweep", {"storage": f"{SERVER}/x"}),
    "an observer": ("sweep", {"observer": "os.system"}),
}
#: What a file of the folder is replaced by, or, after a plus sign, what is put behind what it holds.
TEXTS: dict[str, tuple[str, str]] = {
    "a bomb of aliases": ("resolved.yaml", "+\n" + BOMB),
    "a bomb in the composed config": ("config.yaml", "+\n" + BOMB),
    "a bomb in the overrides": ("overrides.yaml", BOMB),
    "Python called by a tag": ("resolved.yaml", f"+\nresume: !!python/object/apply:os.system ['touch {MARK}']"),
    "Python made by a tag": ("config.yaml", f"+\nx: !!python/object/new:os.system ['touch {MARK}']"),
    "a module by a tag": ("resolved.yaml", "+\nresume: !!python/module:os"),
    "Python in the overrides": ("overrides.yaml", f"- !!python/object/apply:os.system ['touch {MARK}']"),
    "a secret in the composed config": ("config.yaml", "name: ${oc.env:MY_SECRET}\ntracking: {uri: x}"),
    "a server in the composed config": ("config.yaml", f"tracking: {{uri: '{SERVER}/${{oc.env:MY_SECRET}}'}}"),
    "typed: Hydra's callbacks": (
        "overrides.yaml",
        f"- '+hydra.callbacks.x={{_target_: os.system, command: touch {MARK}}}'",
    ),
    "typed: another folder": ("overrides.yaml", f"- hydra.run.dir={OUTSIDE}\n- paths.outputs={OUTSIDE}"),
    "typed: a search path": ("overrides.yaml", f"- hydra.searchpath=[file://{OUTSIDE}]\n- experiment={OUTSIDE}/x"),
    "typed: flags": ("overrides.yaml", f"- --config-dir={OUTSIDE}\n- --multirun"),
    "typed: a secret": ("overrides.yaml", "- tracking.experiment=${oc.env:MY_SECRET}"),
    "a root of a secret": ("provenance.json", '{"data": {"roots": {"demo": "${oc.env:MY_SECRET}"}, "choices": {}}}'),
    "choices that lead out": (
        "provenance.json",
        f'{{"data": {{"roots": {{}}, "choices": {{"model": "{OUTSIDE}/x"}}}}}}',
    ),
    "commits that are commands": ("provenance.json", f'{{"git": {{"commit": "$(touch {MARK})", "diff": "x"}}}}'),
    "a calibrator that is a command": (
        "calibration.json",
        f'{{"format": 2, "calibrator": {{"method": "os.system", "command": "touch {MARK}"}}}}',
    ),
    "an MLflow model of theirs": (
        "MLmodel",
        "flavors: {python_function: {loader_module: evil, data: .}}\nartifact_path: model",
    ),
    "a module beside the config": ("evil.py", f"open('{MARK}', 'w')"),
    "a start-up file": ("sitecustomize.py", f"open('{MARK}', 'w')"),
    "an outbox to elsewhere": ("tracking.journal", f'{{"uri": "{SERVER}"}}\n'),
}


def _pickled(path: Path, mark: str) -> None:
    path.write_bytes(pickle.dumps(Touch(mark)))


def _torched(path: Path, mark: str) -> None:
    torch.save({"version": 1, "x": Touch(mark)}, path)


def _elsewhere(path: Path, outside: str) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(outside)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _journal(run: Path, link: tuple[str, str]) -> None:
    unsent = _made(run / "unsent")
    lines = ({"format": 1, "run_id": "", "begin": {}}, {"kind": "metrics", "values": {}})
    (unsent / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (unsent / link[0]).symlink_to(link[1])


#: What is done to the folder; given it, the trace's file and the folder outside.
DEEDS: dict[str, Callable[[Path, str, str], object]] = {
    "best weights that are a pickle": lambda run, mark, out: _pickled(run / "checkpoints/best.safetensors", mark),
    "weights that are torch's": lambda run, mark, out: _torched(run / "checkpoints/best.safetensors", mark),
    "a state that is a pickle": lambda run, mark, out: _pickled(run / "checkpoints/last.pt", mark),
    "a state that is torch's": lambda run, mark, out: _torched(run / "checkpoints/last.pt", mark),
    "a manifest that is a pickle": lambda run, mark, out: _pickled(run / "manifest.parquet", mark),
    "predictions that are a pickle": lambda run, mark, out: _pickled(run / "predictions.parquet", mark),
    "evaluations kept outside": lambda run, mark, out: _elsewhere(run / "eval", out),
    "figures kept outside": lambda run, mark, out: _elsewhere(run / "figures", out),
    "checkpoints kept outside": lambda run, mark, out: _elsewhere(run / "checkpoints", out),
    "a config outside": lambda run, mark, out: _elsewhere(run / "resolved.yaml", "/etc/passwd"),
    "weights outside": lambda run, mark, out: _elsewhere(run / "checkpoints/best.safetensors", "/etc/passwd"),
    "metrics outside": lambda run, mark, out: _elsewhere(run / "metrics.json", f"{out}/kept"),
    "unsent entries outside": lambda run, mark, out: _elsewhere(run / "unsent", out),
    "a journal outside": lambda run, mark, out: _elsewhere(_made(run / "unsent") / "x.jsonl", f"{out}/kept"),
    "a journal's lock outside": lambda run, mark, out: _journal(run, ("x.lock", f"{out}/kept")),
    "a journal's half outside": lambda run, mark, out: _journal(run, ("x.tmp", f"{out}/kept")),
    "refused entries outside": lambda run, mark, out: _journal(run, ("x.refused.jsonl", f"{out}/kept")),
    "a table of an evaluation outside": lambda run, mark, out: _elsewhere(
        _made(run / "eval" / "demo") / "predictions.parquet", f"{out}/kept"
    ),
    "figures of an evaluation outside": lambda run, mark, out: _elsewhere(
        _made(run / "eval" / "demo") / "figures", out
    ),
    "an evaluation that is none": lambda run, mark, out: (_made(run / "eval" / "demo") / "metrics.json").write_text(
        "[1]"
    ),
    "a new file outside": lambda run, mark, out: _elsewhere(
        _made(run / "eval" / "demo") / "clips.parquet", f"{out}/new"
    ),
    "a training state outside": lambda run, mark, out: _elsewhere(run / "checkpoints/last.pt", f"{out}/kept"),
    "a figure outside": lambda run, mark, out: _elsewhere(run / "figures/roc_curve.png", f"{out}/kept"),
    "an endless file": lambda run, mark, out: _elsewhere(run / "calibration.json", "/dev/zero"),
}


class Scene:
    """A stranger's run in a folder of its own, with what must stay as it is around it."""

    def __init__(self, root: Path, listener: Listener) -> None:
        self.root, self.listener = root, listener
        self.outside, self.run, self.mark = root / "outside", root / "run", str(root / "outside" / "MARK")
        # As a stranger's: no store of ours knows it.
        self.count = 0
        make_run(root / "made").rename(root / "kept")
        (root / "out").mkdir()
        (root / "made" / "cache").rename(root / "out" / "cache")
        shutil.copytree(root / "kept", root / "other")
        self.outside.mkdir()
        (self.outside / "kept").write_text("as it was")
        self.before = snapshot(self.outside)

    def filled(self, text: str) -> str:
        """With what the words stand for."""
        server = f"http://127.0.0.1:{self.listener.port}"
        for word, meant in ((MARK, self.mark), (OUTSIDE, self.outside), (SERVER, server), (OURS, self.run)):
            text = text.replace(word, str(meant))
        return text.replace("@PORT@", str(self.listener.port))

    def lay_out(self, what: str, stopped: bool) -> None:
        """The stranger's folder, with one hostile thing in it."""
        shutil.rmtree(self.run, ignore_errors=True)
        # Each in a place of its own: a run that went on is known to the store by its folder from then on.
        self.count += 1
        self.run = self.root / f"run{self.count}"
        shutil.copytree(self.root / "kept", self.run)
        _pickled(self.run / "evil.pth", self.mark)
        if stopped:
            (self.run / "metrics.json").unlink()
        if what in VALUES:
            key, value = VALUES[what]
            for name in ("resolved.yaml", "config.yaml"):
                values = yaml.safe_load((self.run / name).read_text())
                above: Any = values
                *groups, last = key.split(".")
                for group in groups:
                    above = above[group]
                above[last] = json.loads(self.filled(json.dumps(value)))
                (self.run / name).write_text(yaml.safe_dump(values))
        elif what in TEXTS:
            name, text = TEXTS[what]
            kept = (self.run / name).read_text() if text.startswith("+") else ""
            (self.run / name).write_text(kept + self.filled(text.removeprefix("+")))
        else:
            DEEDS[what](self.run, self.mark, str(self.outside))

    def go(self, command: str) -> Told:
        """One command on the stranger's folder."""
        outputs = f"paths.outputs={self.root / 'out'}"
        clip = next((self.root / "out" / "cache" / "demo").rglob("*.mp4"))
        words = {
            "predict": ["predict", str(self.run), str(clip), outputs, "dataset.workers=0"],
            "evaluate": ["evaluate", str(self.run), outputs, "dataset.workers=0", "evaluation.resamples=100"],
            "check": ["reproduce", str(self.run), "--check", outputs],
            "again": ["reproduce", str(self.run), outputs, "tracking.system_metrics=false"],
            "compare": ["compare", str(self.run), f"{self.root}/other", outputs, "--out", f"{self.root}/out/page"],
            "sync": ["sync", str(self.run), outputs],
            "resume": ["train", f"resume={self.run}", outputs, "tracking.system_metrics=false"],
        }  # fmt: skip
        return run(words[command])

    def faults(self, told: Told) -> list[str]:
        """What happened that must not."""
        found = [] if not told.crashed else [told.text[-900:]]
        if told.status not in (0, 1, 3) and not told.refused:
            found.append(f"status {told.status}: {told.text[-300:]}")
        if self.listener.connections:
            found.append(f"{self.listener.connections} connections")
            self.listener.connections = 0
        if (after := snapshot(self.outside)) != self.before:
            found.append(f"outside: {set(after) ^ set(self.before) or 'changed'}")
            shutil.rmtree(self.outside)
            self.outside.mkdir()
            (self.outside / "kept").write_text("as it was")
        if SECRET in told.text:
            found.append("the secret was told")
        for path in (self.root / "out").rglob("*"):
            if path.is_file() and "cache" not in path.parts and SECRET.encode() in path.read_bytes():
                found.append(f"the secret is in {path.relative_to(self.root)}")
                path.unlink()
        return found


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    listener = Listener()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MY_SECRET", SECRET)
        patch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{listener.port}")
        # Read once, when its library is imported.
        patch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{listener.port}")
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield Scene(tmp_path_factory.mktemp("hostile"), listener)
    listener.close()


def pairs() -> list[tuple[str, str]]:
    """What is hostile, and the commands that read it."""
    return [
        *((what, command) for what in (*VALUES, *TEXTS) for command in ALL),
        *((what, command) for what in DEEDS for command in (*ALL, "sync")),
        *((what, "again") for what in VALUES),
    ]


@pytest.mark.slow
def test_hostile_run_folders(scene: Scene, full: bool, capsys: pytest.CaptureFixture[str]) -> None:
    # In CI a few of those in which links lead out; each takes a second or two.
    written = [pair for pair in pairs() if pair[0] in DEEDS and pair[1] in ("evaluate", "resume", "sync")]
    chosen = pairs() if full else random.Random(0).sample(written, 12)
    counts: Counter[str] = Counter()
    faults = []
    for what, command in chosen:
        scene.lay_out(what, stopped=command == "resume")
        told = scene.go(command)
        counts["refused" if told.refused else "answered"] += 1
        faults += [f"{what}: {command}: {fault}" for fault in scene.faults(told)]
    with capsys.disabled():
        things = len({what for what, _ in chosen})
        print(f"hostile run folders: {things} in {len(chosen)} commands, faults {len(faults)}, {dict(counts)}")
    assert not faults, "\n".join(faults[:10])
