"""The service's answers are the encoder's, bit for bit, whatever the request looks like."""

import asyncio
import dataclasses
import random

import numpy as np
import pytest

from opengte import Encoder, Reranker
from opengte.errors import (
    CapabilityError,
    InputError,
    NotReadyError,
    TruncationError,
    UnknownModelError,
)
from opengte.serve.config.inference import CacheSettings, ModelSettings
from opengte.serve.inference.service import InferenceService
from opengte.serve.types import EmbedRequest, ScoreRequest
from tests.parity.families import FAMILIES
from tests.support import checkpoints
from tests.support.inference import MODEL, CountingObserver, call, embed, running

TEXTS = (
    "what do cats eat",
    "",
    "a dog",
    "a dog",
    "the cat sat on the mat " * 100,
    "caf\u00e9 \ud800",
)


@pytest.fixture(scope="module")
def encoder():
    return Encoder.load("minilm", engine="native", precision="fp32")


@pytest.fixture(scope="module")
def instructed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-qwen2"
    folder.mkdir()
    FAMILIES["qwen2"](folder)
    prompts = {"query": "Instruct: find the passage\nQuery: ", "odd": "odd: "}
    checkpoints.add_modules(folder, "last", prompts=prompts)
    return folder


def same(found, expected):
    assert found.token_counts == expected.token_counts.tolist()
    assert found.truncated == expected.truncated
    for name in ("dense", "states", "tokens"):
        values = getattr(expected, name)
        if values is not None:
            for one, other in zip(getattr(found, name), values, strict=True):
                assert one.dtype == np.float32
                np.testing.assert_array_equal(one, other)
    if expected.sparse is not None:
        assert tuple(found.sparse) == expected.sparse


@pytest.mark.parametrize("cache", [None, CacheSettings()])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"role": "query"},
        {"truncation": "left"},
        {"dimensions": 100},
        {"outputs": ("dense", "states")},
    ],
)
@pytest.mark.filterwarnings("ignore::opengte.errors.DimensionWarning")
def test_answers_are_those_of_the_encoder(encoder, arguments, cache):
    async def main():
        async with running(cache=cache) as core:
            return [await embed(core, *TEXTS, **arguments) for _ in range(2)]

    for answer in asyncio.run(main()):
        same(answer, encoder.embed(TEXTS, **arguments))


def test_one_text_and_very_many_are_alike(encoder):
    rng = random.Random(0)
    words = "the cat sat on a mat and looked at dogs".split()
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 60))) for _ in range(700)]

    async def main():
        async with running() as core:
            whole = await embed(core, *texts, priority="bulk")
            alone = await asyncio.gather(*(embed(core, text) for text in texts[:40]))
            return whole, alone

    whole, alone = asyncio.run(main())
    expected = encoder.embed(texts)
    same(whole, expected)
    for i, answer in enumerate(alone):
        np.testing.assert_array_equal(answer.dense[0], expected.dense[i])
    assert whole.timing.computing > 0 and whole.timing.tokenizing > 0


def test_vectors_as_the_engine_gave_them(encoder):
    async def main():
        async with running() as core:
            plain = await embed(core, "a dog", "a cat", normalize=False)
            return plain, await embed(core, "a dog", "a cat")

    plain, unit = asyncio.run(main())
    for one, other in zip(plain.dense, unit.dense, strict=True):
        assert abs(np.linalg.norm(one) - 1) > 1e-3
        np.testing.assert_allclose(one / np.linalg.norm(one), other, atol=1e-6)


def test_requests_of_different_kinds_share_batches(encoder):
    async def main():
        async with running() as core:
            return await asyncio.gather(
                embed(core, "a dog", dimensions=10),
                embed(core, "a dog", normalize=False),
                embed(core, "a cat", outputs=("states",)),
                *(embed(core, f"text {i}") for i in range(20)),
            )

    cut, plain, states, *others = asyncio.run(main())
    assert cut.dense[0].shape == (10,)
    expected = encoder.embed(["a dog", "a cat"], outputs=("dense", "states"))
    np.testing.assert_allclose(
        plain.dense[0] / np.linalg.norm(plain.dense[0]), expected.dense[0], atol=1e-6
    )
    assert states.dense is None
    np.testing.assert_array_equal(states.states[0], expected.states[1])
    for i, answer in enumerate(others):
        np.testing.assert_array_equal(answer.dense[0], encoder.encode(f"text {i}"))


