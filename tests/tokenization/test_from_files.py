import io
import json
import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from opengte.errors import (
    CheckpointError,
    CheckpointWarning,
    OpenGTEError,
    UnsupportedModelError,
)
from opengte.tokenization import Tokenizer, backend, load_tokenizer
from opengte.tokenization.from_files import build_backend
from opengte.tokenization.sentencepiece import VocabularyPiece, merges_by_score, read_sentencepiece
from tests.support.tokenizers_for_tests import WORDS, save_bpe, save_unigram, save_wordpiece

quick = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
SCRIPTS = "étude naïve 北京 中国 日本語 مرحبا hello123 3.14 e-mail ÀB ﬁ ｶ ① 👩 \t \n 　 ß".split(
    " "
)
texts = st.lists(st.sampled_from([*WORDS, *SCRIPTS, *string.printable, "", ""])).map(" ".join)
ADDED = {"__type": "AddedToken", "special": True, "normalized": False, "lstrip": False}
joined = st.lists(st.sampled_from([*WORDS, *SCRIPTS, *string.printable, " ", " "])).map("".join)
anything = st.one_of(texts, joined, st.text(st.characters(exclude_categories=["Cs"])))


def oracle(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


def ids(tokenizer: Tokenizer, text: str, max_length: int = 10**6) -> list[int]:
    found: list[int] = tokenizer.encode([text], max_length=max_length).batch.ids.tolist()
    return found


def configure(folder: Path, **values: object) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(values))


def message_of(folder: Path, error: type[Exception] = CheckpointError) -> str:
    with pytest.raises(error) as caught:
        load_tokenizer(folder)
    return str(caught.value)


@dataclass(repr=False)
class Both:
    """Our tokenizer and its oracle; its representation would be the whole vocabulary."""

    ours: Any
    theirs: Any


def write_vocab(folder: Path, **config: object) -> None:
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [*string.printable.split()[0], *"éüß北京中国本語ｶﬁ"]
    tokens = [*specials, *letters, *("##" + c for c in letters), *WORDS]
    folder.joinpath("vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    configure(folder, tokenizer_class="BertTokenizer", **config)


@pytest.fixture(
    scope="module",
    params=[
        {},
        {"do_lower_case": False},
        {"strip_accents": False, "tokenize_chinese_chars": False},
        {"do_lower_case": False, "strip_accents": True, "cls_token": ADDED | {"content": "[MASK]"}},
    ],
)
def bert(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("bert")
    write_vocab(folder, **request.param)
    return Both(load_tokenizer(folder), oracle(folder))


@quick
@given(anything, anything)
def test_vocab_txt_as_in_transformers(bert: Both, first: str, second: str) -> None:
    ours, theirs = bert.ours, bert.theirs
    assert ids(ours, first) == theirs(first)["input_ids"]
    short = theirs(first, truncation=True, max_length=7)["input_ids"]
    assert ids(ours, first, max_length=7) == short
    pair = ours.encode_pairs([(first, second)], max_length=10**6).batch
    expected = theirs([first], [second])  # unlike a single second text, it may be empty
    assert [pair.ids.tolist()] == expected["input_ids"]
    assert [pair.type_ids.tolist()] == expected["token_type_ids"]


def test_vocab_txt_and_tokenizer_json_are_one(tmp_path: Path) -> None:
    save_wordpiece(tmp_path / "json")
    lines = Backend.from_file(str(tmp_path / "json/tokenizer.json")).get_vocab()
    (tmp_path / "txt").mkdir()
    text = "\r\n".join(sorted(lines, key=lines.__getitem__)) + "\r\n"
    (tmp_path / "txt/vocab.txt").write_bytes(text.encode())
    from_json, from_text = load_tokenizer(tmp_path / "json"), load_tokenizer(tmp_path / "txt")
    assert from_json.fingerprint == from_text.fingerprint
    assert from_json.special_ids == from_text.special_ids


def test_vocab_txt_without_its_special_tokens(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("the\ncat\n")
    message = message_of(tmp_path)
    assert "vocab.txt has no line '[CLS]', the cls_token" in message and "2 lines" in message


def test_vocab_txt_of_another_kind(tmp_path: Path) -> None:
    write_vocab(tmp_path)
    configure(tmp_path, tokenizer_class="MPNetTokenizer")
    assert "kind 'MPNet'" in message_of(tmp_path, UnsupportedModelError)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"do_lower_case": "yes"}, "do_lower_case='yes'; expected a boolean"),
        ({"unk_token": 3}, "unk_token=3; expected a string"),
        ({"sep_token": {"content": []}}, "sep_token={'content': []}; expected a string"),
    ],
)
def test_broken_settings(tmp_path: Path, config: dict[str, object], expected: str) -> None:
    write_vocab(tmp_path, **config)
    assert expected in message_of(tmp_path)


