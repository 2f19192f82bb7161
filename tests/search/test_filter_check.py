"""Filters that cannot be meant are errors that name what is near."""

import pytest

from opengte.errors import InputError
from opengte.search.filter_check import check_filter
from opengte.search.filters import parse_conditions, parse_filter
from opengte.search.stores.memory import MemoryStore
from tests.support import kb as helpers


@pytest.fixture(scope="module")
def store():
    import numpy as np

    rng, made = np.random.default_rng(0), MemoryStore()
    rows = [{"year": 2020, "lang": "de"}, {"year": 2024, "lang": "fr", "draft": True}]
    rows.append({"created": "2024-05-01", "isbn": "0071", "mixed": 3})
    rows.append({"mixed": "n/a"})
    made.put([helpers.document(f"d{n}", rng, metadata=row) for n, row in enumerate(rows)])
    return made


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["yeer>=2020"], "`yeer`, a field that no document has; did you mean `year`?"),
        (["zzzz=1"], "a field that no document has; there are `created`, `draft`, `isbn`"),
        (["year!=2020", "langg!=de"], "did you mean `lang`?"),
        (["year=abc"], "compares `year` with 'abc', but its values are numbers, such as 2020"),
        (["lang>=5"], "compares `lang` with 5, but its values are texts, such as 'de'"),
        (["year>=2024", "year<2020"], "no `year` is >= 2024 and < 2020; the filter matches noth"),
        (["year>2024", "year<2024"], "no `year` is > 2024 and < 2024"),
        (["lang=de", "lang=fr"], "no `lang` is = 'de' and = 'fr'"),
        (["year=2020", "year>2021"], "no `year` is = 2020 and > 2021"),
    ],
)
def test_what_cannot_be_meant_is_an_error(store, texts, message):
    with pytest.raises(InputError) as error:
        check_filter(store, parse_conditions(texts))
    assert message in str(error.value)


@pytest.mark.parametrize(
    "texts",
    [
        [],
        ["year>=2020", "year<2024"],
        ["year>=2020", "year<=2020"],
        ["year=1999"],
        ["year!=2020", "year!=2024"],
        ["lang=xx|de"],
        ["lang~d", "lang^e"],
        ["draft=true"],
        ["draft!=false"],
        ["created>=2024-01-01", "created<2025-01-01"],
        ["isbn=0071"],
        ["mixed>=2", "mixed!=n/a"],
        ["year>2020", "year>2021", "year<=2024"],
        ["year=2020|2021"],
    ],
)
def test_what_may_be_meant_is_not(store, texts):
    check_filter(store, parse_conditions(texts))


def test_alternatives_are_not_joined_and_an_empty_store_takes_all(store):
    check_filter(store, parse_filter({"$or": [{"lang": "de"}, {"lang": "fr"}]}))
    check_filter(MemoryStore(), parse_conditions(["anything=1"]))