def test_token_ids_of_the_model_are_texts(encoder):
    ids = encoder.tokenizer.encode(["what do cats eat"], max_length=256).batch.ids.tolist()
    long = tuple(encoder.tokenizer.encode([TEXTS[4]], max_length=9999).batch.ids.tolist())

    async def main():
        async with running() as core:
            return (
                await embed(core, tuple(ids), tuple(ids[1:-1]), "what do cats eat"),
                await embed(core, long, truncation="left"),
                await embed(core, long),
            )

    answer, left, right = asyncio.run(main())
    for vector in answer.dense:
        np.testing.assert_array_equal(vector, encoder.encode("what do cats eat"))
    same(left, encoder.embed([TEXTS[4]], truncation="left"))
    same(right, encoder.embed([TEXTS[4]]))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ((), "is empty"),
        ((3, 30522), r"token id 30522 is not one of this model's: expected 0 to 30521"),
        ((-1,), "token id -1"),
        ((1.5,), "1.5, expected a whole number"),
        ((True,), "True, expected a whole number"),
    ],
)
def test_token_ids_that_are_not_the_models_are_refused(ids, message):
    async def main():
        async with running() as core:
            with pytest.raises(InputError, match=message):
                await embed(core, ids)
            answer = await embed(core, "a dog", ids, partial=True)
            assert [failure.index for failure in answer.failures] == [1]
            assert answer.dense[0] is not None and answer.dense[1] is None
            assert answer.token_counts == [4, 0]

    asyncio.run(main())


def test_too_long_is_an_error_where_asked(encoder):
    async def main():
        async with running(observer=(seen := CountingObserver())) as core:
            with pytest.raises(TruncationError, match=r"inputs\[2\]: .* has 602 tokens"):
                await embed(core, "a dog", "a dog", TEXTS[4], truncation="error")
            both = await asyncio.gather(
                embed(core, TEXTS[4], "a cat", truncation="error", partial=True),
                embed(core, TEXTS[4], "a cat"),
            )
            again = await embed(core, TEXTS[4], "a cat", truncation="error", partial=True)
            return *both, again, seen

    strict, lenient, again, seen = asyncio.run(main())
    for answer in (strict, again):
        (failure,) = answer.failures
        assert failure.index == 0 and isinstance(failure.error, TruncationError)
        np.testing.assert_array_equal(answer.dense[1], encoder.encode("a cat"))
        assert answer.dense[0] is None and not answer.truncated
    assert [(r.index, r.found, r.kept) for r in lenient.truncated] == [(0, 602, 256)]
    assert seen.counts["truncated"] == 1 and seen.counts["failed_input"] == 2


def test_instructions_roles_and_named_prompts(instructed):
    expected = Encoder.load(instructed, engine="native", precision="fp32")
    settings = ModelSettings(str(instructed), name="tiny", precision="fp32")

    async def main():
        async with running(settings, observer=(seen := CountingObserver())) as core:
            found = [
                await embed(core, "a dog", role="query", instruction="find dogs"),
                await embed(core, "a dog", role="query"),
                await embed(core, "a dog", prompt_name="query"),
                await embed(core, "a dog", role="document"),
                await embed(core, "a dog", prompt_name="odd"),
                await embed(core, "odd: a dog"),
            ]
            with pytest.raises(InputError, match="'nope', and the prompts of .* are 'query'"):
                await embed(core, "a dog", prompt_name="nope")
            with pytest.raises(InputError, match="both instruction and prompt_name"):
                await embed(core, "a dog", prompt_name="odd", instruction="x")
            return [answer.dense[0] for answer in found], seen

    (named, query, by_name, document, odd, spelled), seen = asyncio.run(main())
    np.testing.assert_array_equal(named, expected.encode_query("a dog", instruction="find dogs"))
    np.testing.assert_array_equal(query, expected.encode_query("a dog"))
    np.testing.assert_array_equal(by_name, query)
    np.testing.assert_array_equal(document, expected.encode_document("a dog"))
    np.testing.assert_array_equal(odd, spelled)
    assert seen.counts["missing_instruction"] == 1


# --- rerankers ---


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-reranker"
    folder.mkdir()
    from transformers import BertConfig, BertForSequenceClassification

    from tests.parity.families import ENCODER

    config = BertConfig(**ENCODER, num_labels=1)
    checkpoints.transformers_model(folder, BertForSequenceClassification(config), pooling=None)
    return folder


PAIRS = (
    ("what do cats eat", "cats eat the mat"),
    ("what do cats eat", "a dog"),
    ("a dog", "cats eat the mat"),
    ("what do cats eat", "a dog"),
)


def test_scores_are_those_of_the_reranker(reranker):
    expected = Reranker.load(reranker, engine="native", precision="fp32")
    settings = ModelSettings(str(reranker), name="judge", precision="fp32")

    async def main():
        async with running(MODEL, settings, cache=CacheSettings()) as core:
            raw = await core.score(ScoreRequest(None, PAIRS, sigmoid=False), call())
            unit = await core.score(ScoreRequest("judge", PAIRS), call())
            assert unit.cached == 3
            with pytest.raises(CapabilityError, match="takes none"):
                await core.score(ScoreRequest(None, PAIRS, instruction="x"), call())
            with pytest.raises(CapabilityError, match="is an encoder, and this request needs a"):
                await core.score(ScoreRequest("minilm", PAIRS), call())
            with pytest.raises(CapabilityError, match="`judge` is a reranker"):
                await core.embed(EmbedRequest("judge", ("a",)), call())
            assert (await embed(core, "a dog")).model.name == "minilm"
            await core.check()
            return raw, unit

    raw, unit = asyncio.run(main())
    for (query, text), found, probability in zip(PAIRS, raw.scores, unit.scores, strict=True):
        score = float(expected.score(query, [text])[0])
        assert found == score
        assert probability == pytest.approx(1 / (1 + np.exp(-score)))


