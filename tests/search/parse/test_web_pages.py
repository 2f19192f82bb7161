"""Real pages of generators of documentation; tests/system has a hundred more."""

from pathlib import Path

import pytest

from tests.support.web_pages import GENERATORS, measure_page

PAGES = Path(__file__).parent / "pages"


@pytest.mark.parametrize(
    ("name", "generator"),
    [
        ("docbook", "DocBook (PostgreSQL)"),
        ("sphinx", "Sphinx (Python)"),
        ("docusaurus", "Docusaurus"),
        ("mdbook", "mdBook (Rust)"),
        ("wiki", "MediaWiki (cppreference)"),
    ],
)
def test_every_word_of_the_main_part_is_in_the_text_and_hardly_any_of_its_menus(name, generator):
    found = measure_page(PAGES / f"{name}.html", *GENERATORS[generator][1:])
    assert found
    assert found["kept"] == found["wanted"]
    assert found["kept_runs"] == found["runs"]
    assert found["kept_headings"] == found["headings"] > 0
    assert found["menu"] <= 0.05 * found["have"]
