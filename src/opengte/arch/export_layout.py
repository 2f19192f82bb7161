"""The layout of an exported checkpoint: the tensors to write for a plan, and its config.json.

It is that of transformers' own classes: tensors of a bare encoder have no prefix, those of a model
with a head have the model's prefix.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opengte.arch.plan import Plan, Rope
from opengte.arch.tensors import TensorNaming, expected_tensors
from opengte.errors import UnsupportedModelError

# model_type -> (stem of the class names, prefix of the body's tensors)
CLASSES = {
    "bert": ("Bert", "bert."),
    "roberta": ("Roberta", "roberta."),
    "xlm-roberta": ("XLMRoberta", "roberta."),
    "new": ("New", "new."),
    "gte": ("Gte", "gte."),
    "modernbert": ("ModernBert", "model."),
    "qwen2": ("Qwen2", "model."),
    "qwen3": ("Qwen3", "model."),
    "mistral": ("Mistral", "model."),
    "camembert": ("Camembert", "roberta."),
    "distilbert": ("DistilBert", "distilbert."),
    "electra": ("Electra", "electra."),
    "eurobert": ("EuroBert", "model."),
    "llama": ("Llama", "model."),
    "mpnet": ("MPNet", "mpnet."),
}


@dataclass(frozen=True)
class SlotRows:
    """Rows [row, row + stop - start) of a slot, which are rows [start, stop) of a tensor."""

    slot: str
    row: int
    start: int
    stop: int


@dataclass(frozen=True)
class ExportedTensor:
    """One checkpoint tensor: its shape, and the parts that fill it."""

    shape: tuple[int, ...]
    parts: tuple[SlotRows, ...]


def export_tensors(plan: Plan, naming: TensorNaming, model_type: str) -> dict[str, ExportedTensor]:
    """Return the checkpoint tensors to write for a plan; those of side files are `file:tensor`."""
    if plan.score is not None and plan.score.vocabulary_rows is not None:
        raise UnsupportedModelError(
            "the head reads its score from rows of the vocabulary, which are weights of the body "
            "as well: train a sequence classifier, with a ScoreHead of one output"
        )
    _, prefix = _class(model_type)
    pieces = expected_tensors(plan, naming, prefix if _head(plan) else "")
    parts: dict[str, list[SlotRows]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for slot, found in pieces.items():
        row = 0
        for piece in found:
            shapes[piece.tensor] = piece.shape
            part = SlotRows(slot, row, piece.start, piece.stop)
            parts.setdefault(piece.tensor, []).append(part)
            row += piece.stop - piece.start
    return {name: ExportedTensor(shapes[name], tuple(parts[name])) for name in shapes}


def export_config(plan: Plan, base: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Return config.json for a plan: that of its base model, with the class and dtype to write.

    A `new` model with unscaled rotary positions becomes a `gte` model, which transformers supports.
    """
    written = {k: v for k, v in base.items() if k not in ("auto_map", "torch_dtype", "dtype")}
    rope = plan.layers[0].attention.rope
    if plan.architecture == "new" and rope is not None and _is_gte(plan, rope):
        written["model_type"] = "gte"
        written["rope_parameters"] = {"rope_type": "default", "rope_theta": rope.theta}
        written = {k: v for k, v in written.items() if k not in ("rope_scaling", "rope_theta")}
    elif plan.architecture == "new":
        written |= {"pack_qkv": True, "auto_map": base.get("auto_map", {})}
    if plan.architecture == "jinabert":  # of type `bert`, which has no ALiBi
        raise UnsupportedModelError("JinaBERT v2 cannot be written: transformers has no class")
    stem, _ = _class(str(written.get("model_type")))
    written["architectures"] = [stem + (_head(plan) or "Model")]
    written["torch_dtype"] = dtype
    if _head(plan) == "ForSequenceClassification":
        written |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        written.pop("num_labels", None)
    if plan.sparse and _head(plan) == "ForTokenClassification":
        written |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    return written


def _is_gte(plan: Plan, rope: Rope) -> bool:
    """Return whether transformers' `gte` can represent a `new` network."""
    layer = plan.layers[0]
    return (
        rope.ntk_factor == 1.0 and layer.attention.logn is None and layer.ffn_norm.kind == "layer"
    )


def _class(model_type: str) -> tuple[str, str]:
    if model_type not in CLASSES:
        raise UnsupportedModelError(
            f"a model of type {model_type!r} cannot be written: expected {', '.join(CLASSES)}"
        )
    return CLASSES[model_type]


def _head(plan: Plan) -> str:
    """Return the suffix of the class name for the head in the main file, "" without a head."""
    if plan.score is not None:
        return "ForSequenceClassification"
    if plan.masked is not None:
        return "ForMaskedLM"
    return "ForTokenClassification" if plan.sparse and plan.architecture == "new" else ""