def test_documents_of_pairs_are_cut_where_asked(reranker):
    settings = ModelSettings(str(reranker), name="judge", precision="fp32")
    long = "the cat sat on the mat and the dog"

    async def main():
        async with running(settings) as core:

            async def score(document, **arguments):
                request = ScoreRequest(None, (("a dog", document),), **arguments)
                return await core.score(request, call())

            cut = await score(long, max_document_tokens=3)
            left = await score(long, max_document_tokens=3, truncation="left")
            assert cut.scores == (await score("the cat sat")).scores
            assert left.scores == (await score("and the dog")).scores
            assert [r.kept for r in cut.truncated] == cut.token_counts
            with pytest.raises(TruncationError, match=r"inputs\[0\]"):
                await score(long, max_document_tokens=3, truncation="error")
            with pytest.raises(InputError, match="max_document_tokens is 0"):
                await score(long, max_document_tokens=0)

    asyncio.run(main())


# --- tokens ---


def test_tokens_with_their_places_and_back():
    async def main():
        async with running() as core:
            (tokens,) = await core.tokenize(None, ("Hello w\u00f6rld",), True, None)
            (bare,) = await core.tokenize("minilm", ("Hello",), False, None)
            text = await core.decode(None, ((101, 7592, 102), (7592,)), True)
            raw = await core.decode(None, ((101, 7592, 102),), False)
            with pytest.raises(InputError, match=r"ids\[1\]: token_id=999999"):
                await core.decode(None, ((1,), (999999,)), True)
            return tokens, bare, text, raw

    tokens, bare, text, raw = asyncio.run(main())
    assert [(t.text, t.special, t.start, t.stop) for t in tokens] == [
        ("[CLS]", True, None, None),
        ("hello", False, 0, 5),
        ("world", False, 6, 11),
        ("[SEP]", True, None, None),
    ]
    assert [t.id for t in bare] == [7592]
    assert text == ["hello", "hello"] and raw == ["[CLS] hello [SEP]"]


# --- arguments and names ---


def test_bad_arguments_say_what_was_expected():
    async def main():
        async with running() as core:
            for arguments, error, message in (
                ({"outputs": ("sparse",)}, CapabilityError, "expected among dense, states"),
                ({"outputs": ()}, InputError, "outputs is empty"),
                ({"dimensions": 385}, InputError, "dimensions is 385, expected 1 to 384"),
                ({"dimensions": float("nan")}, InputError, "dimensions is nan"),
                ({"dimensions": True}, InputError, "dimensions is True"),
                ({"truncation": "middle"}, InputError, "truncation is 'middle'"),
                ({"instruction": "find"}, CapabilityError, "takes none"),
                ({"role": "poet"}, InputError, "role='poet'"),
            ):
                with pytest.raises(error, match=message):
                    await embed(core, "a", **arguments)
            with pytest.raises(InputError, match=r"inputs\[1\] is of type NoneType"):
                await embed(core, "a", None)
            with pytest.raises(UnknownModelError, match="'gpt', and the models here are: minilm"):
                await core.embed(EmbedRequest("gpt", ("a",)), call())
            with pytest.raises(UnknownModelError, match="no reranker is served here"):
                await core.score(ScoreRequest(None, PAIRS), call())
            assert (await embed(core)).dense == []

    asyncio.run(main())


def test_names_and_aliases():
    named = dataclasses.replace(MODEL, name="small", aliases=("text-embedding-3-small",))

    async def main():
        async with running(named) as core:
            names = ("small", "Small:latest", "text-embedding-3-small", None)
            for name in (*names, "Sentence-Transformers/all-MiniLM-L6-v2"):
                answer = await core.embed(EmbedRequest(name, ("a",)), call())
                assert answer.model.name == "small"
            (status,) = core.models()
            assert status.name == "small" and status.card is not None
            assert status.card.name == "small"
            with pytest.raises(UnknownModelError):
                await core.embed(EmbedRequest("minilm", ("a",)), call())

    asyncio.run(main())
    with pytest.raises(InputError, match="two models are called 'minilm'"):
        InferenceService([MODEL, dataclasses.replace(MODEL, name="x", aliases=("minilm",))])
    with pytest.raises(InputError, match="models is empty"):
        InferenceService([])
    with pytest.raises(InputError, match="max_batch_tokens of `m` is 0"):
        ModelSettings("m", max_batch_tokens=0)


def test_before_the_start_nothing_is_ready():
    async def main():
        core = InferenceService([MODEL])
        assert core.models()[0].state == "loading"
        with pytest.raises(NotReadyError, match="is starting"):
            await embed(core, "a")
        with pytest.raises(NotReadyError, match="is starting"):
            await core.tokenize(None, ("a",), True, None)

    asyncio.run(main())
