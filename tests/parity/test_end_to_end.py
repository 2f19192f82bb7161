"""Texts through `Encoder` and `Reranker`, against the published recipe written out by hand.

A folder has the name of a published model and random weights of its architecture; its tokens come
straight from the tokenizers library, its states from an oracle.
"""

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    MistralConfig,
    MistralModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

from opengte import Encoder, Reranker
from tests.parity import oracle, packed
from tests.parity.families import DECODER, ENCODER
from tests.support import checkpoints, naive

TEXTS = ["the cat sat in the red river", "cat", "what is the capital of china?", "", "the the a"]
WEB = "Given a web search query, retrieve relevant passages that answer the query"
TASK = "Retrieve texts of the same kind"
XLM_ROBERTA = ENCODER | {"max_position_embeddings": 514, "type_vocab_size": 1}
SAME = 2e-6  # unit vectors, fp32


def _ids(folder, text, end=(), pair=None):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    encoding = tokenizer.encode(text, pair)
    return np.array([*encoding.ids, *end], dtype=np.int32)


def _token(folder, text):
    found = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(text)
    assert found is not None
    return found


def _load(folder):
    return Encoder.load(folder, engine="torch", precision="fp32", device="cpu")


def _check(found, wanted):
    packed.close(found, naive.unit(np.stack(wanted)), SAME)


# --- encoders without instructions ----------------------------------------------------------------


def _pooled(model, mode):
    return lambda ids: naive.pool(oracle.states(model, ids).astype(np.float64), mode)


BGE_EN = "Represent this sentence for searching relevant passages: "
BGE_ZH = "为这个句子生成表示以用于检索相关文章："

# name, its pooling, and what it puts before a query, a document and any other text
PLAIN = [
    ("gte-base", "mean", "", "", ""),
    ("gte-base-zh", "cls", "", "", ""),
    (
        "bge-base-en-v1.5",
        "cls",
        "Represent this sentence for searching relevant passages: ",
        "",
        "",
    ),
    ("bge-base-zh-v1.5", "cls", BGE_ZH, "", ""),
    ("e5-base-v2", "mean", "query: ", "passage: ", "query: "),
    ("all-MiniLM-L6-v2", "mean", "", "", ""),
]


@pytest.mark.parametrize("module_files", [True, False])
@pytest.mark.parametrize(("name", "pooling", "query", "document", "plain"), PLAIN)
def test_bert(tmp_path, name, pooling, query, document, plain, module_files):
    folder = tmp_path / name
    model = checkpoints.transformers_model(
        folder, BertModel(BertConfig(**ENCODER)), pooling=pooling if module_files else None
    )
    pool, encoder = _pooled(model, pooling), _load(folder)
    methods = {
        query: encoder.encode_query,
        document: encoder.encode_document,
        plain: encoder.encode,
    }
    for prompt, method in methods.items():
        _check(method(TEXTS), [pool(_ids(folder, prompt + text)) for text in TEXTS])


def test_prompts_of_the_files(tmp_path):
    model = checkpoints.transformers_model(tmp_path, BertModel(BertConfig(**ENCODER)))
    checkpoints.add_modules(tmp_path, "mean", prompts={"query": "ask: ", "document": "text: "})
    pool, encoder = _pooled(model, "mean"), _load(tmp_path)
    _check(encoder.encode_query(TEXTS), [pool(_ids(tmp_path, "ask: " + t)) for t in TEXTS])
    _check(encoder.encode_document(TEXTS), [pool(_ids(tmp_path, "text: " + t)) for t in TEXTS])
    _check(encoder.encode(TEXTS), [pool(_ids(tmp_path, t)) for t in TEXTS])


def test_prompt_that_pooling_leaves_out(tmp_path):
    model = checkpoints.transformers_model(tmp_path, BertModel(BertConfig(**ENCODER)))
    checkpoints.add_modules(tmp_path, "mean", prompts={"query": "ask the cat "})
    pooling = tmp_path / "1_Pooling" / "config.json"
    checkpoints.write_json(pooling, checkpoints.read_json(pooling) | {"include_prompt": False})
    wanted = []
    for text in TEXTS:
        # sentence-transformers leaves out the prompt's tokens and the first special token
        skip = len(_ids(tmp_path, "ask the cat")) - 1
        states = oracle.states(model, _ids(tmp_path, "ask the cat " + text))
        wanted.append(naive.pool(states.astype(np.float64), "mean", skip))
    _check(_load(tmp_path).encode_query(TEXTS), wanted)


