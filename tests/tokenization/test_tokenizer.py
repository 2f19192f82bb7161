import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from opengte.errors import CheckpointError, CheckpointWarning, InputError, TruncationError
from opengte.tokenization import Tokenizer, backend, load_tokenizer
from opengte.types import PackedBatch, Tokenized, Truncated, TruncationSide
from tests.support.tokenizers_for_tests import (
    WORDS,
    save_bpe,
    save_mistral,
    save_qwen3,
    save_unigram,
    save_wordpiece,
)

SAVERS: dict[str, Callable[[Path], int]] = {
    "wordpiece": save_wordpiece,
    "unigram": save_unigram,
    "bpe": save_bpe,
    "gte-qwen2": lambda folder: save_bpe(folder, add_eos_token=True),
    "qwen3": save_qwen3,
    "mistral": save_mistral,
    "e5-mistral": lambda folder: save_mistral(folder, add_eos_token=True),
}
TEXTS = [
    *("", " ", "the cat sat on the mat", "What is the capital of China?", "\0", "\t\n\r"),
    *("北京 is 中国's capital", "مرحبا يا عالم", "👩‍👩‍👧 family", "e\u0301" * 20, "x" * 300),
    *("[SEP] </s> <|endoftext|> [MASK]", "  two  spaces  ", "ﬁ ① Ａ", "\ud83d\ude00 \udfff!"),
]
words = st.lists(st.sampled_from([*WORDS, "", "I'll", "[SEP]", "<s>", "\n", "é", "北京", "?!"]))
texts = st.one_of(st.text(st.characters(exclude_categories=["Cs"])), words.map(" ".join))
quick = settings(max_examples=40, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tokenizers")
    for name, save in SAVERS.items():
        save(root / name)
    return {name: root / name for name in SAVERS}


@pytest.fixture(scope="module")
def tokenizers(folders: dict[str, Path]) -> dict[str, Tokenizer]:
    return {name: load_tokenizer(folder) for name, folder in folders.items()}


@pytest.fixture(params=SAVERS)
def tokenizer(request: pytest.FixtureRequest, tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    return tokenizers[request.param]


def rows(batch: PackedBatch | Tokenized) -> list[list[int]]:
    batch = batch.batch if isinstance(batch, Tokenized) else batch
    return [part.tolist() for part in np.split(batch.ids, batch.cu_seqlens[1:-1])][: len(batch)]


def spelled(tokenizer: Tokenizer, tokenized: Tokenized) -> list[str]:
    return [" ".join(map(tokenizer.token, row)) for row in rows(tokenized)]


@pytest.mark.parametrize(
    ("name", "single", "pair"),
    [
        ("wordpiece", "[CLS] the cat [SEP]", "[CLS] the cat [SEP] a dog [SEP]"),
        ("unigram", "<s> ▁the ▁cat </s>", "<s> ▁the ▁cat </s> </s> ▁a ▁dog </s>"),
        ("bpe", "the Ġcat", "the Ġcat a Ġdog"),
        ("gte-qwen2", "the Ġcat <|endoftext|>", "the Ġcat <|endoftext|> a Ġdog <|endoftext|>"),
        ("qwen3", "the Ġcat <|endoftext|>", "the Ġcat a Ġdog <|endoftext|>"),
        ("mistral", "<s> ▁the ▁cat", "<s> ▁the ▁cat <s> ▁a ▁dog"),
        ("e5-mistral", "<s> ▁the ▁cat </s>", "<s> ▁the ▁cat </s> <s> ▁a ▁dog </s>"),
    ],
)
def test_layout(tokenizers: dict[str, Tokenizer], name: str, single: str, pair: str) -> None:
    tokenizer = tokenizers[name]
    assert spelled(tokenizer, tokenizer.encode(["the cat"], max_length=20)) == [single]
    encoded = tokenizer.encode_pairs([("the cat", "a dog")], max_length=20)
    assert spelled(tokenizer, encoded) == [pair]


def test_token_types_of_a_pair(tokenizers: dict[str, Tokenizer]) -> None:
    pairs = [("the cat", "a dog"), ("", "the")]
    batch = tokenizers["wordpiece"].encode_pairs(pairs, max_length=20).batch
    assert batch.type_ids.tolist() == [0, 0, 0, 0, 1, 1, 1] + [0, 0, 1, 1]
    assert not tokenizers["unigram"].encode_pairs(pairs, max_length=20).batch.type_ids.any()


def test_arguments_win_over_files(folders: dict[str, Path]) -> None:
    bare = load_tokenizer(folders["e5-mistral"], add_bos=False, add_eos=False)
    assert spelled(bare, bare.encode(["the"], max_length=9)) == ["▁the"]
    both = load_tokenizer(folders["mistral"], add_bos=True, add_eos=True)
    assert spelled(both, both.encode(["the"], max_length=9)) == ["<s> ▁the </s>"]
    explicit = load_tokenizer(folders["qwen3"], add_eos=True)
    assert spelled(explicit, explicit.encode(["the"], max_length=9)) == [
        "the <|endoftext|> <|im_end|>"
    ]


def test_an_end_token_that_is_not_named(tmp_path: Path) -> None:
    save_bpe(tmp_path, add_eos_token=True)
    config_path = tmp_path / "tokenizer_config.json"
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": None, "add_eos_token": True}
    config_path.write_text(json.dumps(config))
    with pytest.warns(CheckpointWarning, match="names no eos_token .* is ignored"):
        assert load_tokenizer(tmp_path).single.size == 0
    with pytest.raises(CheckpointError, match="add_eos=True has nothing to add"):
        load_tokenizer(tmp_path, add_eos=True)


@quick
@given(st.lists(st.tuples(texts, texts), max_size=4))
def test_same_as_the_library(
    tokenizers: dict[str, Tokenizer], pairs: list[tuple[str, str]]
) -> None:
    for name in ("wordpiece", "unigram", "qwen3", "mistral"):
        tokenizer = tokenizers[name]
        ours = tokenizer.encode([first for first, _ in pairs], max_length=10**6)
        theirs = [tokenizer.backend.encode(first) for first, _ in pairs]
        assert rows(ours) == [encoding.ids for encoding in theirs]
        ours = tokenizer.encode_pairs(pairs, max_length=10**6)
        theirs = [tokenizer.backend.encode(*pair) for pair in pairs]
        assert rows(ours) == [encoding.ids for encoding in theirs]
        assert ours.batch.type_ids.tolist() == [i for e in theirs for i in e.type_ids]


@quick
@given(
    st.lists(texts, min_size=1, max_size=4), st.integers(4, 12), st.sampled_from(["right", "left"])
)
def test_truncation_as_in_the_library(
    tokenizers: dict[str, Tokenizer], batch: list[str], max_length: int, side: TruncationSide
) -> None:
    for tokenizer in (tokenizers["wordpiece"], tokenizers["unigram"], tokenizers["mistral"]):
        reference = type(tokenizer.backend).from_str(tokenizer.backend.to_str())
        reference.enable_truncation(max_length, direction=side)
        ours = tokenizer.encode(batch, max_length=max_length, truncation=side)
        assert rows(ours) == [reference.encode(text).ids for text in batch]


def test_truncation_sides_and_records(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["wordpiece"]
    batch = ["the cat", "the cat sat in a red mat"]
    right = tokenizer.encode(batch, max_length=5)
    assert spelled(tokenizer, right)[1] == "[CLS] the cat sat [SEP]"
    left = tokenizer.encode(batch, max_length=5, truncation="left")
    assert spelled(tokenizer, left)[1] == "[CLS] a red mat [SEP]"
    assert right.truncated == left.truncated == (Truncated(1, found=9, kept=5),)


def test_a_text_that_just_fits_is_whole(tokenizer: Tokenizer) -> None:
    text = "the cat sat in a red mat"
    (length,) = tokenizer.count([text])
    exact = tokenizer.encode([text], max_length=int(length), truncation="error")
    assert exact.truncated == () and len(exact.batch.ids) == length
    with pytest.raises(TruncationError):
        tokenizer.encode([text], max_length=int(length) - 1, truncation="error")


def test_too_long_is_an_error_that_names_the_first_ten(tokenizers: dict[str, Tokenizer]) -> None:
    batch = ["the"] + ["the cat sat"] * 12
    with pytest.raises(TruncationError) as caught:
        tokenizers["wordpiece"].encode(batch, max_length=4, truncation="error")
    message = str(caught.value)
    assert message.startswith("12 of 13 inputs have more than max_length=4 tokens: 1 (5 tokens), ")
    assert "10 (5 tokens) and 2 more" in message and 'truncation="right"' in message


@pytest.mark.parametrize("side", ["right", "left"])
def test_prompt_and_special_tokens_survive(tokenizer: Tokenizer, side: TruncationSide) -> None:
    prompt = "query: "
    (least,) = tokenizer.count(["a"], prompt)
    whole = rows(tokenizer.encode(["a"], prompt=prompt, max_length=50))[0]
    for max_length in range(least, least + 5):
        encoded = tokenizer.encode(
            ["a dog sat in a mat " * 5], prompt=prompt, max_length=max_length, truncation=side
        )
        (row,) = rows(encoded)
        assert len(row) == max_length
        last = len(tokenizer.single.specials[1])
        kept = len(whole) - last - (2 if tokenizer.token(whole[-1 - last]) == "a" else 1)
        assert row[:kept] == whole[:kept]
        assert row[len(row) - last :] == whole[len(whole) - last :]


def test_left_truncation_keeps_the_end_of_the_text(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["gte-qwen2"]
    encoded = tokenizer.encode(
        ["a red dog"], prompt="query: ", max_length=5, truncation="left", mask="positions"
    )
    # the space after the prompt belongs to the text, whose beginning is what goes
    assert spelled(tokenizer, encoded) == ["query : Ġred Ġdog <|endoftext|>"]


def test_no_room(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["wordpiece"]
    message = "max_length=4 leaves no room .* 2 special and 2 prompt tokens .* at least 5"
    with pytest.raises(InputError, match=message):
        tokenizer.encode(["a"], prompt="query: ", max_length=4)
    assert rows(tokenizer.encode(["a b"], prompt="query: ", max_length=5))
    with pytest.raises(InputError, match="max_length=4 leaves no room"):
        tokenizer.encode_pairs([("a", "b")], max_length=4)
    with pytest.raises(InputError, match="max_length=2 leaves no room"):
        tokenizer.encode_framed(["a"], prefix="the", suffix="cat", max_length=2)
    with pytest.raises(InputError, match="max_length=0"):
        tokenizer.encode([], max_length=0)


def test_unknown_side(tokenizers: dict[str, Tokenizer]) -> None:
    with pytest.raises(InputError, match="truncation='middle' is not known"):
        tokenizers["bpe"].encode(["a"], max_length=9, truncation="middle")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("query", "document", "kept"),
    [
        ("a a", "b b", (2, 2)),
        ("a a", "b " * 20, (2, 10)),
        ("a " * 20, "b", (11, 1)),
        ("a " * 20, "b " * 20, (9, 3)),
        ("", "b " * 20, (0, 12)),
    ],
)
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_query_keeps_three_quarters_of_the_room(
    tokenizers: dict[str, Tokenizer],
    side: TruncationSide,
    query: str,
    document: str,
    kept: tuple[int, int],
) -> None:
    tokenizer = tokenizers["wordpiece"]
    encoded = tokenizer.encode_pairs([(query, document)], max_length=15, truncation=side)
    (row,) = spelled(tokenizer, encoded)
    assert (row.split().count("a"), row.split().count("b")) == kept
    found = len(query.split()) + len(document.split()) + 3
    expected = (Truncated(0, found, 15),) if found > 15 else ()
    assert encoded.truncated == expected


def test_pairs_drop_from_the_side_asked_for(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["wordpiece"]
    pairs = [("the red green blue cat", "a dog")]
    right = tokenizer.encode_pairs(pairs, max_length=8)
    assert spelled(tokenizer, right) == ["[CLS] the red green [SEP] a dog [SEP]"]
    left = tokenizer.encode_pairs(pairs, max_length=8, truncation="left")
    assert spelled(tokenizer, left) == ["[CLS] green blue cat [SEP] a dog [SEP]"]


def test_framed(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["qwen3"]
    bodies = ["a red dog sat", "the", ""]
    encoded = tokenizer.encode_framed(bodies, prefix="<|im_start|>a", suffix="cat", max_length=6)
    assert spelled(tokenizer, encoded) == [
        "<|im_start|> a a Ġred Ġdog cat",
        "<|im_start|> a the cat",
        "<|im_start|> a cat",
    ]
    assert encoded.truncated == (Truncated(0, 7, 6),)
    left = tokenizer.encode_framed(
        bodies[:1], prefix="the", suffix="cat", max_length=4, truncation="left"
    )
    assert spelled(tokenizer, left) == ["the Ġdog Ġsat cat"]


@pytest.mark.parametrize(
    ("name", "masked"), [("e5-mistral", [3, 3]), ("bpe", [3, 2]), ("wordpiece", [2, 2])]
)
def test_masked_prompt(tokenizers: dict[str, Tokenizer], name: str, masked: list[int]) -> None:
    tokenizer = tokenizers[name]  # "query: " is ▁query : ▁, or query : Ġ, or query :
    encoded = tokenizer.encode(
        ["the cat", "the"], prompt="query: ", max_length=50, mask="positions"
    )
    assert encoded.batch.pool_from.tolist() == masked
    plain = tokenizer.encode(["the cat"], prompt="query: ", max_length=50)
    assert plain.batch.pool_from.tolist() == [0]
    unprompted = tokenizer.encode(["the cat"], max_length=50, mask="positions")
    assert unprompted.batch.pool_from.tolist() == [0]


def test_something_is_left_to_pool(tokenizer: Tokenizer) -> None:
    encoded = tokenizer.encode(["", "a"], prompt="query: ", max_length=50, mask="positions")
    assert (encoded.batch.pool_from < encoded.batch.lengths).all()


def test_anything_that_is_text_has_tokens(tokenizer: Tokenizer) -> None:
    encoded = tokenizer.encode(TEXTS, max_length=64)
    assert (encoded.batch.lengths >= 1).all()
    assert (encoded.batch.lengths <= 64).all()
    assert encoded.repaired == (len(TEXTS) - 1,)
    assert (tokenizer.count(TEXTS) >= encoded.batch.lengths).all()
    assert encoded.batch.ids.dtype == np.int32 and encoded.batch.ids.max() < 2000


def test_lone_surrogates_become_the_replacement_character(tokenizer: Tokenizer) -> None:
    broken = tokenizer.encode(["a\ud800b", "c"], max_length=20, prompt="\udc00 ")
    repaired = tokenizer.encode(["a\ufffdb", "c"], max_length=20, prompt="\ufffd ")
    assert rows(broken) == rows(repaired)
    assert (broken.repaired, repaired.repaired) == ((0,), ())
    pairs = tokenizer.encode_pairs([("a", "b"), ("a", "\ud800")], max_length=20)
    assert pairs.repaired == (1,)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", None], r"texts\[1\] is NoneType None; expected a str"),
        (["a", b"b" * 99], r"texts\[1\] is bytes b'b+\.\.\.; expected"),
        ([["a"]], r"texts\[0\] is list \['a'\]"),
        ("the cat", r"texts is a str; .*Pass \[texts\]"),
    ],
)
def test_what_is_not_text(tokenizers: dict[str, Tokenizer], texts: Any, message: str) -> None:
    for call in (tokenizers["bpe"].encode, lambda t, max_length: tokenizers["bpe"].count(t)):
        with pytest.raises(InputError, match=message):
            call(texts, max_length=9)


@pytest.mark.parametrize("pair", ["ab", ("a",), ("a", "b", "c"), ("a", None), None])
def test_what_is_not_a_pair(tokenizers: dict[str, Tokenizer], pair: Any) -> None:
    with pytest.raises(InputError, match=r"pairs\[1\] is "):
        tokenizers["bpe"].encode_pairs([("a", "b"), pair], max_length=9)


def test_nothing_at_all(tokenizer: Tokenizer) -> None:
    for empty in (
        tokenizer.encode([], max_length=9),
        tokenizer.encode_pairs([], max_length=9),
        tokenizer.encode_framed([], prefix="a", suffix="b", max_length=9),
    ):
        assert len(empty.batch) == 0 and empty.batch.cu_seqlens.tolist() == [0]
    assert tokenizer.count([]).tolist() == []


def test_a_text_without_tokens_gets_one(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["bpe"]
    assert spelled(tokenizer, tokenizer.encode(["", "a", ""], max_length=9)) == [
        *("<|endoftext|>", "a", "<|endoftext|>")
    ]
    assert tokenizer.count(["", "a"]).tolist() == [1, 1]
    pairs = tokenizer.encode_pairs([("", ""), ("a", "")], max_length=9)
    assert spelled(tokenizer, pairs) == ["<|endoftext|>", "a"]
    nameless = dataclasses.replace(tokenizer, named={})
    with pytest.raises(InputError, match=r"texts\[1\] has no tokens"):
        nameless.encode(["a", ""], max_length=9)


class PanicException(BaseException):
    """What the library raises when it panics."""


class Failing:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> list[Any]:
        if any("bad" in text for text in texts):
            raise self.error
        return []


@pytest.mark.parametrize("error", [PanicException("retry-limit"), ValueError("retry-limit")])
def test_a_failure_of_the_library_names_the_text(error: BaseException) -> None:
    failing: Any = Failing(error)
    with pytest.raises(InputError, match=r"texts\[1\], of 3 characters, .*'retry-limit'"):
        backend.encode_texts(failing, ["good", "bad"], None)
    failing.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        backend.encode_texts(failing, ["bad"], None)


@quick
@given(st.lists(texts, max_size=3), st.integers(1, 12))
def test_cutting_a_long_text_changes_no_id(
    tokenizers: dict[str, Tokenizer], batch: list[str], piece: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        whole = {name: tokenizer._ids(batch) for name, tokenizer in tokenizers.items()}
        patch.setattr(backend, "PIECE", piece)
        patch.setattr(backend, "CHUNK", 3 * piece)
        for name, tokenizer in tokenizers.items():
            cut = tokenizer._ids(batch)
            assert cut.ids.tolist() == whole[name].ids.tolist()
            assert cut.lengths.tolist() == whole[name].lengths.tolist()


def test_which_tokenizers_may_be_cut(tokenizers: dict[str, Tokenizer]) -> None:
    cuttable = {
        name for name, tokenizer in tokenizers.items() if backend.cut_pattern(tokenizer.backend)
    }
    assert cuttable == {"wordpiece", "unigram", "bpe", "gte-qwen2", "qwen3"}


@pytest.mark.parametrize("added", ["two words", " cat", AddedToken("the", rstrip=True)])
def test_no_cut_where_an_added_token_may_be(tmp_path: Path, added: str | AddedToken) -> None:
    save_wordpiece(tmp_path)
    library = load_tokenizer(tmp_path).backend
    library.add_tokens([added])
    assert backend.cut_pattern(library) is None


@pytest.mark.parametrize("word", ["the cat sat ", "北京", "?!"])
def test_long_texts_are_really_cut(tokenizers: dict[str, Tokenizer], word: str) -> None:
    text, cut = word * 60_000, backend.cut_pattern(tokenizers["wordpiece"].backend)
    pieces = list(backend.split_long_text(text, cut))
    assert "".join(pieces) == text
    assert backend.PIECE <= len(pieces[0]) < backend.PIECE + 20
    assert len(pieces) == len(text) // len(pieces[0]) + 1
    assert list(backend.split_long_text("x" * 600_000, cut)) == ["x" * 600_000]
    assert list(backend.split_long_text(text, None)) == [text]


@pytest.mark.parametrize("name", ["wordpiece", "unigram", "bpe", "mistral"])
@pytest.mark.parametrize(
    "text", ["the cat sat. " * 5_000, "x" * 60_000, " " * 60_000, "a" + "\u0301" * 60_000]
)
def test_very_long_texts(
    tokenizers: dict[str, Tokenizer], name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "PIECE", 10_000)
    tokenizer = tokenizers[name]
    encoded = tokenizer.encode([text, "the"], max_length=16)
    found = len(tokenizer.backend.encode(text).ids)
    assert encoded.truncated == ((Truncated(0, found, 16),) if found > 16 else ())
    left = tokenizer.encode([text], prompt="query: ", max_length=16, truncation="left")
    assert (
        spelled(tokenizer, left)[0]
        .replace("▁", "")
        .replace("[CLS]", "<s>")
        .startswith("<s> query :" if name != "bpe" else "query :")
    )


def test_vocabulary(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["wordpiece"]
    assert tokenizer.token_id("cat") is not None
    assert tokenizer.token(tokenizer.token_id("cat") or 0) == "cat"
    assert tokenizer.token_id("zebra") is None
    ids = rows(tokenizer.encode(["The cat's mat"], max_length=20))[0]
    assert tokenizer.decode(ids) == "[CLS] the cat ' s mat [SEP]"
    assert tokenizer.decode(np.array(ids[1:3])) == "the cat"  # type: ignore[arg-type]
    assert tokenizer.vocabulary_size == len(tokenizer.backend.get_vocab())
    for bad in (-1, tokenizer.vocabulary_size, 2**40):
        with pytest.raises(InputError, match=f"token_id={bad} is not in the vocabulary"):
            tokenizer.decode([bad])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("wordpiece", {"[PAD]", "[UNK]", "[CLS]", "[SEP]"}),
        ("unigram", {"<s>", "<pad>", "</s>", "<unk>"}),
        ("qwen3", {"<|endoftext|>", "<|im_end|>"}),
    ],
)
def test_special_ids(tokenizers: dict[str, Tokenizer], name: str, expected: set[str]) -> None:
    assert set(map(tokenizers[name].token, tokenizers[name].special_ids)) == expected


def test_fingerprint(folders: dict[str, Path], tmp_path: Path) -> None:
    prints = {name: load_tokenizer(folder).fingerprint for name, folder in folders.items()}
    assert len(set(prints.values())) == len(folders)
    save_wordpiece(tmp_path)
    path = tmp_path / "tokenizer.json"
    settings = json.loads(path.read_text())
    settings["truncation"] = {"max_length": 8, "strategy": "LongestFirst", "stride": 0}
    path.write_text(json.dumps(settings, indent=7))
    assert load_tokenizer(tmp_path).fingerprint == prints["wordpiece"]
    assert load_tokenizer(tmp_path, add_eos=False).fingerprint == prints["wordpiece"]
    save_wordpiece(tmp_path, ["zebra"])
    assert load_tokenizer(tmp_path).fingerprint != prints["wordpiece"]


def test_lower_casing_of_sentence_transformers(tmp_path: Path) -> None:
    save_bpe(tmp_path)
    (tmp_path / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    tokenizer = load_tokenizer(tmp_path)
    encoded = tokenizer.encode(["The CAT"], prompt="QUERY: ", max_length=20)
    assert spelled(tokenizer, encoded) == ["query : Ġthe Ġcat"]


def test_safe_in_threads(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["wordpiece"]
    expected = {n: rows(tokenizer.encode(TEXTS, max_length=n)) for n in range(4, 24)}

    def work(n: int) -> bool:
        side: TruncationSide = "left" if n % 2 else "right"
        tokenizer.encode(TEXTS, max_length=n, truncation=side, prompt="a ")
        return rows(tokenizer.encode(TEXTS, max_length=n)) == expected[n]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, list(expected) * 5))


def run(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_importing_the_package_loads_no_tokenizers() -> None:
    done = run("import sys, opengte.tokenization; print('tokenizers' in sys.modules)")
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork here")
def test_a_fork_prints_no_warning(folders: dict[str, Path]) -> None:
    done = run(
        f"""
import os, pathlib, sys
os.environ.pop("TOKENIZERS_PARALLELISM", None)
from opengte.tokenization import load_tokenizer
tokenizer = load_tokenizer(pathlib.Path({str(folders["bpe"])!r}))
expected = tokenizer.count(["the cat"] * 100).tolist()
child = os.fork()
if child == 0:
    os._exit(0 if tokenizer.count(["the cat"] * 100).tolist() == expected else 9)
assert os.waitpid(child, 0)[1] == 0
assert "TOKENIZERS_PARALLELISM" not in os.environ
"""
    )
    assert (done.returncode, done.stderr) == (0, "")