def test_tokenizer_config_wins_over_tokenizer_json(tmp_path: Path) -> None:
    save_wordpiece(tmp_path)
    configure(tmp_path, tokenizer_class="BertTokenizer", do_lower_case=False)
    with pytest.warns(CheckpointWarning, match="contradicts tokenizer.json on lowercase"):
        tokenizer = load_tokenizer(tmp_path)
    assert list(map(tokenizer.token, ids(tokenizer, "The the"))) == [
        *("[CLS]", "T", "##h", "##e", "the", "[SEP]")
    ]


def test_dropout_is_for_training(tmp_path: Path) -> None:
    save_bpe(tmp_path)
    path = tmp_path / "tokenizer.json"
    contents = json.loads(path.read_text())
    contents["model"]["dropout"] = 0.9
    path.write_text(json.dumps(contents))
    tokenizer = load_tokenizer(tmp_path)
    found = {tuple(ids(tokenizer, "capital capital algorithms sorting")) for _ in range(20)}
    assert len(found) == 1


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        (b"", "tokenizer.json cannot be used"),
        (b"{}", "tokenizer.json cannot be used"),
        (
            b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}',
            "cannot be used",
        ),
        (b"\xff\xfe", "is not UTF-8 text: byte 0 is invalid"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ],
)
def test_broken_tokenizer_json(tmp_path: Path, contents: bytes, expected: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(contents)
    message = message_of(tmp_path)
    assert expected in message and str(tmp_path / "tokenizer.json") in message


def test_an_empty_vocabulary(tmp_path: Path) -> None:
    Backend(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    assert "no tokens at all" in message_of(tmp_path)


def test_a_vocabulary_without_its_unknown_token(tmp_path: Path) -> None:
    library = Backend(models.WordPiece({"the": 0}, unk_token="[UNK]"))
    library.save(str(tmp_path / "tokenizer.json"))
    assert "fails on a one-word text: WordPiece error: Missing [UNK]" in message_of(tmp_path)


def test_no_tokenizer_at_all(tmp_path: Path) -> None:
    assert "has no tokenizer; expected one of tokenizer.json, vocab.txt" in message_of(tmp_path)


@pytest.mark.parametrize("contents", ["[" * 100_000, "[1]", "{", "3"])
def test_a_broken_tokenizer_config(tmp_path: Path, contents: str) -> None:
    save_wordpiece(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(contents)
    assert "tokenizer_config.json" in message_of(tmp_path)


def trained(**options: Any) -> bytes:
    chance = random.Random(0)
    corpus = (" ".join(chance.choices([*WORDS, *SCRIPTS[:9]], k=12)) for _ in range(400))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=corpus,
        model_writer=model,
        minloglevel=2,
        num_threads=1,
        hard_vocab_limit=False,
        **options,
    )
    return model.getvalue()


KINDS: dict[str, dict[str, Any]] = {
    "unigram": {"model_type": "unigram", "vocab_size": 120},
    "identity": {"vocab_size": 120, "normalization_rule_name": "identity"},
    "unigram bytes": {"vocab_size": 350, "byte_fallback": True},
    "folded": {"vocab_size": 120, "normalization_rule_name": "nmt_nfkc_cf"},
    "bpe": {"model_type": "bpe", "vocab_size": 160, "user_defined_symbols": ["<x>"]},
    "no prefix": {"model_type": "bpe", "vocab_size": 160, "add_dummy_prefix": False},
    "llama": {
        "model_type": "bpe",
        "vocab_size": 450,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
    },
}


@pytest.fixture(scope="module", params=KINDS)
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("sentencepiece")
    path = folder / "spiece.model"
    path.write_bytes(trained(**KINDS[request.param]))
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return Both(build_backend(folder), theirs)


@quick
@given(st.one_of(texts, joined))
def test_same_ids_as_sentencepiece(plain: Both, text: str) -> None:
    ours, theirs = plain.ours, plain.theirs
    assert ours.encode(text, add_special_tokens=False).ids == theirs.encode(text)


@pytest.fixture(scope="module")
def xlmr(tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("xlmr")
    (folder / "sentencepiece.bpe.model").write_bytes(trained(**KINDS["unigram"]))
    configure(folder, tokenizer_class="XLMRobertaTokenizer")
    return Both(load_tokenizer(folder), oracle(folder))


@quick
@given(anything, anything)
def test_xlm_roberta_as_in_transformers(xlmr: Both, first: str, second: str) -> None:
    ours, theirs = xlmr.ours, xlmr.theirs
    assert ids(ours, first) == theirs(first)["input_ids"]
    short = theirs(first, truncation=True, max_length=7)["input_ids"]
    assert ids(ours, first, max_length=7) == short
    pair = ours.encode_pairs([(first, second)], max_length=10**6).batch
    assert [pair.ids.tolist()] == theirs([first], [second])["input_ids"]


def test_layout_of_xlm_roberta(xlmr: Both) -> None:
    tokenizer = xlmr.ours
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    expected = [0, 1, 2, 3, tokenizer.vocabulary_size - 1]
    assert [tokenizer.token_id(name) for name in names] == expected
    assert tokenizer.special_ids == {0, 1, 2, 3}
    assert tokenizer.decode(ids(tokenizer, "the cat")[1:-1]) == "the cat"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, "<s> ▁the"),
        ({"add_eos_token": True}, "<s> ▁the </s>"),
        ({"add_bos_token": False}, "▁the"),
    ],
)
def test_mistral_from_sentencepiece(
    tmp_path: Path, config: dict[str, object], expected: str
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(trained(**KINDS["llama"]))
    configure(tmp_path, tokenizer_class="LlamaTokenizer", **config)
    tokenizer = load_tokenizer(tmp_path)
    assert " ".join(map(tokenizer.token, ids(tokenizer, "the"))) == expected
    mixed = tokenizer.encode(["é 🙂"], max_length=50).batch.ids.tolist()
    assert tokenizer.backend.decode(mixed) == "é 🙂"


def test_llama_as_in_transformers(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(trained(**KINDS["llama"]))
    configure(tmp_path, tokenizer_class="LlamaTokenizer", add_bos_token=True)
    theirs = oracle(tmp_path)
    ours = load_tokenizer(tmp_path)
    for text in ("the capital of china", "naïve  北京 🙂", "a\nb\tc", "quick_sorting(algorithms)"):
        assert ids(ours, text) == theirs(text)["input_ids"]


def test_t5_from_sentencepiece(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(trained(**KINDS["unigram"]))
    configure(tmp_path, tokenizer_class="T5Tokenizer")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.token(ids(tokenizer, "the cat")[-1]) == "</s>"
    assert len(ids(tokenizer, "")) == 1


def test_merges_are_rebuilt_from_scores() -> None:
    listed = [("<unk>", 0.0, 2), ("abc", -1.0, 1), ("ab", 0.0, 1), ("bc", -2.0, 1)]
    listed += [("a", -9.0, 1), ("b", -9.0, 1), ("c", -9.0, 1), ("ca", -3.0, 5)]
    merges = merges_by_score(tuple(VocabularyPiece(*piece) for piece in listed))
    assert merges == [("a", "b"), ("ab", "c"), ("a", "bc"), ("b", "c")]


@pytest.mark.parametrize(
    ("name", "config", "options", "expected"),
    [
        ("spiece.model", {"tokenizer_class": "CamembertTokenizer"}, {}, "kind 'Camembert'"),
        ("sentencepiece.bpe.model", {}, {}, "kind 'unknown'"),
        ("spiece.model", {}, {"model_type": "char"}, "of kind 4"),
        ("spiece.model", {}, {"treat_whitespace_as_suffix": True}, "whitespace_as_suffix=True"),
        (
            "sentencepiece.bpe.model",
            {"tokenizer_class": "XLMRobertaTokenizer"},
            {"pad_id": 3},
            "has ['<pad>'] later; expected <unk>, <s>, </s>",
        ),
    ],
)
def test_unknown_kinds_are_refused(
    tmp_path: Path, name: str, config: dict[str, object], options: dict[str, Any], expected: str
) -> None:
    (tmp_path / name).write_bytes(trained(vocab_size=120, **options))
    configure(tmp_path, **config)
    assert expected in message_of(tmp_path)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "it has no pieces"),
        (b"\x0b", "wire type 3"),
        (b"\xff" * 20, "does not end"),
        (b"\x0a\x05abc", "has 5 bytes, 3 remain"),
        (b"\x0a\x03\x0a\x01\xff", "invalid start byte"),
        (b"\x0a\x03\x0a\x01a", "0 unknown pieces"),
        (b"\x0a\x05\x0a\x01a\x18\x02" * 2, "2 unknown pieces"),
        (b"\x0a\x05\x0a\x01a\x18\x02\x0a\x03\x0a\x01a", "'a', is there twice"),
        (b"\x0a\x05\x0a\x01a\x18\x09", "piece 0 is broken"),
        (b"\x0a\x08\x0a\x01a\x15\x00\x00\xc0\x7f", "score nan"),
        (b"\x0a\x03\x10\x01\x0a", "expected bytes"),
    ],
)
def test_broken_sentencepiece(tmp_path: Path, data: bytes, expected: str) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        read_sentencepiece(path)
    assert expected in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("save", ["sentencepiece", "json"])
