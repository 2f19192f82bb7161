"""The façade: roles, prompts, order, duplicates, truncation, dimensions, threads, errors."""

import threading
import warnings

import numpy as np
import pytest

from opengte import Encoder, Reranker
from opengte.errors import (
    CapabilityError,
    CheckpointError,
    DimensionWarning,
    EngineError,
    InputError,
    TruncationError,
    TruncationWarning,
)
from tests.parity.families import FAMILIES
from tests.support import checkpoints

TEXTS = ["the cat sat", "a dog", "", "   ", "the cat sat on the mat and the dog " * 9, "mat", "\0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    folder.mkdir()
    FAMILIES["bert"](folder)
    return folder


@pytest.fixture(scope="module")
def encoder(folder):
    return Encoder.load(folder, engine="torch", device="cpu", threads=1)


@pytest.fixture(scope="module")
def instructed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-qwen2"
    folder.mkdir()
    FAMILIES["qwen2"](folder)
    prompts = {"query": "Instruct: find the passage\nQuery: "}
    checkpoints.add_modules(folder, "last", prompts=prompts)
    return Encoder.load(folder, engine="torch", threads=1)


def test_vectors_are_unit_length_float32_in_input_order(encoder):
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == np.float32 and vectors.shape == (len(TEXTS), 48)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    for text, vector in zip(TEXTS, vectors, strict=True):
        np.testing.assert_allclose(encoder.encode(text), vector, atol=1e-6)


def test_mixed_batch_alone_and_reordered_agree(encoder):
    generator = np.random.default_rng(0)
    words = ["the", "cat", "sat", "on", "mat", "dog", "a"]
    texts = [" ".join(generator.choice(words, n)) for n in generator.integers(1, 200, 64)]
    together = encoder.encode(texts)
    order = generator.permutation(64)
    np.testing.assert_allclose(
        encoder.encode([texts[i] for i in order]), together[order], atol=1e-6
    )
    alone = np.stack([encoder.encode(text) for text in texts])
    np.testing.assert_allclose(alone, together, atol=1e-6)


def test_a_single_string_gives_a_single_vector(encoder):
    assert encoder.encode("a dog").shape == (48,)
    assert encoder.encode(["a dog"]).shape == (1, 48)
    assert encoder.encode([]).shape == (0, 48)
    assert len(encoder.embed([], outputs=("dense", "states")).states) == 0


def test_duplicates_are_computed_once(encoder):
    before = encoder.counters
    result = encoder.embed(["a dog", "the cat", "a dog", "a dog"])
    after = encoder.counters
    assert np.array_equal(result.dense[0], result.dense[2])
    assert after.duplicates - before.duplicates == 2
    assert after.texts - before.texts == 4
    assert after.tokens - before.tokens == result.token_counts[:2].sum()


def test_iterators_are_streamed_in_windows(encoder):
    seen = []

    def texts():
        for i in range(10):
            seen.append(i)
            yield f"cat {i}"

    stream = encoder.stream(texts(), window=4)
    first = next(stream)
    assert len(first) == 4 and len(seen) <= 5  # one text ahead, to know where a window ends
    rest = list(stream)
    assert [len(part) for part in rest] == [4, 2]
    together = np.concatenate([part.dense for part in (first, *rest)])
    whole = encoder.encode([f"cat {i}" for i in range(10)])
    np.testing.assert_allclose(together, whole, atol=1e-6)


def test_records_of_a_stream_count_from_its_start(encoder):
    long = "cat " * 600
    parts = list(encoder.stream(["a", "b", "c", long, "\ud800"], window=2))
    assert [r.index for part in parts for r in part.truncated] == [3]
    assert [index for part in parts for index in part.repaired] == [4]


def test_truncation_is_reported_with_index_found_and_kept(encoder):
    long = "cat " * 600
    result = encoder.embed(["a", long, "b", long])
    assert [(r.index, r.found, r.kept) for r in result.truncated] == [(1, 602, 512), (3, 602, 512)]
    with pytest.warns(TruncationWarning, match="1 of 2 texts lost tokens beyond max_length = 512"):
        encoder.encode(["a", long])
    with pytest.raises(TruncationError, match=r"2 texts are longer .*: 1 \(602 tokens\), 2 \(602"):
        encoder.embed(["a", long, long], truncation="error")
    left = encoder.embed(["dog " + long], truncation="left")
    np.testing.assert_allclose(left.dense, encoder.embed(["cat " * 510]).dense, atol=1e-6)


def test_max_length_shortens_what_the_model_reads(folder, encoder):
    short = Encoder.load(folder, engine="torch", max_length=5)
    assert short.card.max_length == 5
    assert short.card.fingerprint != encoder.card.fingerprint
    found = short.embed(["the cat sat on the mat"])
    found_tokens = encoder.tokenizer.count(["the cat sat on the mat"])[0]
    assert [(r.found, r.kept) for r in found.truncated] == [(found_tokens, 5)]
    np.testing.assert_allclose(found.dense, encoder.embed(["the cat sat"]).dense, atol=1e-6)
    with pytest.raises(InputError, match="max_length is 513, expected 1 to 512"):
        Encoder.load(folder, engine="torch", max_length=513)


def test_dimensions_cut_and_renormalise_with_a_warning(encoder):
    with pytest.warns(DimensionWarning, match="was not trained for vectors cut to 8 dimensions"):
        cut = encoder.encode(["the cat"], dimensions=8)
    whole = encoder.encode(["the cat"])[:, :8]
    np.testing.assert_allclose(cut, whole / np.linalg.norm(whole), atol=1e-6)
    assert encoder.encode(["the cat"], dimensions=48).shape == (1, 48)
    for wrong in (0, 49, -1, 7.5):
        with pytest.raises(InputError, match=r"dimensions is .*, expected 1 to 48"):
            encoder.encode(["the cat"], dimensions=wrong)


@pytest.mark.parametrize(("wrong", "kind"), [(None, "NoneType"), (3, "int"), (b"a", "bytes")])
def test_what_is_not_a_string_is_named(encoder, wrong, kind):
    with pytest.raises(InputError, match=rf"texts\[1\] is of type {kind}, expected a string"):
        encoder.encode(["a", wrong])


def test_unknown_arguments_say_what_was_expected(encoder):
    with pytest.raises(CapabilityError, match=r"'sparse', which .* expected among dense, states"):
        encoder.embed(["a"], outputs=("sparse",))
    with pytest.raises(InputError, match="truncation is 'middle', expected right, left or error"):
        encoder.embed(["a"], truncation="middle")
    with pytest.raises(InputError, match="outputs is empty"):
        encoder.embed(["a"], outputs=())
    with pytest.raises(CapabilityError, match="takes none"):
        encoder.encode_query(["a"], instruction="find it")
    with pytest.raises(InputError, match="window is 0"):
        next(encoder.stream(["a"], window=0))


def test_unknown_engines_and_precisions_say_what_was_expected(folder):
    with pytest.raises(EngineError, match="engine is 'fast', expected one of auto"):
        Encoder.load(folder, engine="fast")
    with pytest.raises(EngineError, match="precision is 'int4'"):
        Encoder.load(folder, engine="torch", precision="int4")
    with pytest.raises(EngineError, match="threads is 0, expected at least 1"):
        Encoder.load(folder, engine="torch", threads=0)
    with pytest.raises(EngineError, match="device is 'tpu'"):
        Encoder.load(folder, engine="torch", device="tpu")


def test_similarity_is_the_cosine(encoder):
    a, b = np.array([[1, 0], [1, 1]]), np.array([[0, 2], [3, 0]])
    half = 1 / np.sqrt(2)
    np.testing.assert_allclose(encoder.similarity(a, b), [[0, 1], [half, half]], atol=1e-6)
    with pytest.raises(InputError, match="a has vectors of 2 dimensions and b of 3"):
        encoder.similarity(a, np.ones((1, 3)))
    with pytest.raises(InputError, match=r"a has shape \(1, 1, 1\)"):
        encoder.similarity(np.ones((1, 1, 1)), b)


def test_states_are_those_of_each_text(encoder):
    result = encoder.embed(["the cat", "a dog sat"], outputs=("dense", "states"))
    assert [len(s) for s in result.states] == result.token_counts.tolist() == [4, 5]
    means = np.stack([s.mean(axis=0) for s in result.states])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(result.dense, means, atol=1e-6)


def test_several_threads_get_their_own_results(encoder):
    texts = [f"the cat {'sat ' * i}" for i in range(8)]
    expected = encoder.encode(texts)
    found = [None] * 8
    workers = [
        threading.Thread(target=lambda i=i: found.__setitem__(i, encoder.encode(texts[i])))
        for i in range(8)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    np.testing.assert_allclose(np.stack(found), expected, atol=1e-6)


def test_the_instruction_is_on_the_query_side_only(instructed):
    assert instructed.card.instruction_template == "Instruct: {instruction}\nQuery: "
    assert instructed.card.default_instruction == "find the passage"
    raw = instructed.encode("Instruct: find the passage\nQuery: cat")
    np.testing.assert_allclose(instructed.encode_query("cat"), raw, atol=1e-6)
    np.testing.assert_allclose(
        instructed.encode_document("cat"), instructed.encode("cat"), atol=1e-6
    )
    other = instructed.encode("Instruct: do it\nQuery: cat")
    for ask in (instructed.encode_query, instructed.encode):
        np.testing.assert_allclose(ask("cat", instruction="do it"), other, atol=1e-6)
    with pytest.raises(InputError, match="query side only"):
        instructed.embed(["cat"], role="document", instruction="do it")


def test_a_missing_instruction_is_counted(instructed):
    before = instructed.counters.missing_instructions
    instructed.encode_query(["cat", "dog"])
    instructed.encode_query(["cat"], instruction="do it")
    instructed.encode_document(["cat"])
    assert instructed.counters.missing_instructions == before + 2


def test_the_card_says_what_runs(encoder, folder):
    card = encoder.card
    assert (card.engine, card.precision, card.device, card.threads) == ("torch", "fp32", "cpu", 1)
    assert (card.pooling, card.dimension, card.max_length, card.layers) == ("mean", 48, 512, 2)
    assert card.parameters > 10_000 and card.stored_dtype == "fp32"
    assert card.source == f"folder {folder}"
    assert "tiny-bert: bert, torch fp32" in repr(encoder)


def test_sparse_and_token_vectors_leave_special_tokens_out(tmp_path):
    from transformers import XLMRobertaConfig, XLMRobertaModel

    config = XLMRobertaConfig(
        vocab_size=checkpoints.VOCABULARY,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        type_vocab_size=1,
    )
    checkpoints.transformers_model(tmp_path, XLMRobertaModel(config), pooling="cls")
    checkpoints.add_m3_heads(tmp_path, 16, 16)
    encoder = Encoder.load(tmp_path, engine="torch", threads=1)
    assert encoder.card.outputs == ("dense", "sparse", "tokens", "states")
    result = encoder.embed(["the cat the cat", "dog"], outputs=encoder.card.outputs)
    special = encoder.tokenizer.special_ids
    for weights, vectors, count in zip(
        result.sparse, result.tokens, result.token_counts, strict=True
    ):
        assert all(weight > 0 for weight in weights.values()) and not special & set(weights)
        assert vectors.shape == (count - 1, 16)  # all but <s>
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.fixture(scope="module")
def reranker_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    checkpoints.new_model(folder, architectures=["NewForSequenceClassification"], num_labels=1)
    return folder


def test_reranker_scores_and_ranks(reranker_folder):
    reranker = Reranker.load(reranker_folder, engine="torch", threads=1)
    documents = ["the cat sat", "a dog", "the cat sat", "mat " * 50]
    scores = reranker.score("the cat", documents)
    assert scores.shape == (4,) and scores.dtype == np.float32 and scores[0] == scores[2]
    single = [reranker.score("the cat", [text])[0] for text in documents]
    np.testing.assert_allclose(scores, single, atol=1e-5)
    ranked = reranker.rank("the cat", documents)
    assert [r.score for r in ranked] == sorted(scores.tolist(), reverse=True)
    assert [documents[r.index] for r in ranked] == [r.text for r in ranked]
    assert len(reranker.rank("the cat", documents, top_k=2)) == 2
    assert reranker.score("the cat", []).shape == (0,)
    assert reranker.card.kind == "reranker" and reranker.card.dimension == 1


def test_reranker_errors(reranker_folder, folder):
    reranker = Reranker.load(reranker_folder, engine="torch", threads=1)
    with pytest.raises(InputError, match="top_k is 0"):
        reranker.rank("a", ["b"], top_k=0)
    with pytest.raises(InputError, match="documents is a single string"):
        reranker.score("a", "b")
    with pytest.raises(InputError, match="query is of type NoneType"):
        reranker.score(None, ["b"])
    with pytest.raises(CapabilityError, match="takes no instructions"):
        reranker.score("a", ["b"], instruction="judge")
    with pytest.raises(CheckpointError, match=r"is a reranker, not an encoder. Use Reranker"):
        Encoder.load(reranker_folder, engine="torch")
    with pytest.raises(CheckpointError, match="is not a reranker"):
        Reranker.load(folder, engine="torch")
    with pytest.warns(TruncationWarning, match="1 of 1 pairs lost tokens"):
        Reranker.load(reranker_folder, engine="torch", max_length=8).score("a", ["cat " * 50])


def test_no_warning_where_nothing_was_lost(encoder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode(["a cat"])
