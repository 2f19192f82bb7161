"""What the files say, what the table of known checkpoints adds, and where they disagree."""

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from opengte import checkpoint, published_models
from opengte.errors import (
    CheckpointError,
    CheckpointWarning,
    InputError,
    UnsupportedModelError,
    WeightsError,
)
from tests.parity.families import FAMILIES
from tests.support import checkpoints


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folders = {}
    for family in ("bert", "qwen2"):
        folders[family] = tmp_path_factory.mktemp(family) / "model"
        folders[family].mkdir()
        FAMILIES[family](folders[family])
    return folders


@pytest.fixture
def bert(originals, tmp_path):
    return shutil.copytree(originals["bert"], tmp_path / "model")


def as_known(folder, name):
    return folder.rename(folder.parent / name)


def change(path, **changes):
    values = json.loads(path.read_text()) if path.is_file() else {}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values | changes))


def test_pooling_comes_from_the_table_where_the_files_are_silent(bert):
    shutil.rmtree(bert / "1_Pooling")
    (bert / "modules.json").unlink()
    with pytest.raises(CheckpointError, match=r"does not say how to pool: expected 1_Pooling"):
        checkpoint.read_checkpoint(bert)
    assert checkpoint.read_checkpoint(as_known(bert, "gte-base-zh")).plan.pooling == "cls"


def test_files_that_contradict_the_table_are_followed_with_a_warning(bert):
    folder = as_known(bert, "gte-base-zh")
    with pytest.warns(CheckpointWarning, match="say pooling = mean, but thenlper/gte-base-zh was"):
        assert checkpoint.read_checkpoint(folder).plan.pooling == "mean"


def test_a_prompt_that_contradicts_the_table_is_a_warning(bert):
    folder = as_known(bert, "e5-base-v2")
    change(folder / "config_sentence_transformers.json", prompts={"query": "search: "})
    with pytest.warns(CheckpointWarning, match="put 'search: ' before a query, but intfloat/e5-b"):
        assert checkpoint.read_checkpoint(folder).prompts.query == "search: "


def test_known_prompts_fill_what_files_leave_out(bert):
    prompts = checkpoint.read_checkpoint(as_known(bert, "e5-base-v2")).prompts
    assert (prompts.query, prompts.document, prompts.plain) == ("query: ", "passage: ", "query: ")


def test_attention_direction_that_contradicts_the_table_is_a_warning(originals, tmp_path):
    folder = shutil.copytree(originals["qwen2"], tmp_path / "gte-Qwen2-7B-instruct")
    assert not checkpoint.read_checkpoint(folder).plan.layers[0].attention.causal
    change(folder / "config.json", is_causal=True)
    with pytest.warns(
        CheckpointWarning, match="causal attention = True, but Alibaba-NLP/gte-Qwen2"
    ):
        assert checkpoint.read_checkpoint(folder).plan.layers[0].attention.causal


def test_an_instruction_in_a_prompt_becomes_a_template(bert):
    prompt = "Instruct: Find it\nQuery:"
    change(bert / "config_sentence_transformers.json", prompts={"query": prompt})
    prompts = checkpoint.read_checkpoint(bert).prompts
    assert prompts.template == "Instruct: {instruction}\nQuery:"
    assert prompts.prefix("query", None) == prompt


def test_prompts_out_of_the_pool(bert):
    assert checkpoint.read_checkpoint(bert).prompts.mask == "none"
    change(bert / "1_Pooling" / "config.json", include_prompt=False)
    assert checkpoint.read_checkpoint(bert).prompts.mask == "prompt"


def test_a_length_in_the_files_beats_the_table(bert):
    """sentence-transformers 6 keeps it as the tokenizer's; older files have anything there."""
    folder, lengths = as_known(bert, "all-MiniLM-L6-v2"), {}
    (folder / "sentence_bert_config.json").unlink(missing_ok=True)
    for tokenizer in (64, 512):
        for version in ("5.1.0", "6.2.0"):
            about = {"sentence_transformers": version}
            change(folder / "tokenizer_config.json", model_max_length=tokenizer)
            change(folder / "config_sentence_transformers.json", __version__=about)
            with warnings.catch_warnings(record=True) as issued:
                warnings.simplefilter("always")
                length = checkpoint.read_checkpoint(folder).max_length
            lengths[tokenizer, version] = length
            told = [w for w in issued if f"say a maximum length of {length}, but" in str(w.message)]
            assert len(told) == (length != 256)
    expected = {(64, "5.1.0"): 64, (64, "6.2.0"): 64, (512, "5.1.0"): 256, (512, "6.2.0"): 512}
    assert lengths == expected


