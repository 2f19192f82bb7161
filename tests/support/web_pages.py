"""Real web pages, and what a reader of their main part sees, told by code of its own.

The main part of a page is that of its generator's own containers. Nothing here is shared with the
parser, which is measured with it.
"""

import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lxml import html as lxml_html

from opengte.search.parse.html import parse_html

INLINE = frozenset(
    "a abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd label mark q s samp "
    "small span strike strong sub sup time tt u var wbr".split()
)
UNSEEN = frozenset("annotation script style template noscript title head svg select rp".split())
WORD = re.compile(r"\w+")


def holds(name: str) -> str:
    """Return the XPath condition that an element has a class."""
    return f"contains(concat(' ', normalize-space(@class), ' '), ' {name} ')"


#  name -> pages, XPath of the main part, XPath of what is navigation inside it
GENERATORS = {
    "asciidoc (git)": (
        "usr/share/doc/git-doc/**/*.html",
        "//body",
        f"//*[@id='footer' or @id='toc' or {holds('toc')}]",
    ),
    "DocBook (PostgreSQL)": (
        "usr/share/doc/postgresql-doc-*/html/*.html",
        "//body",
        f"//*[{holds('navheader')} or {holds('navfooter')}]",
    ),
    "Sphinx (Python)": (
        "usr/share/doc/python3.*/html/**/*.html",
        f"//div[{holds('body')}]",
        f"//a[{holds('headerlink')}] | //nav | //*[@id='contents']",
    ),
    "MediaWiki (cppreference)": (
        "usr/share/cppreference/doc/html/en/**/*.html",
        "//*[@id='firstHeading'] | //*[@id='mw-content-text']",
        f"//*[{holds('t-navbar')} or {holds('navbox')} or {holds('editsection')} or "
        f"{holds('mw-editsection')} or @id='toc']",
    ),
    "Docusaurus": (
        "docusaurus/**/*.html",
        "//article[not(ancestor::article)]",
        f"//nav | //button | //a[{holds('hash-link')}] | //*[{holds('theme-edit-this-page')} or "
        f"{holds('theme-last-updated')} or contains(@class, 'tocCollapsible')]",
    ),
    "mdBook (Rust)": ("usr/share/doc/rust-doc/html/book/*.html", "//main", "//button"),
    "Doxygen (Eigen)": (
        "usr/share/doc/libeigen3-dev/html/*.html",
        f"//div[{holds('header')}] | //div[{holds('contents')}]",
        f"//div[{holds('summary')} or {holds('toc')}] | //div[{holds('ingroups')}]",
    ),
    "Javadoc (commons-lang)": (
        "usr/share/doc/libcommons-lang3-java/api/org/**/*.html",
        "//main",
        f"//nav | //ul[{holds('subNavList')}] | //div[{holds('subNav')}]",
    ),
    "Sphinx (Django)": (
        "usr/share/doc/python-django-doc/html/**/*.html",
        "//*[@id='yui-main']",
        f"//a[{holds('headerlink')}] | //nav",
    ),
}


def words_of(element: Any, left_out: set[Any]) -> Iterator[list[str]]:
    """Yield the words of each block of an element, in order."""
    parts: list[str] = []

    def visit(one: Any) -> None:
        if not isinstance(one.tag, str):
            parts.append(one.tail or "")
            return
        block = one.tag not in INLINE
        parts.append("\0" * block)
        if one.tag not in UNSEEN and one not in left_out:
            parts.append(one.text or "")
            for child in one:
                visit(child)
        parts.append("\0" * block)
        parts.append(one.tail or "")

    visit(element)
    text = re.sub("[\u00ad\u200b]", "", "".join(parts[:-1]))
    for line in text.split("\0"):
        if found := WORD.findall(line):
            yield found


def main_part(tree: Any, main: str, inside: str) -> tuple[list[list[str]], list[str]]:
    """Return the words of the blocks of the main part, and its headings."""
    left_out = set(tree.xpath(inside)) if inside else set()
    hidden = "//*[contains(translate(@style, ' ', ''), 'display:none')]"
    left_out |= set(tree.xpath(hidden))
    blocks, headings = [], []
    for part in tree.xpath(main):
        blocks += list(words_of(part, left_out))
        for heading in part.xpath(
            "descendant-or-self::*[re:test(name(), '^h[1-6]$')]", namespaces=RE
        ):
            if not any(one in left_out for one in (heading, *heading.iterancestors())):
                found = [word for line in words_of(heading, left_out) for word in line]
                headings.append(" ".join(found))
    return blocks, [one for one in headings if one]


UTF8 = lxml_html.HTMLParser(encoding="utf-8", huge_tree=True)
RE = {"re": "http://exslt.org/regular-expressions"}


def runs(words: list[str]) -> set[tuple[str, ...]]:
    """Return the runs of five words."""
    return {tuple(words[start : start + 5]) for start in range(len(words) - 4)}


def measure_page(path: Path, main: str, inside: str) -> Counter[str] | None:
    """Return what a page has and keeps (words, runs of five, headings); None for a short one."""
    content = path.read_bytes()
    tree = lxml_html.document_fromstring(content.decode("utf-8", "replace").encode(), parser=UTF8)
    blocks, headings = main_part(tree, main, inside)
    wanted = Counter(word for block in blocks for word in block)
    if wanted.total() < 30:
        return None
    (found,) = parse_html(content)
    have = WORD.findall(found.text)
    alternatives = " ".join(image.get("alt") or "" for image in tree.xpath(f"({main})//img"))
    kept = (wanted & Counter(have)).total()
    wanted_runs = {run for block in blocks for run in runs(block)}
    titles = Counter(" ".join(WORD.findall(section.title)) for section in found.sections)
    return Counter(
        pages=1,
        wanted=wanted.total(),
        kept=kept,
        have=len(have),
        menu=(Counter(have) - wanted - Counter(WORD.findall(alternatives))).total(),
        runs=len(wanted_runs),
        kept_runs=len(wanted_runs & runs(have)),
        headings=len(headings),
        kept_headings=(Counter(headings) & titles).total(),
    )


def measured_pages(root: Path, generator: str, most: int) -> Iterator[tuple[Path, Counter[str]]]:
    """Yield pages of a generator below a folder, at most so many, and their measures."""
    pattern, main, inside = GENERATORS[generator]
    pages = sorted([*root.glob(pattern), *root.glob(f"*/{pattern}")])
    random.Random(7).shuffle(pages)
    for path in pages:
        if most and path.stat().st_size < 2**20 and (found := measure_page(path, main, inside)):
            most -= 1
            yield path, found