def test_damaged_files_never_crash(tmp_path: Path, save: str) -> None:
    chance = random.Random(1)
    if save == "json":
        save_unigram(tmp_path)
        path = tmp_path / "tokenizer.json"
    else:
        path = tmp_path / "tokenizer.model"
        path.write_bytes(trained(**KINDS["bpe"]))
    whole = path.read_bytes()
    for _ in range(60):
        damaged = bytearray(
            whole[: chance.randrange(len(whole))] if chance.random() < 0.3 else whole
        )
        for _ in range(chance.randrange(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            load_tokenizer(tmp_path).encode(["the cat é"], max_length=64)
        except OpenGTEError as error:
            assert str(tmp_path) in str(error) or "vocabulary" in str(error)


def write_bpe(folder: Path, listed: dict[str, dict[str, object]], **config: object) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate(alphabet)}
    merges = {(w[:i], w[i]): None for word in WORDS for w in ["Ġ" + word] for i in range(1, len(w))}
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    for name in ("<s>", "<pad>", "</s>", "<unk>", "<mask>"):
        vocab.setdefault(name, len(vocab))
    (folder / "vocab.json").write_text(json.dumps(vocab))
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    decoder = {str(len(vocab) + i): token for i, token in enumerate(listed.values())}
    configure(folder, added_tokens_decoder=decoder, **config)


QWEN_ADDED: dict[str, dict[str, object]] = {
    name: {"content": name, "special": True, "normalized": False, "lstrip": False, "rstrip": False}
    for name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
}


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("qwen")
    write_bpe(folder, QWEN_ADDED, tokenizer_class="Qwen2Tokenizer", eos_token="<|endoftext|>")
    return Both(load_tokenizer(folder), oracle(folder))


@quick
@given(st.one_of(anything, st.sampled_from(["a<|im_end|>b", "I'll 12\n\n 3", "   x"])))
def test_qwen2_as_in_transformers(qwen: Both, text: str) -> None:
    ours, theirs = qwen.ours, qwen.theirs
    expected = theirs(text)["input_ids"] or [theirs.eos_token_id]  # a vector needs one token
    assert ids(ours, text) == expected


@quick
@given(anything, st.integers(1, 12))
def test_cutting_as_qwen2_splits_changes_no_id(qwen: Both, text: str, piece: int) -> None:
    library = qwen.ours.backend
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "PIECE", piece)
        cut = backend.encode_texts(library, [text], backend.cut_pattern(library))
    assert backend.cut_pattern(library) is not None
    assert cut.ids.tolist() == library.encode(text, add_special_tokens=False).ids


