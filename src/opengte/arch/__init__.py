"""Architectures as data: the plan of a `config.json`, and the names of its checkpoint tensors.

A plan says what a checkpoint computes, without weights and without torch. To add an architecture,
write a module with one plan function and one `TensorNaming`, and list it here.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from opengte.arch import (
    bert,
    decoder,
    distilbert,
    electra,
    gemma,
    jinabert,
    llama,
    mistral,
    modernbert,
    mpnet,
    new,
    nomic,
    nvembed,
    qwen,
    static,
    t5,
)
from opengte.arch.config_values import Config
from opengte.arch.plan import Dense, MaskedHead, Norm, Plan, UnitLength
from opengte.arch.tensors import TensorNaming
from opengte.errors import UnsupportedModelError


@dataclass(frozen=True)
class Architecture:
    """How to read one `model_type`: the plan of its config, and the names of its tensors."""

    plan: Callable[[Config], Plan]
    naming: TensorNaming


ARCHITECTURES: dict[str, Architecture] = {
    "bert": Architecture(bert.bert_plan, bert.BERT),
    "camembert": Architecture(bert.roberta_plan, bert.ROBERTA),
    "distilbert": Architecture(distilbert.distilbert_plan, distilbert.DISTILBERT),
    "electra": Architecture(electra.electra_plan, electra.ELECTRA),
    "eurobert": Architecture(llama.eurobert_plan, llama.EUROBERT),
    "gemma3_text": Architecture(gemma.gemma3_plan, gemma.GEMMA),
    "gte": Architecture(new.new_plan, new.NEW),
    "llama": Architecture(llama.llama_plan, decoder.DECODER),
    "llama_bidirec": Architecture(llama.llama_plan, decoder.DECODER),
    "ministral": Architecture(mistral.ministral_plan, decoder.DECODER),
    "ministral3": Architecture(mistral.ministral3_plan, decoder.DECODER),
    "mistral": Architecture(mistral.mistral_plan, decoder.DECODER),
    "modernbert": Architecture(modernbert.modernbert_plan, modernbert.MODERNBERT),
    "model2vec": Architecture(static.static_plan, static.STATIC),
    "mpnet": Architecture(mpnet.mpnet_plan, mpnet.MPNET),
    "new": Architecture(new.new_plan, new.NEW),
    "nomic_bert": Architecture(nomic.nomic_plan, nomic.NOMIC),
    "nvembed": Architecture(nvembed.nvembed_plan, nvembed.NVEMBED),
    "qwen2": Architecture(qwen.qwen2_plan, decoder.DECODER),
    "qwen3": Architecture(qwen.qwen3_plan, decoder.DECODER),
    "roberta": Architecture(bert.roberta_plan, bert.ROBERTA),
    "static": Architecture(static.static_plan, static.STATIC),
    "t5": Architecture(t5.t5_plan, t5.T5),
    "xlm-roberta": Architecture(bert.roberta_plan, bert.ROBERTA),
}


def architecture_of(config: Config) -> Architecture:
    """Return the architecture of a config; UnsupportedModelError if its type is not supported."""
    name = config.get("model_type")
    if name not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"config.json: `model_type` is {name!r}, expected one of {', '.join(ARCHITECTURES)}. "
            "See CONTRIBUTING.md for how to add an architecture."
        )
    if name == "bert" and jinabert.is_jinabert(config):
        return Architecture(jinabert.jinabert_plan, jinabert.JINABERT)
    return ARCHITECTURES[name]


def plan_of(config: Config) -> Plan:
    """Return the plan of a parsed `config.json`."""
    return architecture_of(config).plan(config)


def with_masked_head(plan: Plan) -> Plan:
    """Add the head for masked language modelling to an encoder's plan.

    Raises UnsupportedModelError for a decoder.
    """
    if not plan.layers:
        raise UnsupportedModelError("a static model has no layers to train by masked words")
    ffn, norm = plan.layers[0].ffn, plan.layers[0].ffn_norm
    if plan.architecture == "modernbert":
        head = MaskedHead(Dense(plan.width, False, ffn.activation), norm)
    elif plan.layers[0].post_norm:
        head = MaskedHead(
            Dense(plan.width, True, ffn.activation), Norm("layer", norm.eps, bias=True)
        )
    else:
        raise UnsupportedModelError(
            f"the architecture is {plan.architecture!r}, expected an encoder with a head for "
            "masked language modelling: bert, xlm-roberta, new or modernbert"
        )
    return replace(plan, masked=head)


def with_modules(
    naming: TensorNaming,
    modules: tuple[tuple[str, Dense | Norm | UnitLength], ...],
    mixer: str | None = None,
    slot: str = "dense",
) -> TensorNaming:
    """Add the tensor names of modules in folders such as `2_Dense` or `3_LayerNorm`.

    slot is `dense` for what happens to the pooled vector, `tokens` for projections of token states.
    mixer is the folder of the module with the weights of layers.
    """
    named = {
        f"{slot}.{i}": (f"{folder}:{'linear' if isinstance(step, Dense) else 'norm'}",)
        for i, (folder, step) in enumerate(modules)
    }
    named |= {
        f"{slot}.{i}.residual": (f"{folder}:residual",) for i, (folder, _) in enumerate(modules)
    }
    if mixer is not None:
        named["layer_mix"] = (f"{mixer}:layer_weights",)
    return replace(naming, heads={**naming.heads, **named})
