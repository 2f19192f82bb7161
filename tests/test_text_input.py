"""What is taken for texts, and what is refused with a word on what to pass."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from opengte import Encoder, Reranker
from opengte.bulk import RowSource
from opengte.errors import InputError
from opengte.search.ingest.pipeline import documents_of_texts
from opengte.text_input import check_ids, check_text, check_texts, single_text
from tests.parity.families import FAMILIES
from tests.support import checkpoints

TWO = ["a cat", "a dog"]

TEXTS: list[Any] = [
    TWO,
    tuple(TWO),
    iter(TWO),
    dict(zip("ab", TWO, strict=True)).values(),
    dict.fromkeys(TWO).keys(),
    np.array(TWO),
    np.array(TWO, dtype=object),
    np.array(TWO, dtype=np.dtypes.StringDType()),
    [np.str_(text) for text in TWO],
    [np.array(text) for text in TWO],
    pd.Series(TWO),
    pd.Series(TWO, index=["columns", "shape"]),
    pd.Series(TWO, dtype="category"),
    pd.Series(TWO, dtype="object"),
    pd.Index(TWO),
    pd.DataFrame({"text": TWO})["text"],
    pl.Series(TWO),
    pl.DataFrame({"text": TWO})["text"],
    pa.array(TWO),
    pa.array(TWO, pa.large_string()),
    pa.array(TWO).dictionary_encode(),
    pa.chunked_array([[TWO[0]], [TWO[1]]]),
    pa.table({"text": TWO})["text"],
    list(pa.array(TWO)),
]

REFUSED: list[tuple[Any, str]] = [
    ("a cat", r"texts is a single string, expected a list of strings: wrap it in \[ \]"),
    (np.array("a cat"), "texts is a single string"),
    (pa.scalar("a cat"), "texts is a single string"),
    (pd.DataFrame({"text": TWO, "id": [1, 2]}), r"DataFrame with the columns `text`, `id`.*'text'"),
    (pl.DataFrame({"text": TWO, "id": [1, 2]}), r"DataFrame with the columns `text`, `id`"),
    (
        pa.table({"body": TWO, "id": [1, 2]}),
        r"Table with the columns `body`.*texts\['body'\]",
    ),
    (pa.record_batch({"body": TWO}), "RecordBatch with the columns `body`"),
    ({"text": TWO}, r"texts is a dict, .*list\(texts\.values\(\)\)"),
    ({"a", "b"}, r"texts is a set, which has no order.*sorted\(texts\)"),
    (frozenset("ab"), "texts is a frozenset"),
    (b"a cat", "texts is of type bytes.*decode"),
    (bytearray(b"a"), "texts is of type bytearray"),
    (7, "texts is of type int, expected strings in a list"),
    (None, "texts is of type NoneType, expected strings in a list"),
    (np.float32(7), "texts is a float32 of shape"),
    (np.array([TWO]), r"texts is a ndarray of shape \(1, 2\), expected one dimension"),
    (np.array([1, 2]), r"texts\[0\] is of type int, expected a string"),
    (np.array([b"a"]), r"texts\[0\] is of type bytes_?, expected a string"),
    (["a", None], r"texts\[1\] is of type NoneType, expected a string: leave out what is missing"),
    (pd.Series(["a", None]), r"texts\[1\] is of type float, expected a string: leave out"),
    (pd.Series(["a", pd.NA], dtype="object"), r"texts\[1\] is of type NAType.*leave out"),
    (pl.Series(["a", None]), r"texts\[1\] is of type NoneType"),
    (pa.array(["a", None]), r"texts\[1\] is of type NoneType"),
    (["a", b"b"], r"texts\[1\] is of type bytes, expected a string: decode it"),
    ([TWO, TWO], r"texts\[0\] is of type list, expected a string: pass one flat list"),
    (zip(TWO, TWO, strict=True), r"texts\[0\] is of type tuple.*flat list"),
    ([{"text": "a"}], r"texts\[0\] is of type dict, expected a string"),
    ([1.5], r"texts\[0\] is of type float, expected a string$"),
]


def _name(value: object) -> str:
    return type(value).__name__


@pytest.mark.parametrize("texts", TEXTS, ids=_name)
def test_what_holds_strings_is_taken(texts: Any) -> None:
    assert check_texts(texts) == TWO


@pytest.mark.parametrize(("texts", "message"), REFUSED)
def test_what_does_not_is_refused(texts: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_texts(texts)


@pytest.mark.parametrize("text", ["a", np.str_("a"), np.array("a"), pa.scalar("a")], ids=_name)
def test_a_single_text(text: Any) -> None:
    assert single_text(text) == check_text(text, "query") == "a"
    for other in (["a"], b"a", None, 3, pd.Series(["a"])):
        assert single_text(other) is None
        with pytest.raises(InputError, match="query is of type .*, expected a string"):
            check_text(other, "query")


def test_ids_may_be_integers() -> None:
    for ids in ([1, 2], np.array([1, 2]), pd.Series([1, 2]), pl.Series([1, 2]), pa.array([1, 2])):
        assert check_ids(ids) == ["1", "2"]
    assert check_ids(pd.Series(["a", "b"])) == ["a", "b"]
    for wrong in ([1.5], [True], [None], [("a",)]):
        with pytest.raises(InputError, match=r"ids\[0\] is of type .*a string or a whole number"):
            check_ids(wrong)
    assert check_ids({"a": 1, "b": 2}) == ["a", "b"]
    assert check_ids({7}, ordered=False) == ["7"]
    with pytest.raises(InputError, match="ids is a set, which has no order"):
        check_ids({7})
    with pytest.raises(InputError, match="ids is a single string"):
        check_ids("tax")


@pytest.fixture(scope="module")
def entry_points(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[Any], object]]:
    folders = [tmp_path_factory.mktemp(name) for name in ("encoder", "reranker")]
    FAMILIES["bert"](folders[0])
    checkpoints.new_model(folders[1], architectures=["NewForSequenceClassification"], num_labels=1)
    encoder = Encoder.load(folders[0], engine="torch", device="cpu", threads=1)
    reranker = Reranker.load(folders[1], engine="torch", device="cpu", threads=1)
    return {
        "encode": encoder.encode,
        "encode_query": encoder.encode_query,
        "encode_document": encoder.encode_document,
        "embed": encoder.embed,
        "stream": lambda texts: list(encoder.stream(texts)),
        "score": lambda texts: reranker.score("a cat", texts),
        "rank": lambda texts: reranker.rank("a cat", texts),
        "rows": RowSource.from_texts,
        "add": lambda texts: documents_of_texts(texts, ["a", "b"]),
        "titles": lambda texts: documents_of_texts(TWO, ["a", "b"], texts),
    }


def test_every_entry_point_refuses_and_takes_the_same(
    entry_points: dict[str, Callable[[Any], object]],
) -> None:
    for name, call in entry_points.items():
        refused: list[Any] = [pd.DataFrame({"text": TWO}), {"text": TWO}, {"a"}, [None, "a"], 3]
        for texts in refused + [None] * (name != "titles"):
            with pytest.raises(InputError, match=r"(texts|documents|titles)(\[0\])? is "):
                call(texts)
        for texts in (pd.Series(TWO), pl.Series(TWO), pa.array(TWO), np.array(TWO), iter(TWO)):
            call(texts)
    encode, stream = entry_points["encode"], entry_points["stream"]
    assert encode(np.array("a cat")).shape == encode("a cat").shape == (48,)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="texts is a single string"):
        stream("a cat")


def test_texts_of_an_index() -> None:
    found = documents_of_texts(pd.Series(TWO), np.array([1, 2]), metadata=[{"year": 1}, {}])
    assert [document.id for document in found] == ["1", "2"]
    with pytest.raises(InputError, match=r"metadata\[0\] is of type str, expected one mapping"):
        documents_of_texts(TWO, [1, 2], metadata=pd.DataFrame({"year": [1, 2]}))  # type: ignore[arg-type]


def test_texts_in_memory_as_rows() -> None:
    rows: Any = RowSource.from_texts(pd.Series(TWO)).rows()
    assert [row.text for row in rows] == TWO