def test_matryoshka_cut_comes_before_normalising(tmp_path):
    folder = tmp_path / "arctic"
    config, tensors = checkpoints.new_model(folder)
    states = [naive.new_states(config, tensors, _ids(folder, text).tolist()) for text in TEXTS]
    with pytest.warns(match="dimensions"):
        found = _load(folder).encode(TEXTS, dimensions=20)
    _check(found, [state[0, :20] for state in states])


def test_multilingual_dense_and_sparse(tmp_path):
    folder = tmp_path / "gte-multilingual-base"
    config, tensors = checkpoints.new_model(
        folder,
        architectures=["NewModel", "NewForTokenClassification"],
        type_vocab_size=1,
        rope_theta=20000,
        rope_scaling={"type": "ntk", "factor": 8.0},
    )
    checkpoints.add_tokenizer(folder, "xlm-roberta")
    special = frozenset(_token(folder, token) for token in ("<s>", "</s>", "<pad>", "<unk>"))
    found = _load(folder).embed(TEXTS, outputs=("dense", "sparse"))
    ids = [_ids(folder, text).tolist() for text in TEXTS]
    states = [naive.new_states(config, tensors, row) for row in ids]
    _check(found.dense, [state[0] for state in states])
    for row, state, weights in zip(ids, states, found.sparse, strict=True):
        wanted = naive.largest_weights(row, naive.new_sparse(tensors, state), special)
        assert weights == pytest.approx(wanted, abs=packed.FP32)
    assert any(found.sparse)
    assert found.sparse[TEXTS.index("")] == {}


def test_bge_m3(tmp_path):
    folder = tmp_path / "bge-m3"
    model = checkpoints.transformers_model(
        folder, XLMRobertaModel(XLMRobertaConfig(**XLM_ROBERTA)), pooling="cls"
    )
    heads = checkpoints.add_m3_heads(folder, ENCODER["hidden_size"], ENCODER["hidden_size"])
    sparse_linear, colbert_linear = map(checkpoints.as_arrays, heads.values())
    special = frozenset(_token(folder, token) for token in ("<s>", "</s>", "<pad>", "<unk>"))
    found = _load(folder).embed(TEXTS, outputs=("dense", "sparse", "tokens"))
    for i, text in enumerate(TEXTS):
        ids = _ids(folder, text)
        states = oracle.states(model, ids)
        _check(found.dense[i : i + 1], [states[0]])
        wanted = naive.largest_weights(ids, naive.m3_sparse(sparse_linear, states), special)
        assert found.sparse[i] == pytest.approx(wanted, abs=packed.FP32)
        packed.close(found.tokens[i], naive.m3_tokens(colbert_linear, states))


# --- encoders with instructions -------------------------------------------------------------------


def _check_instructed(folder, vector, template, end):
    """Compare queries, instructed queries and documents with `vector(ids)` of the last token."""
    encoder = _load(folder)
    prompts = [template.format(WEB), template.format(TASK), ""]
    found = [
        encoder.encode_query(TEXTS),
        encoder.encode_query(TEXTS, instruction=TASK),
        encoder.encode_document(TEXTS),
    ]
    for vectors, prompt in zip(found, prompts, strict=True):
        _check(vectors, [vector(_ids(folder, prompt + text, end)) for text in TEXTS])


@pytest.mark.parametrize("module_files", [True, False])
@pytest.mark.parametrize("tokenizer_says_eos", [True, False])
def test_gte_qwen2(tmp_path, module_files, tokenizer_says_eos):
    folder = tmp_path / "gte-Qwen2-7B-instruct"
    model = checkpoints.transformers_model(
        folder,
        Qwen2Model(Qwen2Config(**DECODER | {"attn_implementation": "eager"})),
        pooling="last" if module_files else None,
        auto_map={"AutoModel": "modeling_qwen.Qwen2Model"},
    )
    if tokenizer_says_eos:
        checkpoints.edit_tokenizer_config(folder, add_eos_token=True)

    def vector(ids):
        return oracle.bidirectional_states(model, ids)[-1]

    end = [_token(folder, "<|endoftext|>")]
    _check_instructed(folder, vector, "Instruct: {}\nQuery: ", end)


def test_qwen3_embedding(tmp_path):
    folder = tmp_path / "Qwen3-Embedding-0.6B"
    model = checkpoints.transformers_model(
        folder, Qwen3Model(Qwen3Config(**DECODER, head_dim=16)), pooling="last"
    )
    assert _ids(folder, "cat")[-1] == _token(folder, "<|endoftext|>")  # by its own template
    _check_instructed(folder, lambda ids: oracle.states(model, ids)[-1], "Instruct: {}\nQuery:", [])


