"""The documentation site: every page is in its navigation, every link leads somewhere, and nothing is fetched to read it."""

from __future__ import annotations

import importlib.util
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))
STAGE = runpy.run_path(str(ROOT / "docs" / "stage_site.py"))


def leaves(entries):
    for entry in entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        if isinstance(value, list):
            yield from leaves(value)
        else:
            yield value


def test_every_page_has_one_place_in_the_navigation():
    configuration = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(leaves(configuration["nav"])) == PAGES
    assert configuration["strict"] is True


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    """The pages as the site has them, made beside a copy of the repository's tree that is a link to it."""
    target = tmp_path_factory.mktemp("site")
    STAGE["stage"](ROOT, target)
    return target


def test_every_link_of_the_site_leads_to_a_file_of_it(staged):
    broken = []
    for page in staged.rglob("*.md"):
        text = STAGE["_CODE"].sub("", page.read_text(encoding="utf-8"))
        for link in re.findall(r"\]\(([^)\s#]+)", text):
            if not re.match(r"[a-z]+:", link) and not (page.parent / link).exists():
                broken.append(f"{page.relative_to(staged)}: {link}")
    assert broken == []


def test_a_link_to_nothing_ends_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("[there](gone.md) and `[code](never.md)`", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"docs/page.md links to gone.md"):
        STAGE["stage"](tmp_path, Path("pages"))


def test_figures_of_the_gallery_are_small(staged):
    sizes = {path.name: path.stat().st_size for path in (staged / "gallery").iterdir()}
    assert len(sizes) > 15
    assert [name for name, size in sizes.items() if size > 60_000] == []


@pytest.mark.skipif(importlib.util.find_spec("zensical") is None, reason="the site's builder is not installed")
def test_the_site_builds_strictly_and_fetches_nothing(staged, tmp_path):
    configuration = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    configuration = re.sub(r"^docs_dir: .*", f"docs_dir: {staged}", configuration, flags=re.MULTILINE)
    configuration = re.sub(r"^site_dir: .*$", "site_dir: site", configuration, flags=re.MULTILINE)
    (tmp_path / "mkdocs.yml").write_text(configuration, encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    built = tmp_path / "site"
    assert all((built / page).with_suffix(".html").is_file() for page in PAGES)
    for page in built.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|link|iframe)[^>]*?(?:src|href)=\"?(https?:[^\"\s>]+)", page.read_text())
        assert [url for url in loaded if "canonical" not in url] == [], page
