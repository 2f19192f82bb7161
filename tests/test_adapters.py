"""LoRA adapters are merged as they load: the same tensors as `merge_and_unload` of PEFT gives."""

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import peft
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoModelForSequenceClassification

import opengte
from opengte import checkpoint, hub
from opengte.errors import CheckpointError, CheckpointWarning, UnsupportedModelError, WeightsError
from opengte.reference.load import read_pickle
from tests.parity import oracle, packed
from tests.parity.families import FAMILIES
from tests.support import checkpoints, hub_server

TARGETS = {
    "bert": ["query", "value", "attention.output.dense"],
    "xlm-roberta": ["query", "key", "intermediate.dense"],
    "modernbert": ["Wqkv", "Wi", "Wo"],
    "qwen2": ["q_proj", "v_proj", "up_proj"],
    "qwen3": ["k_proj", "o_proj", "gate_proj", "down_proj"],
    "mistral": ["q_proj", "k_proj", "v_proj"],
}
# settings beside the targets; every family has each of them once
SETTINGS = {
    "plain": {},
    "rslora": {"use_rslora": True, "lora_alpha": 5},
    "all biases": {"bias": "all"},
    "biases of the adapted": {"bias": "lora_only"},
    "dora": {"use_dora": True},
    "word vectors": {"more": ["word_embeddings", "embed_tokens", "tok_embeddings"]},
    "whole modules": {"modules_to_save": ["0.output", "norm", "mlp_norm"]},
    "fan in": {"fan_in_fan_out": True},
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENGTE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folders = {}
    for family in TARGETS:
        folders[family] = tmp_path_factory.mktemp(family) / "base"
        folders[family].mkdir()
        FAMILIES[family](folders[family])
    return folders


@contextmanager
def their_warnings() -> Iterator[None]:
    """Ignore what PEFT warns of: its own deprecations, and settings that it corrects."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def trained(model, config, seed=0):
    """Wrap a model and move every parameter that training would move."""
    with their_warnings():
        wrapped = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data += 0.2 * noise.to(parameter.dtype)
    return wrapped.eval()


def adapted(base, folder, config, model=AutoModel, seed=0):
    """Write an adapter of a base to a folder, alone, and return the merged model."""
    wrapped = trained(model.from_pretrained(base, num_labels=1), config, seed)
    with their_warnings():
        wrapped.save_pretrained(folder)
        return wrapped.merge_and_unload()


def merged_folder(base, folder, merged):
    """Copy a base with the merged model's weights in place of its own."""
    shutil.copytree(base, folder)
    (folder / "model.safetensors").unlink()
    merged.save_pretrained(folder)
    return folder


def beside(base, adapter, folder):
    """Copy a base and an adapter into one folder."""
    shutil.copytree(base, folder)
    return shutil.copytree(adapter, folder, dirs_exist_ok=True)


def values(folder, kind=None):
    """Return a checkpoint's slots as float32."""
    slots = {}
    for chunk in checkpoint.read_checkpoint(folder, kind=kind).chunks(read_pickle):
        slots.setdefault(chunk.slot, []).append(chunk.as_float32())
    return {slot: np.concatenate(parts) for slot, parts in slots.items()}


def check_same(found, wanted, atol=2e-6):
    assert found.keys() == wanted.keys()
    for slot in wanted:
        np.testing.assert_allclose(found[slot], wanted[slot], rtol=0, atol=atol, err_msg=slot)


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("family", TARGETS)
def test_every_slot_is_that_of_the_merged_model(bases, tmp_path, family, settings):
    base, settings = bases[family], dict(settings)
    targets = TARGETS[family] + settings.pop("more", [])
    config = LoraConfig(r=3, target_modules=targets, **settings)
    merged = adapted(base, tmp_path / "adapter", config)
    wanted = values(merged_folder(base, tmp_path / "merged", merged))
    alone = values(tmp_path / "adapter")
    check_same(alone, wanted)
    check_same(values(beside(base, tmp_path / "adapter", tmp_path / "both")), alone, atol=0)
    before = values(base)
    assert any((wanted[slot] != before[slot]).any() for slot in wanted)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": r"encoder\.layer\.[01]\.attention\.self\.(query|key)"},
        {"target_modules": ["dense", "query"], "rank_pattern": {"query": 2, "output.dense": 5}},
        {
            "target_modules": "all-linear",
            "rank_pattern": {r"layer\.1\..*dense": 6},
            "alpha_pattern": {"layer.0.attention.self.value": 40, "(query|key)": 1.5},
            "use_rslora": True,
        },
        {"target_modules": "all-linear", "exclude_modules": ["query"], "lora_bias": True},
        {"target_modules": ["query"], "init_lora_weights": "gaussian", "lora_dropout": 0.1},
        {"target_modules": ["query"], "layers_to_transform": [1]},
    ],
)
def test_ranks_and_scales_follow_the_patterns(bases, tmp_path, settings):
    config = LoraConfig(**{"r": 4, "lora_alpha": 12} | settings)
    merged = adapted(bases["bert"], tmp_path / "adapter", config)
    wanted = values(merged_folder(bases["bert"], tmp_path / "merged", merged))
    check_same(values(tmp_path / "adapter"), wanted)


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize("family", ["bert", "modernbert", "qwen3"])
def test_both_engines_compute_the_merged_model(bases, tmp_path, family, engine):
    config = LoraConfig(r=4, target_modules=TARGETS[family], use_dora=family == "qwen3")
    merged = adapted(bases[family], tmp_path / "adapter", config)
    texts = ["a cat", "the quick brown fox jumps over the dog", ""]
    arguments = {"engine": engine, "precision": "fp32"}
    found = opengte.Encoder.load(tmp_path / "adapter", **arguments).encode(texts)
    wanted = opengte.Encoder.load(
        merged_folder(bases[family], tmp_path / "merged", merged), **arguments
    ).encode(texts)
    base = opengte.Encoder.load(bases[family], **arguments).encode(texts)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(found - base).max() > 0.01


