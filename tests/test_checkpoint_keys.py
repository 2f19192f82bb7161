"""Every key that transformers and sentence-transformers write is used, known, or told."""

import dataclasses
import inspect
import json
import re
import shutil
import warnings

import pytest
import sentence_transformers
import torch
import transformers
from click.testing import CliRunner
from peft import LoraConfig
from safetensors.torch import save_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
    TokenizersBackend,
)

from opengte import arch, checkpoint
from opengte.checkpoint_files import SENTENCE_CONFIGS
from opengte.checkpoint_keys import NEUTRAL, NO_EFFECT, USED, ReadConfig, check_keys
from opengte.cli import main
from opengte.errors import CheckpointWarning
from opengte.serve.config.inference import ModelSettings
from opengte.serve.inference.loading import load_model
from opengte.serve.observability import logs
from tests.parity.families import FAMILIES
from tests.support.published_configs import CONFIGS
from tests.support.serve_process import server

TOKENIZER = "tokenizer_config.json"
POPPED = r"kwargs\.pop\(\s*\"(\w+)\""
OF_CALLS = {  # what these classes take out of the arguments of calls, or make themselves
    *"_json_truncation _json_padding _spm_precompiled_charsmap tokenizer_object gguf_file".split(),
    *"tokenizer_truncation tokenizer_padding post_processor tokenizer commit_message".split(),
    *"repo_id use_source_tokenizer files_loaded proxies subfolder init_inputs".split(),
    *"_from_pipeline _from_auto _commit_hash max_target_length".split(),
}
CLASSES = "Bert Roberta XLMRoberta ModernBert Qwen2 Qwen3 Mistral".split()


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    folders = {}
    for family in ("bert", "xlm-roberta", "modernbert", "qwen2", "qwen3", "mistral"):
        folders[family] = tmp_path_factory.mktemp(family) / "model"
        folders[family].mkdir()
        FAMILIES[family](folders[family])
    return folders


@pytest.fixture
def bert(families, tmp_path):
    return shutil.copytree(families["bert"], tmp_path / "bert")


def change(path, **changes):
    values = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(values | changes))