def test_roberta_from_vocab_json(tmp_path: Path) -> None:
    write_bpe(tmp_path, {}, tokenizer_class="RobertaTokenizer")
    ours = load_tokenizer(tmp_path)
    theirs = oracle(tmp_path)
    for text in ("the cat sat", "naïve 北京", "", " a  b"):
        assert ids(ours, text) == theirs(text)["input_ids"]
        pair = ours.encode_pairs([(text, "the")], max_length=99).batch
        assert pair.ids.tolist() == theirs(text, "the")["input_ids"]


def corrupt_merges(folder: Path) -> None:
    (folder / "merges.txt").write_text("#version: 0.2\nĠ t\nthree words here\n")


def corrupt_vocabulary(folder: Path) -> None:
    (folder / "vocab.json").write_text('{"a": "b"}')


def misplace_added(folder: Path) -> None:
    (folder / "added_tokens.json").write_text('{"<|late|>": 9999}')


def misname_added(folder: Path) -> None:
    (folder / "added_tokens.json").write_text('{"<|late|>": null}')


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (corrupt_merges, "merges.txt line 3 is 'three words here'"),
        (corrupt_vocabulary, "vocab.json gives 'a' the id 'b'"),
        (misplace_added, "'<|late|>' as id 9999, but by its place"),
        (misname_added, "added_tokens.json gives an added token the id None"),
        (lambda folder: (folder / "merges.txt").unlink(), "merges.txt cannot be read"),
        (
            lambda folder: configure(
                folder, tokenizer_class="Qwen2Tokenizer", added_tokens_decoder=[3]
            ),
            "added_tokens_decoder that does not map",
        ),
    ],
)
def test_broken_byte_level_bpe(
    tmp_path: Path, damage: Callable[[Path], object], expected: str
) -> None:
    write_bpe(tmp_path, QWEN_ADDED, tokenizer_class="Qwen2Tokenizer")
    damage(tmp_path)
    assert expected in message_of(tmp_path)


def test_kind_from_config_json(tmp_path: Path) -> None:
    write_bpe(tmp_path, QWEN_ADDED, tokenizer_class="PreTrainedTokenizerFast")
    assert "kind 'unknown'" in message_of(tmp_path, UnsupportedModelError)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    assert load_tokenizer(tmp_path).token_id("<|im_end|>") is not None
