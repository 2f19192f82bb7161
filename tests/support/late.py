"""Tiny late-interaction checkpoints with random weights, laid out as PyLate does."""

from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel

from tests.support import checkpoints

WIDTH = 48
SIZES = {
    "vocab_size": checkpoints.VOCABULARY,
    "hidden_size": WIDTH,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def body(folder: Path, kind: str = "bert") -> Path:
    """Write a transformer without a pooling, with the markers in its vocabulary."""
    model: Any
    if kind == "modernbert":
        tokens = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3}
        config = ModernBertConfig(
            **SIZES,
            num_hidden_layers=4,
            local_attention=48,
            bos_token_id=2,
            eos_token_id=3,
            **tokens,
        )
        model = ModernBertModel(config)
    else:
        model = BertModel(BertConfig(**SIZES, num_hidden_layers=2))
    checkpoints.transformers_model(folder, model, pooling=None)
    checkpoints.add_tokens(folder, "[Q] ", "[D] ")
    return folder


def projection(folder: Path, inputs: int, outputs: int, **settings: Any) -> None:
    """Write a Dense module; use_residual adds the matrix that unequal widths need."""
    generator = torch.Generator().manual_seed(outputs)
    tensors = {"linear.weight": torch.randn(outputs, inputs, generator=generator) / inputs**0.5}
    if settings.get("bias"):
        tensors["linear.bias"] = torch.randn(outputs, generator=generator)
    if settings.get("use_residual") and inputs != outputs:
        tensors["residual.weight"] = torch.randn(outputs, inputs, generator=generator)
    activation = settings.pop("activation_function", "torch.nn.modules.linear.Identity")
    checkpoints.add_dense(folder, tensors, activation)
    path = folder / "config.json"
    checkpoints.write_json(path, checkpoints.read_json(path) | settings)


def pylate(
    folder: Path, kind: str = "bert", widths: tuple[int, ...] = (16,), **settings: Any
) -> Path:
    """Write a whole checkpoint as PyLate keeps it; settings are those of its configuration."""
    body(folder, kind)
    dense, modules, before = settings.pop("dense", {}), [], WIDTH
    for i, width in enumerate(widths, start=1):
        projection(folder / f"{i}_Dense", before, width, **dense)
        before = width
        kept = {"idx": i, "name": str(i), "path": f"{i}_Dense", "type": "pylate.models.Dense.Dense"}
        modules.append(kept)
    first = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    checkpoints.write_json(folder / "modules.json", [first, *modules])
    checkpoints.write_json(
        folder / "sentence_bert_config.json", {"max_seq_length": 64, "do_lower_case": False}
    )
    defaults = {
        "model_type": "ColBERT",
        "query_prefix": "[Q] ",
        "document_prefix": "[D] ",
        "query_length": 12,
        "document_length": 20,
        "attend_to_expansion_tokens": False,
        "do_query_expansion": True,
        "skiplist_words": list(".,!?"),
    }
    checkpoints.write_json(folder / "config_sentence_transformers.json", defaults | settings)
    return folder
