"""One tiny checkpoint of each architecture, for properties that all of them share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import (
    BertConfig,
    BertModel,
    Gemma3TextConfig,
    Gemma3TextModel,
    MistralConfig,
    MistralModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from tests.support import checkpoints

ENCODER: dict[str, Any] = {
    "vocab_size": checkpoints.VOCABULARY,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
}
DECODER: dict[str, Any] = ENCODER | {
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 56,
    "max_position_embeddings": 2048,
}


def _bert(folder: Path) -> None:
    checkpoints.transformers_model(folder, BertModel(BertConfig(**ENCODER)))
    checkpoints.add_modules(folder, "mean")


def _xlm_roberta(folder: Path) -> None:
    config = XLMRobertaConfig(**ENCODER, max_position_embeddings=514, type_vocab_size=1)
    checkpoints.transformers_model(folder, XLMRobertaModel(config))
    checkpoints.add_modules(folder, "mean")


def _new(folder: Path) -> None:
    checkpoints.new_model(folder, rope_scaling={"type": "ntk", "factor": 8.0})
    checkpoints.add_modules(folder, "cls")


def _modernbert(folder: Path) -> None:
    config = ModernBertConfig(**ENCODER | {"num_hidden_layers": 4}, pad_token_id=0)
    checkpoints.transformers_model(folder, ModernBertModel(config))
    checkpoints.older_rope_keys(folder)
    checkpoints.add_modules(folder, "cls")


def _qwen2(folder: Path) -> None:
    model = Qwen2Model(Qwen2Config(**DECODER))
    auto_map = {"AutoModel": "modeling_qwen.Qwen2Model"}
    checkpoints.transformers_model(folder, model, auto_map=auto_map)
    checkpoints.older_rope_keys(folder)
    checkpoints.add_modules(folder, "last")


def _qwen3(folder: Path) -> None:
    checkpoints.transformers_model(folder, Qwen3Model(Qwen3Config(**DECODER, head_dim=16)))
    checkpoints.older_rope_keys(folder)
    checkpoints.add_modules(folder, "last")


def _mistral(folder: Path) -> None:
    config = MistralConfig(**DECODER, head_dim=16, sliding_window=16)
    checkpoints.transformers_model(folder, MistralModel(config))
    checkpoints.older_rope_keys(folder)
    checkpoints.add_modules(folder, "last")


def _mpnet(folder: Path) -> None:
    checkpoints.transformers_model(folder, MPNetModel(MPNetConfig(**ENCODER)))
    checkpoints.add_modules(folder, "mean")


def _gemma3(folder: Path) -> None:
    config = Gemma3TextConfig(
        **DECODER, head_dim=16, sliding_window=16, use_bidirectional_attention=True
    )
    checkpoints.transformers_model(folder, Gemma3TextModel(config), norms_around=0.0)
    checkpoints.add_modules(folder, "mean")


def _nvembed(folder: Path) -> None:
    checkpoints.nvembed_model(folder)


FAMILIES: dict[str, Callable[[Path], None]] = {
    "bert": _bert,
    "xlm-roberta": _xlm_roberta,
    "new": _new,
    "modernbert": _modernbert,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "mistral": _mistral,
    "nvembed": _nvembed,
    "mpnet": _mpnet,
    "gemma3_text": _gemma3,
}