def check(path, settings):
    config = ReadConfig(settings)
    arch.plan_of(config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_keys(path / "config.json", config)


@pytest.mark.parametrize("name", CLASSES)
def test_every_key_of_a_class_of_transformers_is_in_the_table(tmp_path, name):
    check(tmp_path, getattr(transformers, f"{name}Config")().to_dict())


@pytest.mark.parametrize("name", CONFIGS)
def test_every_key_of_a_published_model_is_in_the_table(tmp_path, name):
    check(tmp_path, CONFIGS[name])


def test_every_key_that_sentence_transformers_writes_is_in_the_table(bert, tmp_path_factory):
    saved = tmp_path_factory.mktemp("saved") / "model"
    model = SentenceTransformer(str(bert), device="cpu")
    dense = modules.Dense(model.get_embedding_dimension(), 8)
    parts = [model[0], model[1], dense, modules.Normalize()]
    SentenceTransformer(modules=parts, device="cpu").save(str(saved))
    with warnings.catch_warnings():
        warnings.simplefilter("error", CheckpointWarning)
        assert checkpoint.read_checkpoint(saved).plan.dimension == 8


def test_every_key_that_the_tokenizers_of_transformers_write_is_in_the_table(families, tmp_path):
    for family, folder in families.items():
        saved = tmp_path / family
        shutil.copytree(folder, saved)
        AutoTokenizer.from_pretrained(folder).save_pretrained(saved)
        with warnings.catch_warnings():
            warnings.simplefilter("error", CheckpointWarning)
            assert checkpoint.read_checkpoint(saved).fingerprint()


def test_every_parameter_of_a_tokenizer_of_transformers_is_in_the_table(tmp_path):
    classes = [PreTrainedTokenizerBase, TokenizersBackend]
    classes += [getattr(transformers, f"{name}Tokenizer") for name in "Bert Roberta Qwen2".split()]
    names = {name for each in classes for name in inspect.signature(each.__init__).parameters}
    names |= {name for each in classes for name in re.findall(POPPED, inspect.getsource(each))}
    names -= {"self", "args", "kwargs", "vocab", "merges", "pre_tokenizer"} | OF_CALLS
    table = USED[TOKENIZER] | NO_EFFECT[TOKENIZER] | set(NEUTRAL[TOKENIZER])
    assert names - table == set()


def test_every_key_of_a_generation_config_is_in_the_table():
    written = set(GenerationConfig().to_dict())
    assert len(written) > 50 and written <= NO_EFFECT["generation_config.json"]


def test_every_key_of_a_module_of_sentence_transformers_is_in_the_table():
    for module in (modules.Pooling, modules.Dense, modules.Normalize):
        known = NO_EFFECT[module.__name__] | set(NEUTRAL.get(module.__name__, ()))
        assert set(module.config_keys) - known <= {"pooling_mode"}
    kind = "sentence_bert_config.json"
    assert set(modules.Transformer.config_keys) <= NO_EFFECT[kind] | set(NEUTRAL[kind])


def test_every_key_that_a_cross_encoder_writes_is_in_the_table(tmp_path):
    folder = tmp_path / "base"
    FAMILIES["bert"](folder)
    model = CrossEncoder(str(folder), num_labels=1, device="cpu")
    model.save(str(tmp_path / "saved"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", CheckpointWarning)
        assert checkpoint.read_checkpoint(tmp_path / "saved").kind == "reranker"
    change(tmp_path / "saved" / "config.json", sentence_transformers={"version": "6", "scale": 2})
    with pytest.warns(CheckpointWarning, match=r"`sentence_transformers.scale` = 2"):
        checkpoint.read_checkpoint(tmp_path / "saved")


def test_every_setting_of_lora_is_in_the_table():
    names = {field.name for field in dataclasses.fields(LoraConfig)}
    name = "adapter_config.json"
    assert names <= USED[name] | NO_EFFECT[name] | set(NEUTRAL[name])


@pytest.mark.parametrize("name", SENTENCE_CONFIGS)
def test_the_settings_of_the_first_module_are_read_by_all_their_names(bert, name):
    source = inspect.getsource(sentence_transformers.base.modules.transformer)
    assert set(SENTENCE_CONFIGS) == set(re.findall(r"sentence_[\w-]+_config\.json", source))
    (bert / "sentence_bert_config.json").rename(bert / name)
    change(bert / name, max_seq_length=77, do_lower_case=True)
    found = checkpoint.read_checkpoint(bert)
    assert found.max_length == 77 and found.tokenizer.lowercase
    change(bert / name, mask_ratio=1)
    with pytest.warns(CheckpointWarning, match=rf"{name}` says what is not applied here: `mask"):
        checkpoint.read_checkpoint(bert)


PLANTED = [
    ("config.json", {"attention_scale": 2}),
    ("sentence_bert_config.json", {"query_scale": 32}),
    ("config_sentence_transformers.json", {"rotation": 16}),
    ("1_Pooling/config.json", {"scale": 2}),
    ("2_Normalize/config.json", {"power": 3}),
    ("tokenizer_config.json", {"split_hyphens": True}),
    ("special_tokens_map.json", {"query_token": "[Q]"}),
    ("generation_config.json", {"head_scale": 2}),
    ("adapter_config.json", {"delta_scale": 2}),
]
NOT_NEUTRAL = [
    ("config.json", {"partial_rotary_factor": 0.5}),
    ("config.json", {"is_encoder_decoder": True}),
    ("config.json", {"vision_config": {"depth": 2}}),
    ("config.json", {"rope_parameters": {"rope_theta": 5}}),
    ("sentence_bert_config.json", {"query_length": 32}),
    ("config_sentence_transformers.json", {"truncate_dim": 16}),
    ("2_Normalize/config.json", {"module_output_name": "norm"}),
    ("tokenizer_config.json", {"truncation_side": "left"}),
    ("tokenizer_config.json", {"split_special_tokens": True}),
]


def plant(folder, file, settings):
    """Set keys of one of a folder's files; the file may not be there yet."""
    if file == "adapter_config.json":
        tensors = {"encoder.layer.0.output.dense.bias": torch.zeros(48)}
        save_file(tensors, folder / "adapter_model.safetensors")
        settings = {"peft_type": "LORA"} | settings
    (folder / file).parent.mkdir(exist_ok=True)
    change(folder / file, **settings)


@pytest.mark.parametrize(("file", "settings"), [*PLANTED, *NOT_NEUTRAL])
def test_a_key_that_is_not_applied_is_told_with_its_file(bert, file, settings):
    (key,) = settings
    plant(bert, file, settings)
    with pytest.warns(CheckpointWarning, match=rf"{file}` says what is not applied here: `{key}`"):
        checkpoint.read_checkpoint(bert)


def test_a_key_of_an_entry_of_modules_json_is_told(bert):
    listed = json.loads((bert / "modules.json").read_text())
    listed[1]["scale"] = 2
    (bert / "modules.json").write_text(json.dumps(listed))
    with pytest.warns(CheckpointWarning, match=r"modules.json` says .*: `scale` = 2"):
        checkpoint.read_checkpoint(bert)


@pytest.mark.parametrize(
    ("model", "settings", "key"),
    [
        ("qwen3", {"rope_parameters": {"rope_theta": 5, "low": 1}}, "rope_parameters.low"),
        (
            "modernbert",
            {"rope_parameters": {"full_attention": {"rope_theta": 5, "beta": 1}}},
            "rope_parameters.full_attention.beta",
        ),
        ("new", {"rope_scaling": {"type": "ntk", "factor": 2, "beta": 1}}, "rope_scaling.beta"),
        ("nvembed", {"latent_attention_config": {"slope": 1}}, "latent_attention_config.slope"),
        ("nvembed", {"text_config": {"slope": 1}}, "text_config.slope"),
    ],
)
def test_a_key_inside_an_object_is_told_with_its_path(tmp_path, model, settings, key):
    config = next(c for c in CONFIGS.values() if c["model_type"] == model)
    (name,) = settings
    inner = settings[name] | {} if model != "nvembed" else config[name] | settings[name]
    config = ReadConfig(config | {name: inner})
    arch.plan_of(config)
    with pytest.warns(CheckpointWarning, match=rf"not applied here: `{key}` = 1\. If"):
        check_keys(tmp_path / "config.json", config)


@pytest.mark.parametrize("command", [["info"], ["embed", "a cat", "--engine", "torch", "-m"]])
@pytest.mark.parametrize(("file", "settings"), PLANTED)
def test_the_commands_report_it(bert, command, file, settings):
    plant(bert, file, settings)
    result = CliRunner().invoke(main, [*command, str(bert)])
    (key,) = settings
    assert result.exit_code == 0 and f"{file}` says what is not" in result.stderr
    assert f"`{key}` = " in result.stderr


@pytest.mark.parametrize(("file", "settings"), PLANTED)
def test_the_log_of_the_server_has_it(bert, caplog, monkeypatch, file, settings):
    plant(bert, file, settings)
    (key,) = settings
    monkeypatch.setattr(warnings, "showwarning", logs.log_warning)  # as `logs.configure` does
    with warnings.catch_warnings():
        warnings.simplefilter("always", CheckpointWarning)
        load_model(ModelSettings(str(bert), engine="torch"))
    told = f"{file}` says what is not applied here: `{key}`"
    assert any(told in str(vars(record)) for record in caplog.records)


@pytest.mark.slow
def test_the_log_of_a_started_server_has_it(bert):
    for file, settings in PLANTED:
        plant(bert, file, settings)
    with server("--model", f"planted={bert}", "--engine", "torch", "--log-format", "json") as one:
        with one.client() as http:
            assert http.get("/ready").status_code == 200
        said = [line["says"] for line in one.log if line["event"] == "warning" and "says" in line]
    for file, (key,) in PLANTED:
        told = f"{file}` says what is not applied here: `{key}`"
        assert any(told in each for each in said), f"{told}: {said}"


def test_tokens_that_only_other_files_name_are_told(bert):
    plant(bert, "tokenizer_config.json", {"additional_special_tokens": ["[NEW]", "[CLS]"]})
    with pytest.warns(CheckpointWarning, match=r"config.json names tokens .* \('\[NEW\]'"):
        assert checkpoint.read_checkpoint(bert).tokenizer


def test_a_space_that_contradicts_the_tokenizer_is_told(families, tmp_path):
    folder = shutil.copytree(families["xlm-roberta"], tmp_path / "model")
    change(folder / "tokenizer_config.json", add_prefix_space=False)
    with pytest.warns(CheckpointWarning, match=r"`add_prefix_space` = False, but tokenizer"):
        assert checkpoint.read_checkpoint(folder).tokenizer


@pytest.mark.parametrize("settings", [{"use_residual": True}, {"module_input_name": "x"}])
def test_a_projection_that_does_more_is_told(tmp_path, settings):
    dense = {"in_features": 8, "out_features": 8, "bias": True, "use_residual": False}
    check_keys(tmp_path / "config.json", dense, kind="Dense")
    with pytest.warns(CheckpointWarning, match=f"`{next(iter(settings))}` = "):
        check_keys(tmp_path / "config.json", dense | settings, kind="Dense")


def test_layer_types_decide_where_a_window_is():
    config = dict(next(c for c in CONFIGS.values() if c["model_type"] == "qwen3"))
    kinds = ["sliding_attention"] + ["full_attention"] * (config["num_hidden_layers"] - 1)
    config |= {"sliding_window": 9, "use_sliding_window": True, "layer_types": kinds}
    windows = [layer.attention.window for layer in arch.plan_of(config).layers]
    assert windows == [8] + [None] * (len(kinds) - 1)