def test_e5_mistral(tmp_path):
    folder = tmp_path / "e5-mistral-7b-instruct"
    config = MistralConfig(**DECODER, sliding_window=4096)
    model = checkpoints.transformers_model(folder, MistralModel(config), pooling="last")
    assert _ids(folder, "cat")[0] == _token(folder, "<s>")
    _check_instructed(
        folder,
        lambda ids: oracle.states(model, ids)[-1],
        "Instruct: {}\nQuery: ",
        [_token(folder, "</s>")],
    )


@pytest.mark.parametrize("instruction", [WEB, TASK])
def test_nv_embed_leaves_the_instruction_out_of_its_pool(tmp_path, instruction):
    folder = tmp_path / "NV-Embed-v1"
    config, tensors = checkpoints.nvembed_model(folder)
    end = [_token(folder, "</s>")]
    prompt = f"Instruct: {instruction}\nQuery: "
    skip = len(_ids(folder, prompt.rstrip()))  # <s> included, as published
    texts = [text for text in TEXTS if text]
    wanted = [
        naive.nvembed(config, tensors, _ids(folder, prompt + text, end).tolist(), skip)
        for text in texts
    ]
    encoder = _load(folder)
    _check(encoder.encode_query(texts, instruction=instruction), wanted)
    whole = [naive.nvembed(config, tensors, _ids(folder, text, end).tolist(), 0) for text in texts]
    _check(encoder.encode_document(texts), whole)


# --- rerankers ------------------------------------------------------------------------------------

QUERY = "what is the capital of china?"


def _score(folder, **arguments):
    reranker = Reranker.load(folder, engine="torch", precision="fp32", device="cpu")
    return zip(reranker.score(QUERY, TEXTS, **arguments), TEXTS, strict=True)


def test_bert_reranker(tmp_path):
    config = BertConfig(**ENCODER | {"num_labels": 1})
    model = checkpoints.transformers_model(
        tmp_path, BertForSequenceClassification(config), pooling=None
    )
    first = len(_ids(tmp_path, QUERY))
    for score, text in _score(tmp_path):
        ids = _ids(tmp_path, QUERY, pair=text)
        types = (np.arange(len(ids)) >= first).astype(np.int32)  # [SEP] after the text included
        assert score == pytest.approx(oracle.logit(model, ids, types), abs=packed.FP32)


def test_xlm_roberta_reranker(tmp_path):
    config = XLMRobertaConfig(**XLM_ROBERTA | {"num_labels": 1})
    model = checkpoints.transformers_model(
        tmp_path, XLMRobertaForSequenceClassification(config), pooling=None
    )
    for score, text in _score(tmp_path):
        ids = _ids(tmp_path, QUERY, pair=text)
        assert score == pytest.approx(oracle.logit(model, ids), abs=packed.FP32)


def test_multilingual_reranker(tmp_path):
    config, tensors = checkpoints.new_model(
        tmp_path, architectures=["NewForSequenceClassification"], type_vocab_size=1
    )
    checkpoints.add_tokenizer(tmp_path, "xlm-roberta")
    for score, text in _score(tmp_path):
        states = naive.new_states(config, tensors, _ids(tmp_path, QUERY, pair=text).tolist())
        assert score == pytest.approx(naive.new_score(tensors, states), abs=packed.FP32)


QWEN3_BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
QWEN3_AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


@pytest.mark.filterwarnings("ignore:.* is not known to be a reranker")
@pytest.mark.parametrize("instruction", [None, TASK])
def test_qwen3_reranker(tmp_path, instruction):
    model = checkpoints.transformers_model(
        tmp_path,
        Qwen3ForCausalLM(Qwen3Config(**DECODER, head_dim=16, tie_word_embeddings=True)),
        pooling=None,
    )
    checkpoints.add_tokenizer(tmp_path, "qwen2")  # a template without an end token
    yes, no = checkpoints.add_tokens(tmp_path, "yes", "no")
    for score, text in _score(tmp_path, instruction=instruction):
        body = f"<Instruct>: {instruction or WEB}\n<Query>: {QUERY}\n<Document>: {text}"
        ids = np.concatenate([_ids(tmp_path, t) for t in (QWEN3_BEFORE, body, QWEN3_AFTER)])
        logits = oracle.last_logits(model, ids).astype(np.float64)
        assert score == pytest.approx(naive.softmax(logits[[yes, no]])[0], abs=packed.FP32)