@pytest.mark.parametrize(
    ("sentence", "tokenizer", "expected"), [(99, 200, 99), (None, 200, 200), (9000, None, 512)]
)
def test_max_length_order(bert, sentence, tokenizer, expected):
    change(bert / "sentence_bert_config.json", max_seq_length=sentence)
    change(bert / "tokenizer_config.json", model_max_length=tokenizer or 10**30)
    assert checkpoint.read_checkpoint(bert).max_length == expected
    assert checkpoint.read_checkpoint(bert, max_length=7).max_length == 7
    with pytest.raises(InputError, match="max_length is 0, expected 1 to 512"):
        checkpoint.read_checkpoint(bert, max_length=0)


@pytest.mark.parametrize(
    ("modes", "message"),
    [
        (
            {"pooling_mode_median_tokens": True},
            "sets 'pooling_mode_median_tokens', expected of cls",
        ),
        ({"pooling_mode": "median"}, "sets 'median', expected of cls"),
        ({"pooling_mode": ["mean", "median"]}, "sets 'median', expected of cls"),
    ],
)
def test_pooling_that_no_plan_says_is_refused(bert, modes, message):
    (bert / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    with pytest.raises(UnsupportedModelError, match=message):
        checkpoint.read_checkpoint(bert)


LSTM = "sentence_transformers.models.LSTM"


def test_modules_that_no_plan_says_are_refused(bert):
    modules = json.loads((bert / "modules.json").read_text())
    (bert / "modules.json").write_text(json.dumps([*modules, modules[1] | {"type": LSTM}]))
    with pytest.raises(UnsupportedModelError, match=r"lists the modules .*LSTM, expected"):
        checkpoint.read_checkpoint(bert)
    (bert / "modules.json").write_text(json.dumps([modules[0], modules[1] | {"path": "../x"}]))
    with pytest.raises(CheckpointError, match="folder outside the checkpoint"):
        checkpoint.read_checkpoint(bert)
    (bert / "modules.json").write_text('{"a": 1}')
    with pytest.raises(CheckpointError, match="is not a list of modules"):
        checkpoint.read_checkpoint(bert)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', "\ud800".encode("utf-8", "surrogatepass")])
def test_a_broken_config_is_named(bert, text):
    (bert / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError, match=r"config\.json` (is not JSON|holds a)"):
        checkpoint.read_checkpoint(bert)


def test_missing_and_unexpected_tensors_stop_the_load(bert):
    checkpoints.add_tensors(bert, **{"encoder.layer.0.adapter": checkpoints.torch.zeros(2)})
    with pytest.raises(WeightsError, match=r"1 tensors that its .*`encoder\.layer\.0\.adapter`"):
        checkpoint.read_checkpoint(bert).chunks()
    checkpoints.drop_tensors(bert, "encoder.layer.0.adapter", "encoder.layer.1.output.dense.bias")
    with pytest.raises(
        WeightsError, match=r"no tensor for `layers\.1\.down\.bias`: looked for `enc"
    ):
        checkpoint.read_checkpoint(bert).chunks()


def test_pickles_need_a_reader(bert):
    checkpoints.to_pickle(bert)
    opened = checkpoint.read_checkpoint(bert)
    assert opened.card.parameters == opened.plan.parameters
    with pytest.raises(CheckpointError, match="only the torch engine reads"):
        opened.chunks()


def test_the_licence_is_in_the_card(bert):
    (bert / "README.md").write_text("---\nlicense: mit\n---\n# A model\nlicense: other\n")
    assert checkpoint.read_checkpoint(bert).card.licence == "mit"
    change(bert / "SOURCE.json", licence="Apache-2.0")
    assert checkpoint.read_checkpoint(bert).card.licence == "Apache-2.0"


def test_the_fingerprint_follows_what_changes_a_vector(bert):
    def fingerprint():
        return checkpoint.read_checkpoint(bert).card.fingerprint

    seen = [fingerprint()]
    assert fingerprint() == seen[0]
    change(bert / "config_sentence_transformers.json", prompts={"query": "q: "})
    seen.append(fingerprint())
    change(bert / "config.json", layer_norm_eps=1e-3)
    seen.append(fingerprint())
    change(bert / "sentence_bert_config.json", max_seq_length=9)
    seen.append(fingerprint())
    tensors = checkpoints.tensors_of(bert)
    checkpoints.add_tensors(
        bert, **{"embeddings.LayerNorm.bias": tensors["embeddings.LayerNorm.bias"] + 1}
    )
    seen.append(fingerprint())
    assert len(set(seen)) == 5
    assert checkpoint.read_checkpoint(bert).fingerprint(16) not in seen


def test_the_table_of_known_checkpoints_is_consistent():
    ids = [entry.id for entry in published_models.PUBLISHED_MODELS]
    assert len(set(ids)) == len(ids)
    for entry in published_models.PUBLISHED_MODELS:
        assert entry.template is None or entry.template.count("{instruction}") == 1
        assert entry.kind == "encoder" or entry.dimension == 1
        assert published_models.find_published_model(entry.id.lower()) is entry
        assert published_models.find_published_model("/models/" + entry.id.split("/")[1]) is entry
        published_models.allows_dimension(entry.dimensions, 1)
    assert published_models.find_published_model("somebody/unknown") is None
    assert (
        published_models.find_published_model("minilm").id
        == "sentence-transformers/all-MiniLM-L6-v2"
    )
    with pytest.raises(InputError, match="dimensions is 'x', expected a range"):
        published_models.allows_dimension("x", 3)


@pytest.mark.parametrize(
    ("name", "wanted", "allowed"),
    [
        ("gte-multilingual-base", 128, True),
        ("gte-multilingual-base", 64, False),
        ("snowflake-arctic-embed-m-v2.0", 256, True),
        ("snowflake-arctic-embed-m-v2.0", 300, False),
        ("gte-base", 384, False),
    ],
)
def test_matryoshka_dimensions(name, wanted, allowed):
    assert (
        published_models.allows_dimension(
            published_models.find_published_model(name).dimensions, wanted
        )
        is allowed
    )


def test_norms_with_their_first_names_are_read(bert):
    def chunks():
        found = checkpoint.read_checkpoint(bert).chunks()
        return {(chunk.slot, chunk.row): chunk.values.copy() for chunk in found}

    wanted, tensors = chunks(), checkpoints.tensors_of(bert)
    for old, new in (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")):
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    assert sum(name.endswith((".gamma", ".beta")) for name in tensors) >= 6
    save_file(tensors, bert / "model.safetensors")
    found = chunks()
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_called_one(bert, name):
    (bert / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(CheckpointError, match=rf"{name}`? is a Git LFS pointer, .*`git lfs pull`"):
        found = checkpoint.read_checkpoint(bert)
        list(found.chunks())
        _ = found.card


def test_a_pickle_that_is_a_pointer_is_called_one(bert):
    checkpoints.to_pickle(bert)
    (bert / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(WeightsError, match=r"pytorch_model.bin. is a Git LFS pointer"):
        checkpoint.read_checkpoint(bert).chunks()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization_config": {"load_in_4bit": True}}, "load_in_4bit"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "group_size"),
    ],
)
def test_quantised_checkpoints_are_called_that(bert, settings, told):
    change(bert / "config.json", **settings)
    with pytest.raises(UnsupportedModelError, match=rf"`quantization.*{told}.*are quantised"):
        checkpoint.read_checkpoint(bert)


def test_quantised_tensors_are_called_that(bert):
    checkpoints.add_tensors(bert, **{"encoder.layer.0.output.dense.qweight": torch.zeros(2, 2)})
    with pytest.raises(WeightsError, match=r"are quantised \(tensor `encoder.*qweight`"):
        checkpoint.read_checkpoint(bert).chunks()
    (bert / "quantize_config.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match=r"quantize_config.json` says .* quantised"):
        checkpoint.read_checkpoint(bert)


def test_other_kinds_of_models_are_called_what_they_are(bert):
    kind = "sentence_transformers.models."
    (bert / "modules.json").write_text(json.dumps([{"type": f"{kind}StaticEmbedding"}]))
    (bert / "config.json").unlink()
    with pytest.raises(CheckpointError, match="has no table of word vectors"):
        checkpoint.read_checkpoint(bert)


@pytest.mark.parametrize("kind", ["mine.Transformer", "Pooling", "custom_st.Pooling"])
def test_modules_of_ones_own_are_refused(bert, kind):
    (bert / "modules.json").write_text(json.dumps([{"type": kind, "path": ""}]))
    with pytest.raises(UnsupportedModelError, match=f"module of type '{kind}', which is code of"):
        checkpoint.read_checkpoint(bert)


@pytest.mark.parametrize(
    ("file", "entry"),
    [
        ("config.json", {"AutoModel": "modeling_mine.MyBert"}),
        ("config.json", {"AutoModelForMaskedLM": "org/code--modeling.NewModel"}),
        ("tokenizer_config.json", {"AutoTokenizer": [None, "tokenization.Mine"]}),
        ("tokenizer_config.json", {"AutoTokenizer": "tokenization.Mine"}),
    ],
)
def test_code_that_is_not_run_is_a_warning(bert, file, entry):
    change(bert / file, auto_map=entry)
    with pytest.warns(CheckpointWarning, match=rf"{file}. names code of its own \(`auto_map`"):
        checkpoint.read_checkpoint(bert)


def test_code_that_the_architecture_computes_is_no_warning(originals):
    assert "auto_map" in json.loads((originals["qwen2"] / "config.json").read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint.read_checkpoint(originals["qwen2"])


def test_a_decoder_that_may_not_answer_yes_or_no_is_a_warning(tmp_path):
    FAMILIES["qwen2"](tmp_path)
    checkpoints.add_tokens(tmp_path, "yes", "no")
    with pytest.warns(CheckpointWarning, match="is not known to be a reranker"):
        checkpoint.read_checkpoint(tmp_path, kind="reranker")
    (tmp_path / "README.md").write_text("---\nbase_model:\n- Qwen/Qwen3-Reranker-0.6B\n---\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint.read_checkpoint(tmp_path, kind="reranker")
