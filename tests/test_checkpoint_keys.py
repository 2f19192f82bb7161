"""Every key that transformers and sentence-transformers write is used, known, or told."""

import json
import warnings

import pytest
import transformers
from click.testing import CliRunner
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules

from opengte import arch, checkpoint
from opengte.checkpoint_keys import ReadConfig, check_keys
from opengte.cli import main
from opengte.errors import CheckpointWarning
from tests.parity.families import FAMILIES
from tests.support.published_configs import CONFIGS

CLASSES = "Bert Roberta XLMRoberta ModernBert Qwen2 Qwen3 Mistral".split()


@pytest.fixture
def bert(tmp_path):
    FAMILIES["bert"](tmp_path)
    return tmp_path


def change(path, **changes):
    values = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(values | changes))


def check(path, settings):
    config = ReadConfig(settings)
    arch.plan_of(config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_keys(path / "config.json", config, used=config.read)


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


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("config.json", {"attention_scale": 2}),
        ("config.json", {"partial_rotary_factor": 0.5}),
        ("config.json", {"is_encoder_decoder": True}),
        ("sentence_bert_config.json", {"query_length": 32}),
        ("config_sentence_transformers.json", {"truncate_dim": 16}),
        ("1_Pooling/config.json", {"scale": 2}),
    ],
)
def test_a_key_that_is_not_applied_is_told_with_its_file(bert, file, settings):
    (key,) = settings
    change(bert / file, **settings)
    with pytest.warns(CheckpointWarning, match=rf"{file}` says what is not applied here: `{key}`"):
        checkpoint.read_checkpoint(bert)


@pytest.mark.parametrize("command", [["info"], ["embed", "a cat", "--engine", "torch", "-m"]])
def test_the_commands_report_it(bert, command):
    change(bert / "config.json", attention_scale=2)
    result = CliRunner().invoke(main, [*command, str(bert)])
    assert result.exit_code == 0 and "`attention_scale` = 2" in result.stderr


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
