"""Put the pages of the site together for Zensical: ``make site``.

Pages lie in docs/ and link to files beside it, such as examples, which a site does not have. They are copied into build/pages with
what they link to, and their links are changed accordingly; a link to nothing ends the build.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections import deque
from os.path import relpath
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = Path("build/pages")
BESIDE = Path("repository")  # where files from outside docs/ go
_LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
_CODE = re.compile(r"(^```.*?^```|`[^`\n]*`)", re.MULTILINE | re.DOTALL)


def place_of(path: Path) -> Path:
    """Return where a file of the repository, by its path below the root, lies in the site."""
    return path.relative_to("docs") if path.is_relative_to("docs") else BESIDE / path


def stage(root: Path = ROOT, target: Path = PAGES) -> list[Path]:
    """Copy all pages, and what they link to, into a folder.

    Args:
        root: The repository.
        target: The folder to fill, below the root; it is emptied first.

    Returns:
        The files of the repository that were copied, below the root.

    Raises:
        FileNotFoundError: If a page links to a file that is not there.
    """
    shutil.rmtree(root / target, ignore_errors=True)
    waiting = deque(sorted(path.relative_to(root) for path in (root / "docs").rglob("*.md")))
    seen = set(waiting)
    while waiting:
        path = waiting.popleft()
        copy = root / target / place_of(path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".md":
            shutil.copyfile(root / path, copy)
            continue
        text, linked = moved(root, path)
        copy.write_text(text, encoding="utf-8")
        waiting.extend(sorted(linked - seen))
        seen |= linked
    return sorted(seen)


def moved(root: Path, path: Path) -> tuple[str, set[Path]]:
    """Return a page with its links as they are in the site, and the files that it links to."""
    linked: set[Path] = set()

    def change(match: re.Match[str]) -> str:
        link, mark, anchor = match[1].partition("#")
        if not link or re.match(r"[a-z]+:", link):
            return match[1]
        target = (root / path.parent / link).resolve()
        target = target / "README.md" if target.is_dir() else target
        if not target.exists():
            raise FileNotFoundError(f"{path} links to {link}, which is no file and no folder with a README.md")
        below = target.relative_to(root)
        linked.add(below)
        return Path(relpath(place_of(below), place_of(path).parent)).as_posix() + mark + anchor

    parts = _CODE.split((root / path).read_text(encoding="utf-8"))
    return "".join(part if number % 2 else _LINK.sub(change, part) for number, part in enumerate(parts)), linked


if __name__ == "__main__":
    print(f"{len(stage())} files in {PAGES}", file=sys.stderr)  # noqa: T201 (a script)
