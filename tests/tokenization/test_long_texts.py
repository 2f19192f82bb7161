"""What is read of a very long text gives the ids of the whole text."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opengte.errors import TruncationError
from opengte.tokenization import Tokenizer, load_tokenizer, long_texts, tokenizer
from opengte.types import Tokenized, TruncationSide
from tests.support.tokenizers_for_tests import (
    save_bpe,
    save_mistral,
    save_qwen3,
    save_unigram,
    save_wordpiece,
)

SAVERS = {
    "wordpiece": save_wordpiece,
    "unigram": save_unigram,
    "bpe": save_bpe,
    "qwen3": save_qwen3,
    "mistral": save_mistral,
}
ODD = [
    *(" ", "\n", "\t ", "\x00", "\u0301", "e\u0301", "\u200d", "\ufdfa", "ﬁ", "é", "x", "ab", "7"),
    *(
        "🦀",
        "👩‍👩‍👧",
        "北京",
        "한",
        "مرحبا",
        "?!",
        "-",
        "_",
        "\u00ad",
        "\u2028",
        "\ufffd",
        "the cat ",
        "thecat",
    ),
    *(
        "[SEP]",
        "[MASK] ",
        "<s>",
        " </s>",
        "<|endoftext|>",
        "https://a.example/b?c=d&e=%20f",
        "I'll",
    ),
]
runs = st.tuples(st.sampled_from(ODD) | st.text(max_size=5), st.sampled_from([1, 2, 30, 300, 1500]))
texts = st.lists(runs, min_size=1, max_size=6).map(
    lambda parts: "".join(part * count for part, count in parts).encode("utf-8", "replace").decode()
)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    root = tmp_path_factory.mktemp("long")
    for name, save in SAVERS.items():
        save(root / name)
    return {name: load_tokenizer(root / name) for name in SAVERS}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Read no more than a few hundred characters where that suffices."""
    with monkeypatch.context() as patch:
        patch.setattr(long_texts, "PIECE", 50)
        patch.setattr(long_texts, "LONG", 100)
        patch.setattr(tokenizer, "LONG", 100)
        yield patch


def same(cut: Tokenized, whole: Tokenized) -> None:
    assert cut.batch.ids.tolist() == whole.batch.ids.tolist()
    assert cut.batch.cu_seqlens.tolist() == whole.batch.cu_seqlens.tolist()
    assert [each.index for each in cut.truncated] == [each.index for each in whole.truncated]
    for part, full in zip(cut.truncated, whole.truncated, strict=True):
        assert part.kept < part.found <= full.found
        assert part.at_least or part.found == full.found


@pytest.mark.parametrize("name", SAVERS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    batch=st.lists(texts, min_size=1, max_size=2),
    prompt=st.sampled_from(["", "query: "]),
    limit=st.integers(12, 60),
    side=st.sampled_from(["right", "left"]),
)
def test_no_vector_changes(
    tokenizers: dict[str, Tokenizer],
    name: str,
    batch: list[str],
    prompt: str,
    limit: int,
    side: TruncationSide,
) -> None:
    one = tokenizers[name]
    pairs = list(zip(batch, reversed(batch), strict=True))

    def read() -> tuple[Tokenized, ...]:
        return (
            one.encode(batch, prompt=prompt, max_length=limit, truncation=side),
            one.encode_pairs(pairs, max_length=limit, truncation=side),
            one.encode_framed(
                batch, prefix="the ", suffix=" cat", max_length=limit + 20, truncation=side
            ),
        )

    whole = read()
    with pytest.MonkeyPatch.context() as patch:
        for module, setting, value in (
            (long_texts, "PIECE", 50),
            (long_texts, "LONG", 100),
            (tokenizer, "LONG", 100),
        ):
            patch.setattr(module, setting, value)
        for cut, full in zip(read(), whole, strict=True):
            same(cut, full)


@pytest.mark.parametrize("name", SAVERS)
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("text", ["the cat ", "x", "北京", "https://a.example/b?c=%20"])
def test_thirty_megabytes_are_not_read(
    tokenizers: dict[str, Tokenizer],
    name: str,
    side: TruncationSide,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name == "unigram" and text == "北京":
        pytest.skip("unknown to this vocabulary: a single token")
    one, read = tokenizers[name], []
    encode = tokenizer.encode_texts
    monkeypatch.setattr(
        tokenizer,
        "encode_texts",
        lambda backend, texts, cut: read.extend(texts) or encode(backend, texts, cut),
    )
    huge = text * (30_000_000 // len(text.encode()))
    found = one.encode([huge], max_length=256, truncation=side)
    assert max(map(len, read)) < 100_000
    if (name, text) == ("wordpiece", "x"):
        assert not found.truncated  # one unknown word
    else:
        assert found.truncated[0].at_least and found.truncated[0].found > 256


def test_the_count_is_said_to_be_a_lower_bound(
    tokenizers: dict[str, Tokenizer], short: pytest.MonkeyPatch
) -> None:
    one = tokenizers["wordpiece"]
    with pytest.raises(TruncationError, match=r"0 \(at least \d+ tokens\)"):
        one.encode(["the cat " * 100], max_length=8, truncation="error")
    whole = one.encode(["the cat " * 100], max_length=500)
    assert not whole.truncated and whole.batch.lengths.tolist() == [202]
    (exact,) = one.encode(["the cat " * 10], max_length=8).truncated
    assert not exact.at_least and exact.found_text == "22"


def test_a_part_is_a_part(tokenizers: dict[str, Tokenizer], short: pytest.MonkeyPatch) -> None:
    one, text = tokenizers["wordpiece"], "the cat sat " * 200
    first, last = one.part(text, 20), one.part(text, 20, "left")
    assert text.startswith(first) and text.endswith(last)
    assert 20 < one.count([first])[0] < 200 and 20 < one.count([last])[0] < 200
