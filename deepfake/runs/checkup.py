"""What a run needs of this machine, tried piece by piece. Each check ends in one line, and in what to do about it.

Whatever a check needs is imported within it: one broken package must not hide what the others say.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from deepfake.errors import UserError, first_line
from deepfake.installation import CHECKOUT, available_cores

if TYPE_CHECKING:
    from deepfake.config import RunConfig

OK, WARNING, FAILURE = "ok", "warning", "failure"

#: Free space below which a warning is due; crops of a large set and a sweep's weights take gigabytes.
_LEAST_DISK_GB = 5.0
#: Shared memory that loader processes pass batches in: containers have 0.06 GB of it unless told otherwise.
_LEAST_SHARED_GB = 1.0
_LEAST_MEMORY_GB = 4.0
#: Distributions that install the same module and overwrite one another's files.
_ONE_OF = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")


@dataclass(frozen=True)
class Check:
    """One line of the answer.

    Attributes:
        name: What was looked at.
        state: :data:`OK`, :data:`WARNING` (a run works, but) or :data:`FAILURE`.
        said: What was found.
        todo: What to do about it; empty where all is well.
    """

    name: str
    state: str
    said: str
    todo: str = ""


class _Found(Exception):  # noqa: N818 - how a check ends early
    """Something is not as it should be."""

    def __init__(self, state: str, said: str, todo: str) -> None:
        super().__init__(said)
        self.state, self.said, self.todo = state, said, todo


def check_all(config: RunConfig) -> Iterator[Check]:
    """Try all that a run of this config would need, one after another; nothing is downloaded, and nothing is kept."""
    checks: dict[str, Callable[[], str]] = {
        "Python": _python,
        "packages": _packages,
        "device": lambda: _device(config),
        "processor and memory": _processor,
        "shared memory": lambda: _shared_memory(config),
        "video decoder": _decoder,
        "image decoder": _images,
        "outputs": lambda: _outputs(config.outputs),
        "tracking store": lambda: _tracking(config),
        "data": lambda: _data(config),
        "faces": lambda: _faces(config),
        "pretrained weights": lambda: _weights(config),
        "code": _code,
    }
    for name, check in checks.items():
        yield _checked(name, check)


def _checked(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, OK, check())
    except _Found as found:
        return Check(name, found.state, found.said, found.todo)
    except UserError as error:
        return Check(name, FAILURE, error.message, error.hint)
    except Exception as error:
        # What is broken here is what somebody came to find out; a package that fails to load may raise anything.
        return Check(name, FAILURE, f"{type(error).__name__}: {first_line(error)}", _reinstall())


def _reinstall() -> str:
    return f"in a fresh virtual environment: pip install {'-e .' if CHECKOUT else 'deepfake-sweeps'}"


def _python() -> str:
    said = f"{sys.version.split()[0]}, {sys.executable}"
    if sys.prefix == sys.base_prefix and "CONDA_PREFIX" not in os.environ:
        raise _Found(WARNING, f"{said}: no virtual environment", "python3 -m venv .venv, so that packages stay apart")
    return said


def _packages() -> str:
    from packaging.requirements import Requirement

    wrong, count = [], 0
    for text in metadata.requires("deepfake-sweeps") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, not {requirement.specifier}")
    if wrong:
        raise _Found(FAILURE, "; ".join(wrong), _reinstall())
    twice = [name for name in _ONE_OF if _installed(name)]
    if len(twice) > 1:
        raise _Found(
            WARNING,
            f"{' and '.join(twice)} overwrite one another's files",
            f"pip uninstall {' '.join(twice)}, then pip install opencv-python-headless",
        )
    return f"{count} required, all there and of a version that works"


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _device(config: RunConfig) -> str:
    import torch

    from deepfake.tracking.provenance import hardware
    from deepfake.training.runtime import create_fabric

    device = create_fabric(config.trainer).device
    image = torch.rand(1, 3, 64, 64, device=device)
    torch.nn.Conv2d(3, 8, 3).to(device)(image).sum().backward()
    gpus = hardware()["gpus"]
    assert isinstance(gpus, list)
    if device.type != "cpu":
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["Apple's"]
        return f"{device} of {', '.join(names)}; torch {torch.__version__}"
    if gpus and config.trainer.accelerator == "auto":
        build = "for CPUs only" if torch.version.cuda is None else f"for CUDA {torch.version.cuda}"
        raise _Found(
            WARNING,
            f"{', '.join(gpus)} is there, but torch {torch.__version__}, built {build}, cannot use it",
            "install the build of torch for its driver: https://pytorch.org/get-started/locally",
        )
    return f"cpu, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _processor() -> str:
    import psutil

    memory = psutil.virtual_memory()
    said = f"{available_cores()} cores, {memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"
    if memory.available / 1e9 < _LEAST_MEMORY_GB:
        raise _Found(WARNING, said, "close other programs, or set a smaller trainer.batch_size or dataset.frames")
    return said


def _shared_memory(config: RunConfig) -> str:
    place = Path("/dev/shm")  # noqa: S108 - it is looked at, not written to
    if not place.is_dir():
        return "none needed on this system"
    size = shutil.disk_usage(place).total / 1e9
    if size < _LEAST_SHARED_GB and config.trainer.num_workers != 0:
        raise _Found(
            WARNING,
            f"{size:.2f} GB: loader processes may end with a bus error",
            "start the container with --shm-size=8g, or set trainer.num_workers=0",
        )
    return f"{size:.1f} GB"


def _decoder() -> str:
    import av
    import numpy as np

    from deepfake.data.encoding import write_video
    from deepfake.data.video import read_video

    frames = [np.full((32, 32, 3), shade, np.uint8) for shade in (60, 120, 180)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "three.mp4"
        write_video(file, frames, fps=25)
        seen = read_video(file, lambda count: list(range(count))).images
    if len(seen) != len(frames) or abs(float(seen[1].mean()) - 120) > 5:
        raise _Found(FAILURE, "a video that was just written comes back as another", _reinstall())
    formats = [name for name in ("h264", "hevc", "vp9", "av1", "mjpeg") if name in av.codecs_available]
    return f"PyAV {av.__version__}: {', '.join(formats)}"


def _images() -> str:
    import cv2
    import numpy as np
    import simplejpeg

    from deepfake.data.media import decode_image

    image = np.full((32, 32, 3), 120, np.uint8)
    for data in (simplejpeg.encode_jpeg(image), cv2.imencode(".png", image)[1].tobytes()):
        if abs(float(decode_image(data).images.mean()) - 120) > 2:
            raise _Found(FAILURE, "a picture that was just written comes back as another", _reinstall())
    return f"OpenCV {cv2.__version__}"


def _outputs(outputs: Path) -> str:
    there = next(folder for folder in (outputs, *outputs.parents) if folder.is_dir())
    with tempfile.NamedTemporaryFile(dir=there, prefix=".doctor-") as file:
        file.write(bytes(1 << 20))
        file.flush()
        os.fsync(file.fileno())
    free = shutil.disk_usage(there).free / 1e9
    said = f"{outputs}, {free:.1f} GB free"
    if free < _LEAST_DISK_GB:
        raise _Found(
            WARNING,
            said,
            "deepfake prepare --prune removes crops; paths.outputs= or DEEPFAKE_OUTPUTS moves all to another disk",
        )
    return said


def _tracking(config: RunConfig) -> str:
    from deepfake.tracking.search import open_existing
    from deepfake.tracking.store import locate

    store = locate(config.tracking, config.outputs)
    client = open_existing(store)
    if client is None:
        return f"{store.uri}, made by the first run"
    count = len(client.search_experiments())
    return f"{store.uri}, {count} experiment{'' if count == 1 else 's'}"


def _data(config: RunConfig) -> str:
    from deepfake.data.dataset import read_dataset
    from deepfake.runs.build import describe_splits

    options = config.dataset
    if options.name == "demo" and options.root is None:
        return "the demo, made by the first run; dataset=… dataset.root=… checks yours"
    makes_fakes = config.augment.self_blend > 0
    manifest = read_dataset(options, config.cache, config.demo, makes_fakes=makes_fakes)
    roots = ", ".join(str(root) for root in manifest.roots.values())
    return f"{options.name} in {roots}: {describe_splits(manifest)}"


def _faces(config: RunConfig) -> str:
    from deepfake.data.dataset import settle_faces
    from deepfake.data.faces import create_detector, find_face_model

    options = settle_faces(config.dataset)
    model = find_face_model(options, config.cache) if options.faces != "yunet" or options.face_model else None
    if options.faces == "yunet" and model is None:
        return "yunet, whose model is fetched by the first run"
    create_detector(options.faces, None if model is None else str(model))
    return f"dataset.faces={options.faces}"


def _weights(config: RunConfig) -> str:
    from deepfake.models.backbone import cached_weights, create_backbone

    options = config.backbone
    if options.weights is not None:
        create_backbone(options, options.size or int(config.dataset.size))
        return str(options.weights)
    if not options.pretrained:
        return f"none needed: {options.name} begins with random ones"
    file = cached_weights(options.name)
    if file is None:
        raise _Found(
            WARNING,
            f"those of {options.name} are not on this machine",
            "the first run downloads them; without a network set HF_HOME to a cache that holds them, or "
            "backbone.weights=FILE",
        )
    return f"{options.name}: {file}"


def _code() -> str:
    from deepfake import __version__
    from deepfake.tracking.provenance import git_state

    state = git_state()
    if state.commit is not None:
        return f"{__version__}, commit {state.commit[:10]}{', changed since' if state.dirty else ''}"
    if CHECKOUT is None:
        return f"{__version__}, installed"
    raise _Found(
        WARNING, f"{__version__}, without git", "clone it by git, so that runs record which code they were made by"
    )
