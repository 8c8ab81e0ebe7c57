"""Ships the config folders conf/ and sweeps/, which lie beside the package, inside it. All else: pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies them to deepfake/conf and deepfake/sweeps; an editable install reads them where they lie."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, target in self._configs().items():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target, preserve_mode=False)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *self._configs().values()]

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *self._configs()]

    def _configs(self) -> dict[str, str]:
        files = [path for folder in ("conf", "sweeps") for path in Path(folder).rglob("*.yaml")]
        return {str(path): str(Path(self.build_lib, "deepfake", path)) for path in sorted(files)}


setup(cmdclass={"build_py": BuildWithConfigs})
