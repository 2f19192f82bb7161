"""Measure what of real web pages reaches the index: words, headings, and words of navigation.

Pages are those of Debian's documentation packages, one for each generator, installed or unpacked
below `--root` (`apt-get download git-doc && dpkg-deb -x git-doc*.deb ROOT`); for Docusaurus, a site
that it built, in `ROOT/docusaurus`. For each generator it prints:

- words: of the words of the main part, those in the text;
- order: of the runs of five words in a line of the main part, those in the text as they stand;
- headings: of the headings of the main part, those among the sections;
- menu: of the words in the text, those that the main part does not have.

    python bench/html_words.py --root / --pages 25
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.web_pages import GENERATORS, measured_pages


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("/"), help="where packages are unpacked")
    parser.add_argument("--pages", type=int, default=25, help="pages of each generator")
    parser.add_argument("--show", help="print the pages of this generator, and what they lose")
    options = parser.parse_args()
    print("generator                 pages   words   order  headings   menu")
    for name in GENERATORS:
        total: Counter[str] = Counter()
        for path, found in measured_pages(options.root, name, options.pages):
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
        f"{total['menu'] / total['have']:7.2%}"
    )


if __name__ == "__main__":
    main()