def test_states_are_those_of_the_adapted_transformers_model(bases, tmp_path):
    config = LoraConfig(r=4, target_modules=TARGETS["bert"])
    model = trained(AutoModel.from_pretrained(bases["bert"]), config)
    model.save_pretrained(tmp_path / "adapter")
    rows = packed.rows_of((5, 1, 30))
    engine = packed.load(tmp_path / "adapter")
    packed.check_states(engine, rows, lambda ids: oracle.states(model, ids))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_values_are_rounded_to_the_dtype_of_the_base(bases, tmp_path, dtype):
    base = shutil.copytree(bases["bert"], tmp_path / "base")
    checkpoints.cast(base, dtype)
    config = LoraConfig(r=4, target_modules=[*TARGETS["bert"], "word_embeddings"])
    wrapped = trained(AutoModel.from_pretrained(base, dtype=dtype), config)
    with their_warnings():
        wrapped.save_pretrained(tmp_path / "adapter")
        merged = wrapped.merge_and_unload()
    wanted = values(merged_folder(base, tmp_path / "merged", merged))
    found = values(tmp_path / "adapter")
    assert checkpoint.read_checkpoint(tmp_path / "adapter").stored_dtype in ("bf16", "fp16")
    step = 2**-7 if dtype == torch.bfloat16 else 2**-10
    check_same(found, wanted, atol=4 * step)  # PEFT rounds the difference too


