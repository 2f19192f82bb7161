"""Plans of published configurations have as many weights as the published files, to the unit."""

import pytest

from opengte.arch import plan_of
from opengte.arch.plan import Rope
from tests.support.published_configs import CONFIGS


def _bert_pooler(width):
    """Weights of the dense layer that BERT files carry and no embedder uses."""
    return width * width + width


# Published totals that are what the plan uses.
EXACT = {
    "Alibaba-NLP/gte-base-en-v1.5": 136_776_192,
    "Alibaba-NLP/gte-large-en-v1.5": 434_139_136,
    "Alibaba-NLP/gte-multilingual-reranker-base": 305_959_681,  # with its tanh pooler
    "Alibaba-NLP/gte-modernbert-base": 149_014_272,
    "Alibaba-NLP/gte-Qwen1.5-7B-instruct": 7_098_994_688,  # without lm_head, like the next two
    "Alibaba-NLP/gte-Qwen2-1.5B-instruct": 1_543_268_864,
    "Alibaba-NLP/gte-Qwen2-7B-instruct": 7_069_121_024,
    "distilbert/distilbert-base-uncased": 66_362_880,
    "nomic-ai/nomic-embed-text-v1.5": 136_731_648,
    "google/embeddinggemma-300m": 302_863_104,  # without its two projections
    "sentence-transformers/gtr-t5-base": 109_628_544,  # without its projection
    "nvidia/llama-embed-nemotron-8b": 7_504_924_672,  # Llama 3.1 8B without lm_head
    "Qwen/Qwen3-Embedding-0.6B": 595_776_512,  # lm_head is the word embedding, like the next two
    "Qwen/Qwen3-Embedding-4B": 4_021_774_336,
    "Qwen/Qwen3-Embedding-8B": 7_567_295_488,
}

# Published totals that include BERT's pooler.
WITH_POOLER = {
    "sentence-transformers/all-mpnet-base-v2": 109_486_464,
    "thenlper/gte-small": 33_360_000,  # the Hub shows 512 more: the buffer position_ids
    "thenlper/gte-base": 109_482_240,
    "thenlper/gte-large": 335_141_888,
    "thenlper/gte-small-zh": 30_258_688,
    "thenlper/gte-base-zh": 102_267_648,
    "thenlper/gte-large-zh": 325_522_432,
}


@pytest.mark.parametrize("name", EXACT)
def test_plan_has_the_published_number_of_weights(name):
    assert plan_of(CONFIGS[name]).parameters == EXACT[name]


@pytest.mark.parametrize("name", WITH_POOLER)
def test_plan_and_pooler_have_the_published_number_of_weights(name):
    plan = plan_of(CONFIGS[name])
    assert plan.parameters + _bert_pooler(plan.width) == WITH_POOLER[name]


def test_multilingual_base_is_its_encoder_and_a_sparse_head():
    plan = plan_of(CONFIGS["Alibaba-NLP/gte-multilingual-base"])
    sparse_head = plan.width + 1
    assert plan.parameters == 305_368_320 + sparse_head


def test_nv_embed_has_7_85_billion_weights():
    assert round(plan_of(CONFIGS["nvidia/NV-Embed-v1"]).parameters / 1e9, 2) == 7.85


# width, most tokens a text may have, causal: the rest of the fact sheet's tables.
SHAPES = {
    "thenlper/gte-small": (384, 512, False),
    "thenlper/gte-small-zh": (512, 512, False),
    "BAAI/bge-m3": (1024, 8192, False),  # 8194 positions, of which XLM-R never uses two
    "BAAI/bge-reranker-base": (768, 512, False),
    "Alibaba-NLP/gte-multilingual-base": (768, 8192, False),
    "Alibaba-NLP/gte-modernbert-base": (768, 8192, False),
    "Alibaba-NLP/gte-Qwen2-1.5B-instruct": (1536, 131072, False),
    "Alibaba-NLP/gte-Qwen2-7B-instruct": (3584, 131072, False),
    "Qwen/Qwen3-Embedding-0.6B": (1024, 32768, True),
    "intfloat/e5-mistral-7b-instruct": (4096, 32768, True),
    "nvidia/NV-Embed-v1": (4096, 32768, False),
}


@pytest.mark.parametrize("name", SHAPES)
def test_width_length_and_direction(name):
    plan = plan_of(CONFIGS[name])
    causal = {layer.attention.causal for layer in plan.layers}
    width, length, is_causal = SHAPES[name]
    assert (plan.dimension, plan.max_positions, causal) == (width, length, {is_causal})


def _frequencies(name):
    attention = plan_of(CONFIGS[name]).layers[0].attention
    assert attention.rope is not None
    return attention.rope.inverse_frequencies(attention.head_dim)


# The fact sheet's numeric checks of the fixed NTK scaling (section 2.4), head dimension 64.
@pytest.mark.parametrize(
    ("name", "first", "second", "last"),
    [
        ("Alibaba-NLP/gte-multilingual-base", 0.93708, 0.64439, 8.517e-6),
        ("Alibaba-NLP/gte-large-en-v1.5", 0.97857, 0.65850, 4.544e-6),
    ],
)
def test_ntk_frequencies(name, first, second, last):
    found = _frequencies(name)
    assert len(found) == 32
    assert found[0] == pytest.approx(first, abs=5e-6)
    assert found[1] == pytest.approx(second, abs=5e-6)
    assert found[31] == pytest.approx(last, abs=5e-10)


def test_unscaled_frequencies():
    found = _frequencies("Alibaba-NLP/gte-base-en-v1.5")
    assert found[0] == 1.0
    assert found[31] == pytest.approx(500000 ** (-62 / 64))


def test_modernbert_alternates_global_and_local_layers():
    plan = plan_of(CONFIGS["Alibaba-NLP/gte-modernbert-base"])
    found = [(layer.attention.window, layer.attention.rope) for layer in plan.layers]
    whole, local = (None, Rope(160000.0)), (64, Rope(10000.0))
    assert found == [local if i % 3 else whole for i in range(22)]
    assert [layer.attention_norm is None for layer in plan.layers] == [True] + [False] * 21
