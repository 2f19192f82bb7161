"""Measure what of real web pages reaches the index: words, headings, and words of navigation.

Pages are those of Debian's documentation packages, one for each generator, installed or unpacked
below `--root` (`apt-get download git-doc && dpkg-deb -x git-doc*.deb ROOT`). The main part of
a page is told by its generator's own containers, and its words are taken by code that shares
nothing with the parser. For each generator it prints:

- words: of the words of the main part, those in the text;
- order: of the runs of five words in a line of the main part, those in the text as they stand;
- headings: of the headings of the main part, those among the sections;
- menu: of the words in the text, those that the main part does not have.

    python bench/html_words.py --root / --pages 25
"""

import argparse
import random
import re
import time
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
UNSEEN = frozenset("script style template noscript title head svg select rp".split())
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
        "usr/share/doc/postgresql-doc-15/html/*.html",
        "//body",
        f"//*[{holds('navheader')} or {holds('navfooter')}]",
    ),
    "Sphinx (Python)": (
        "usr/share/doc/python3.11/html/**/*.html",
        f"//div[{holds('body')}]",
        f"//a[{holds('headerlink')}] | //nav | //*[@id='contents']",
    ),
    "MediaWiki (cppreference)": (
        "usr/share/cppreference/doc/html/en/**/*.html",
        "//*[@id='firstHeading'] | //*[@id='mw-content-text']",
        f"//*[{holds('t-navbar')} or {holds('editsection')} or @id='toc']",
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

    def visit(one: Any, pre: bool) -> None:
        if not isinstance(one.tag, str):
            parts.append(one.tail or "")
            return
        block = one.tag not in INLINE
        parts.append("\0" * block)
        if one.tag not in UNSEEN and one not in left_out:
            parts.append(one.text or "")
            for child in one:
                visit(child, pre)
        parts.append("\0" * block)
        parts.append(one.tail or "")

    visit(element, False)
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


RE = {"re": "http://exslt.org/regular-expressions"}


def runs(words: list[str]) -> set[tuple[str, ...]]:
    """Return the runs of five words."""
    return {tuple(words[start : start + 5]) for start in range(len(words) - 4)}


def measure(path: Path, main: str, inside: str) -> Counter[str] | None:
    """Return the counts of a page, None for one without a main part."""
    content = path.read_bytes()
    tree = lxml_html.document_fromstring(content.decode("utf-8", "replace").encode(), parser=UTF8)
    blocks, headings = main_part(tree, main, inside)
    wanted = Counter(word for block in blocks for word in block)
    if wanted.total() < 30:
        return None
    start = time.process_time()
    (found,) = parse_html(content)
    seconds = time.process_time() - start
    have = WORD.findall(found.text)
    kept = (wanted & Counter(have)).total()
    wanted_runs = {run for block in blocks for run in runs(block)}
    titles = Counter(" ".join(WORD.findall(section.title)) for section in found.sections)
    return Counter(
        pages=1,
        wanted=wanted.total(),
        kept=kept,
        have=len(have),
        runs=len(wanted_runs),
        kept_runs=len(wanted_runs & runs(have)),
        headings=len(headings),
        kept_headings=(Counter(headings) & titles).total(),
        worst=int(1000 - 1000 * kept / wanted.total()),
        microseconds=int(seconds * 1e6),
    )


UTF8 = lxml_html.HTMLParser(encoding="utf-8", huge_tree=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("/"), help="where packages are unpacked")
    parser.add_argument("--pages", type=int, default=25, help="pages of each generator")
    parser.add_argument("--show", help="print the pages of this generator, and what they lose")
    options = parser.parse_args()
    print("generator                 pages   words   order  headings   menu   ms/page")
    for name, (pattern, inside, left_out) in GENERATORS.items():
        pages = sorted(options.root.glob(pattern)) or sorted(options.root.glob(f"*/{pattern}"))
        random.Random(7).shuffle(pages)
        total: Counter[str] = Counter()
        for path in pages:
            if total["pages"] == options.pages:
                break
            if path.stat().st_size > 2**20 or not (found := measure(path, inside, left_out)):
                continue
            if options.show and options.show in name:
                print(f"  {1 - found['kept'] / found['wanted']:7.3%} lost {path}")
            total += found
        if total["pages"]:
            report(name, total)


def report(name: str, total: Counter[str]) -> None:
    """Print a row of the table."""
    print(
        f"{name:25} {total['pages']:5} {total['kept'] / total['wanted']:7.2%} "
        f"{total['kept_runs'] / max(1, total['runs']):7.2%} "
        f"{total['kept_headings']:4}/{total['headings']:<4} "
        f"{1 - total['kept'] / total['have']:7.2%} "
        f"{total['microseconds'] / total['pages'] / 1000:7.1f}"
    )


if __name__ == "__main__":
    main()