@pytest.mark.parametrize("prefix", ["bert.", "model."])
def test_the_prefix_of_the_base_may_be_another(bases, tmp_path, prefix):
    config = LoraConfig(r=4, target_modules=TARGETS["bert"], bias="all")
    adapted(bases["bert"], tmp_path / "adapter", config)
    wanted = values(tmp_path / "adapter")
    both = beside(bases["bert"], tmp_path / "adapter", tmp_path / "both")
    checkpoints.add_prefix(both, prefix)
    check_same(values(both), wanted, atol=0)
    names = {name.replace("LayerNorm.weight", "LayerNorm.gamma") for name in wanted}
    assert names  # the first names of norms, in the base, are the adapter's too
    tensors = load_file(both / "model.safetensors")
    older = {n.replace("Norm.bias", "Norm.beta"): tensor for n, tensor in tensors.items()}
    save_file(older, both / "model.safetensors")
    check_same(values(both), wanted, atol=0)


def test_a_reranker_is_made_of_its_base(bases, tmp_path):
    for family in ("bert", "qwen3"):
        config = LoraConfig(r=4, target_modules=TARGETS[family], task_type="SEQ_CLS")
        model = AutoModelForSequenceClassification
        base = bases[family]
        merged = adapted(base, tmp_path / family, config, model)
        merged_folder(base, tmp_path / f"{family}-merged", merged)
        wanted = values(tmp_path / f"{family}-merged", "reranker")
        check_same(values(tmp_path / family), wanted)
        assert checkpoint.read_checkpoint(tmp_path / family).kind == "reranker"


@pytest.mark.parametrize("place", ["", "0_Transformer"])
def test_the_layout_of_sentence_transformers(bases, tmp_path, place):
    model = SentenceTransformer(str(bases["bert"]), device="cpu")
    with their_warnings():
        model.add_adapter(LoraConfig(r=4, target_modules=TARGETS["bert"], lora_bias=True))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    with their_warnings():
        model.save(str(tmp_path / "saved"))
    if place:
        (tmp_path / "saved" / place).mkdir()
        for name in ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json"):
            (tmp_path / "saved" / name).rename(tmp_path / "saved" / place / name)
        modules = json.loads((tmp_path / "saved" / "modules.json").read_text())
        modules[0]["path"] = place
        (tmp_path / "saved" / "modules.json").write_text(json.dumps(modules))
    texts = ["a cat", "the quick brown fox"]
    wanted = model.encode(texts, normalize_embeddings=True)
    found = opengte.Encoder.load(tmp_path / "saved", engine="torch", precision="fp32")
    np.testing.assert_allclose(found.encode(texts), wanted, atol=1e-5)


def test_a_whole_model_may_be_in_0_transformer(bases, tmp_path):
    folder = shutil.copytree(bases["bert"], tmp_path / "model")
    (folder / "0_Transformer").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).rename(folder / "0_Transformer" / name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    found, base = checkpoint.read_checkpoint(folder), checkpoint.read_checkpoint(bases["bert"])
    assert found.fingerprint() == base.fingerprint()


@pytest.fixture
def adapter(bases, tmp_path):
    """A folder with an adapter alone, of a copy of the base beside it."""
    base = shutil.copytree(bases["bert"], tmp_path / "base")
    adapted(base, tmp_path / "adapter", LoraConfig(r=4, target_modules=["query", "value"]))
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"peft_type": "IA3"}, r"`peft_type` is 'IA3', expected 'LORA'"),
        ({"peft_type": None}, r"`peft_type` is 'None', expected 'LORA'"),
        ({"init_lora_weights": "pissa"}, r"`init_lora_weights` is 'pissa', expected True or"),
        ({"layer_replication": [[0, 2]]}, r"`layer_replication` is"),
        ({"alora_invocation_tokens": [3]}, r"`alora_invocation_tokens` is '\[3\]', expected None"),
        ({"trainable_token_indices": [1]}, r"`trainable_token_indices` is"),
        ({"target_parameters": ["experts"]}, r"`target_parameters` is"),
        ({"use_qalora": True}, r"`use_qalora` is 'True', expected False or None"),
        ({"bias": "some"}, r"`bias` is 'some', expected 'none', 'all' or 'lora_only'"),
        ({"use_dora": True}, r"`use_dora` is 'True', expected False, as the tensors of"),
        ({"lora_alpha": "8"}, r"`lora_alpha` is '8', expected a positive number"),
        ({"rank_pattern": [4]}, r"`rank_pattern` is '\[4\]', expected an object"),
        ({"alpha_pattern": {"(a+)+": 1}}, r"`pattern` is '\(a\+\)\+', expected a name with at"),
        ({"alpha_pattern": {"(": 1}}, r"`pattern` is '\(', expected a regular expression"),
    ],
)
def test_what_is_not_merged_is_an_error_with_file_key_and_value(adapter, settings, told):
    change(adapter / "adapter_config.json", **settings)
    with pytest.raises(UnsupportedModelError, match=rf"adapter_config.json`: {told}.*Merge the"):
        values(adapter)


