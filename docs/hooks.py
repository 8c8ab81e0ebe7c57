"""What the site needs beside the pages of this folder: those that lie elsewhere in the repository, and their links.

Pages link to one another as they lie in the repository, where they are read too. A link to a file that is no page
becomes the file's name; one to nothing is a warning, which ends a strict build.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PROJECT = Path(__file__).resolve().parents[1]
#: Pages that lie elsewhere: where, and the name of each in the site.
ELSEWHERE = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "ARCHITECTURE.md",
    "SECURITY.md": "SECURITY.md",
    "benchmarks/SCALING.md": "SCALING.md",
    "benchmarks/RESULTS.md": "RESULTS.md",
}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
log = logging.getLogger("mkdocs.hooks")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie elsewhere."""
    for source, name in ELSEWHERE.items():
        files.append(File.generated(config, name, abs_src_path=str(PROJECT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between files of the repository as links between pages of the site."""
    source = next((path for path, name in ELSEWHERE.items() if name == page.file.src_uri), f"docs/{page.file.src_uri}")
    parts = _CODE.split(markdown)
    parts[::2] = [_LINK.sub(lambda found: _link(found, source), part) for part in parts[::2]]
    return "".join(parts)


def _link(found: re.Match[str], source: str) -> str:
    image, text, target = found.groups()
    path, _, anchor = target.partition("#")
    if not path or re.match(r"\w+:", path):
        return found[0]
    place = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if not (PROJECT / place).exists():
        log.warning("%s links to %s, which does not exist", source, target)
        return text
    name = ELSEWHERE.get(place, place.removeprefix("docs/") if place.startswith("docs/") else "")
    if not name:
        return text if text == place else f"{text} (`{place}`)"
    return f"{image}[{text}]({name}{'#' if anchor else ''}{anchor})"
