"""Takes the modules of deepfake-sweeps along that the reader is made of, as ``deepfake_reader._deepfake``.

They lie in the repository once, beside this folder; which they are, their imports say, beginning with
``deepfake.reading``. A source distribution holds them already rewritten. All else: pyproject.toml."""

import ast
import re
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
#: The repository's package; a source distribution has none beside it.
SOURCE = HERE.parent / "deepfake"
PACKAGE, INSIDE = "deepfake_reader", "_deepfake"
_IMPORT = re.compile(r"^(\s*)(from|import) deepfake(?=[.\s])", re.MULTILINE)


def modules() -> dict[str, Path]:
    """Every module that the reader is made of, by its name in the repository."""
    found: dict[str, Path] = {}
    wanted = [f"deepfake.reading.{file.stem}" for file in (SOURCE / "reading").glob("*.py")]
    while wanted:
        name = wanted.pop()
        file = _file(name)
        if name in found or file is None:
            continue
        found[name] = file
        wanted += [name.rpartition(".")[0], *_imports(ast.parse(file.read_text(encoding="utf-8")))]
    return found


def _file(name: str) -> Path | None:
    place = SOURCE.parent.joinpath(*name.split("."))
    if name == "deepfake":
        return None  # its __init__ is the door to all that the reader does not need
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def _imports(tree: ast.AST) -> list[str]:
    """What is imported of the package, anywhere but for types alone."""
    names: list[str] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "deepfake":
            names += [str(node.module), *(f"{node.module}.{one.name}" for one in node.names)]
        elif isinstance(node, ast.Import):
            names += [one.name for one in node.names if one.name.split(".")[0] == "deepfake"]
        names += _imports(node)
    return names


def rewritten(text: str) -> str:
    """A module's text with the package's name in its imports made that of the copy."""
    return _IMPORT.sub(rf"\1\2 {PACKAGE}.{INSIDE}", text)


def version() -> str:
    """The repository's, which a source distribution keeps in the copy."""
    file = SOURCE / "__init__.py" if SOURCE.is_dir() else HERE / PACKAGE / INSIDE / "__init__.py"
    found = re.search(r'^__version__ = "(.+)"$', file.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{file} tells no version")
    return found[1]


def take_along(package: Path) -> list[Path]:
    """Write the copy into a package's folder, and make its own modules import it; returns what was written."""
    texts = {file: file.read_text(encoding="utf-8") for file in package.glob("*.py")}
    texts[package / INSIDE / "__init__.py"] = f'"""Modules of deepfake-sweeps."""\n\n__version__ = "{version()}"\n'
    for file in modules().values():
        texts[package / INSIDE / file.relative_to(SOURCE)] = file.read_text(encoding="utf-8")
    for file, text in texts.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        # A copy may be a second name of what lies in the repository.
        file.unlink(missing_ok=True)
        file.write_text(rewritten(text), encoding="utf-8")
    return list(texts)


class BuildWithModules(build_py):
    """Takes them along from the repository."""

    def run(self) -> None:
        super().run()
        if SOURCE.is_dir() and not self.editable_mode:
            self._taken = [str(file) for file in take_along(Path(self.build_lib, PACKAGE))]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return sorted({*super().get_outputs(include_bytecode), *getattr(self, "_taken", [])})


class SdistWithModules(sdist):
    """The same for a source distribution, which is built without the repository."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        if SOURCE.is_dir():
            take_along(Path(base_dir, PACKAGE))


def packages() -> list[str]:
    """The package, and in a source distribution the copies in it."""
    inits = sorted((HERE / PACKAGE).rglob("__init__.py"))
    return [".".join(file.parent.relative_to(HERE).parts) for file in inits]


setup(version=version(), packages=packages(), cmdclass={"build_py": BuildWithModules, "sdist": SdistWithModules})