def test_a_key_that_is_not_known_is_told(adapter):
    change(adapter / "adapter_config.json", new_kind_of_scale=2)
    with pytest.warns(CheckpointWarning, match=r"adapter_config.json` says what is not applied"):
        checkpoint.read_checkpoint(adapter)


def test_several_adapters_are_refused_by_name(adapter, bases):
    shutil.copytree(adapter, adapter / "second")
    with pytest.raises(UnsupportedModelError, match=r"one of several adapters: .* in second"):
        checkpoint.read_checkpoint(adapter)
    for path in [*adapter.glob("adapter_*")]:
        path.unlink()
    with pytest.raises(CheckpointError, match=r"several adapters: give the folder of one \(second"):
        checkpoint.read_checkpoint(adapter)
    base = shutil.copytree(bases["bert"], adapter.parent / "model")
    shutil.copytree(adapter / "second", base / "lora")
    with pytest.warns(CheckpointWarning, match=r"has adapters that are not applied: lora"):
        checkpoint.read_checkpoint(base)


def rewrite(adapter, edit):
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda t, a, b: t.pop(a), r"lacks `.*query\.lora_A\.weight`: it is incomplete"),
        (lambda t, a, b: t.update({a: torch.zeros(4, 7)}), r"have shapes \(4, 7\) and \(48, 4\)"),
        (lambda t, a, b: t.update({a: t[a].int()}), r"is stored as I32, expected fp64, fp32"),
        (lambda t, a, b: t[a].fill_(np.nan), r"values for `.*query` that are not finite"),
        (
            lambda t, a, b: t.update({"x.lora_C": t[a].clone()}),
            r"`x.lora_C` .* is not one that is merged",
        ),
        (
            lambda t, a, b: t.update({"y": t[a].clone()}),
            r"1 tensors that its architecture does not: `y`",
        ),
        (
            lambda t, a, b: t.update({"encoder.layer.0.output.dense.bias": torch.zeros(3)}),
            r"has shape \(3,\), but `encoder.layer.0.output.dense.bias` of the base has \(48,\)",
        ),
        (
            lambda t, a, b: t.update({a: torch.zeros(2, 48), b: torch.zeros(48, 2)}),
            r"has rank 2 for `.*query`, but `r` and `rank_pattern` .* say 4",
        ),
        (
            lambda t, a, b: t.update(
                {"z.lora_A.weight": t[a].clone(), "z.lora_B.weight": t[b].clone()}
            ),
            r"changes `z`, which the base has no weight for",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(adapter, edit, told):
    name = "base_model.model.encoder.layer.0.attention.self.query.lora_{}.weight"
    rewrite(adapter, lambda tensors: edit(tensors, name.format("A"), name.format("B")))
    with pytest.raises(WeightsError, match=told):
        values(adapter)


def test_every_byte_of_the_adapter_is_in_the_fingerprint(adapter, tmp_path):
    seen = {checkpoint.read_checkpoint(tmp_path / "base").fingerprint()}

    def fingerprint():
        found = checkpoint.read_checkpoint(adapter)
        assert found.former_fingerprint == found.fingerprint()  # nothing of an earlier version
        return found.fingerprint()

    seen.add(fingerprint())
    path = adapter / "adapter_model.safetensors"
    raw = path.read_bytes()
    generator = np.random.default_rng(0)
    start = 8 + int.from_bytes(raw[:8], "little")
    for place in generator.integers(start, len(raw), 20):
        changed = bytearray(raw)
        changed[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(changed)
        seen.add(fingerprint())
    path.write_bytes(raw)
    change(adapter / "adapter_config.json", lora_alpha=9)
    seen.add(fingerprint())
    assert len(seen) == 23


def test_pickled_adapters_are_for_pytorch_and_run_no_code(adapter):
    wanted = values(adapter)
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    check_same(values(adapter), wanted, atol=0)
    found = checkpoint.read_checkpoint(adapter)
    assert found.pickles == ("adapter_model.bin",)
    with pytest.raises(CheckpointError, match=r"in pickles \(adapter_model.bin\), which only"):
        found.chunks()
    torch.save({"a": print}, adapter / "adapter_model.bin")
    with pytest.raises(WeightsError, match="cannot be read as plain tensors"):
        values(adapter)


def test_a_base_that_cannot_be_had_is_one_plain_error(adapter):
    path = adapter / "adapter_config.json"
    for name, told in (
        ("/nowhere/base", r"base model of the adapter .*'/nowhere/base'.* does not exist"),
        ("org/base", r"\(`base_model_name_or_path` is 'org/base'\) cannot be had: .*offline"),
        (None, r"adapter without weights beside it, and its `base_model_name_or_path` is None"),
        (str(adapter), r"base model .* is itself an adapter; expected a whole model"),
    ):
        change(path, base_model_name_or_path=name)
        with pytest.raises(CheckpointError, match=told):
            checkpoint.read_checkpoint(adapter, offline=True)
    change(path, base_model_name_or_path=str(adapter.parent / "base"))
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"no tensors beside it: expected adapter_model.safe"):
        checkpoint.read_checkpoint(adapter)


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_adapter_and_base_come_from_the_hub_at_their_revisions(adapter, tmp_path, monkeypatch):
    wanted = values(adapter)
    with hub_server.running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        pinned = server.commit("org/base", files(tmp_path / "base"))
        change(adapter / "adapter_config.json", base_model_name_or_path="org/base", revision=pinned)
        server.commit("org/adapter", files(adapter))
        newer = files(tmp_path / "base")
        newer["config.json"] = newer["config.json"].replace(b"gelu", b"relu")
        server.commit("org/base", newer)
        found = checkpoint.read_checkpoint("org/adapter")
        check_same(values("org/adapter"), wanted, atol=0)
        assert found.plan.layers[0].ffn.activation == "gelu"
        assert found.source.endswith(f" on hub org/base@{pinned}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert checkpoint.read_checkpoint("org/adapter").fingerprint() == found.fingerprint()
    assert hub.fetch_model("org/adapter").base.revision == pinned


def test_what_the_adapter_has_counts_and_the_rest_is_the_bases(adapter):
    checkpoints.add_modules(adapter.parent / "base", "mean", prompts={"query": "base: "})
    assert checkpoint.read_checkpoint(adapter).prompts.query == "base: "
    shutil.copy(adapter.parent / "base" / "config.json", adapter / "config.json")
    checkpoints.add_modules(adapter, "cls", prompts={"query": "own: "})
    found = checkpoint.read_checkpoint(adapter)
    assert (found.prompts.query, found.plan.pooling) == ("own: ", "cls")
    (adapter / "config.json").unlink()
    assert checkpoint.read_checkpoint(adapter).plan == found.plan


def test_the_installed_peft_has_no_setting_that_is_not_in_the_table(adapter):
    settings = LoraConfig().to_dict() | {"peft_type": "LORA"}
    for key in json.loads((adapter / "adapter_config.json").read_text()):
        assert key in settings
    change(adapter / "adapter_config.json", task_type=None)
    assert peft.__version__
    checkpoint.read_checkpoint(adapter)
