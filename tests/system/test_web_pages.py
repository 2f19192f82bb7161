"""A hundred pages of five generators of documentation, from Debian's packages."""

import subprocess
from collections import Counter

import pytest

from tests.support.programs import program
from tests.support.web_pages import measured_pages

PAGES = 20
PACKAGES = {
    "asciidoc (git)": "git-doc",
    "DocBook (PostgreSQL)": "postgresql-doc-*",
    "Sphinx (Python)": "python3.*-doc",
    "MediaWiki (cppreference)": "cppreference-doc-en-html",
    "Javadoc (commons-lang)": "libcommons-lang3-java-doc",
}


def newest(pattern: str) -> str:
    """Return the newest package of a name: releases have different versions."""
    listed = subprocess.run(
        [program("apt-cache"), "pkgnames", pattern.partition("*")[0]],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    start, _, end = pattern.partition("*")
    middles = {name: name[len(start) : len(name) - len(end)] for name in listed}
    versions = {
        name: int(middle or 0)
        for name, middle in middles.items()
        if name.endswith(end) and (middle.isdecimal() or not middle)
    }
    return max(versions, key=lambda name: versions[name])


@pytest.mark.network
@pytest.mark.parametrize("generator", PACKAGES)
def test_words_of_the_main_part_are_kept_and_those_of_menus_are_not(generator, tmp_path):
    download = [program("apt-get"), "download", newest(PACKAGES[generator])]
    subprocess.run(download, cwd=tmp_path, check=True)
    (package,) = tmp_path.glob("*.deb")
    subprocess.run([program("dpkg-deb"), "-x", package, tmp_path], check=True)
    total: Counter[str] = Counter()
    for path, found in measured_pages(tmp_path, generator, PAGES):
        assert found["kept"] >= 0.999 * found["wanted"], path
        total += found
    assert total["pages"] == PAGES
    assert total["kept_runs"] >= 0.999 * total["runs"]
    assert total["kept_headings"] == total["headings"]
    assert total["menu"] <= 0.05 * total["have"]
