"""Writers of tiny checkpoint folders with random weights, laid out as the published ones are.

`transformers_model` starts from a class of transformers; `new_model` and `nvembed_model` write the
published tensor names by hand. The other functions change a folder in place: other dtypes, other
files, prefixes, older config keys, and the module files of sentence-transformers.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from tests.support import tokenizers_for_tests

Config = dict[str, Any]
Tensors = dict[str, torch.Tensor]
Arrays = dict[str, npt.NDArray[np.float64]]

VOCABULARY = 512  # more than the tokenizers of `tokenizers_for_tests` have


# --- random weights that hide nothing -------------------------------------------------------------


_TABLES = ("_embeddings.weight", "embed_tokens.weight", "latents")


def random_weight(
    name: str, shape: Sequence[int], generator: torch.Generator, norms_around: float = 1.0
) -> torch.Tensor:
    """Return a weight that keeps states near unit size, with no neutral norm and no zero bias."""
    noise = torch.randn(*shape, generator=generator)
    if name.endswith(".bias"):
        return 0.3 * noise
    if len(shape) == 1:
        return norms_around + 0.3 * noise
    if name.endswith(_TABLES):
        return noise
    if name.endswith("SelfAttention.q.weight"):
        noise *= 0.3  # T5 does not divide scores by the square root of the head dimension
    return noise / math.sqrt(shape[-1])


def randomise(module: torch.nn.Module, seed: int, norms_around: float = 1.0) -> None:
    """Replace every parameter of the module."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(random_weight(name, parameter.shape, generator, norms_around))


# --- tokenizers -----------------------------------------------------------------------------------

_TOKENIZERS = {
    "bert": tokenizers_for_tests.save_wordpiece,
    "roberta": tokenizers_for_tests.save_unigram,
    "xlm-roberta": tokenizers_for_tests.save_unigram,
    "new": tokenizers_for_tests.save_wordpiece,
    "gte": tokenizers_for_tests.save_wordpiece,
    "modernbert": tokenizers_for_tests.save_wordpiece,
    "qwen2": tokenizers_for_tests.save_bpe,
    "qwen3": tokenizers_for_tests.save_qwen3,
    "mistral": tokenizers_for_tests.save_mistral,
    "nvembed": tokenizers_for_tests.save_mistral,
    "camembert": tokenizers_for_tests.save_unigram,
    "distilbert": tokenizers_for_tests.save_wordpiece,
    "electra": tokenizers_for_tests.save_wordpiece,
    "eurobert": tokenizers_for_tests.save_bpe,
    "gemma3_text": tokenizers_for_tests.save_mistral,
    "llama": tokenizers_for_tests.save_mistral,
    "llama_bidirec": tokenizers_for_tests.save_mistral,
    "ministral": tokenizers_for_tests.save_mistral,
    "ministral3": tokenizers_for_tests.save_mistral,
    "mpnet": tokenizers_for_tests.save_wordpiece,
    "nomic_bert": tokenizers_for_tests.save_wordpiece,
    "t5": tokenizers_for_tests.save_unigram,
}


def add_tokenizer(folder: Path, model_type: str) -> None:
    """Write a tokenizer of the kind that the model's family has."""
    _TOKENIZERS[model_type](folder)


def edit_tokenizer_config(folder: Path, **changes: Any) -> None:
    """Set keys of tokenizer_config.json."""
    path = folder / "tokenizer_config.json"
    write_json(path, read_json(path) | changes)


def add_tokens(folder: Path, *texts: str) -> list[int]:
    """Add whole-text tokens to the folder's tokenizer and return their ids."""
    path = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.add_tokens(list(texts))
    tokenizer.save(path)
    return [tokenizer.encode(text, add_special_tokens=False).ids[0] for text in texts]


# --- folders --------------------------------------------------------------------------------------


def transformers_model(
    folder: Path,
    model: Any,
    *,
    seed: int = 0,
    pooling: str | None = "mean",
    norms_around: float = 1.0,
    **changes: Any,
) -> Any:
    """Give the model random weights, save it with its own `save_pretrained`, and return it.

    `changes` replace keys of the written config.json, see `edit_config`. With `pooling` None there
    are no module files.
    """
    randomise(model, seed, norms_around)
    model.eval().save_pretrained(folder)
    add_tokenizer(folder, model.config.model_type)
    edit_config(folder, **changes)
    if pooling is not None:
        add_modules(folder, pooling)
    return model


def write(folder: Path, config: Config, tensors: Tensors) -> None:
    """Write config.json, model.safetensors and a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    _save_tensors(folder, tensors)
    add_tokenizer(folder, config["model_type"])


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def edit_config(folder: Path, **changes: Any) -> Config:
    """Set keys of config.json; the value `...` removes a key. Return the new config."""
    config: Config = read_json(folder / "config.json")
    config.update(changes)
    config = {key: value for key, value in config.items() if value is not ...}
    write_json(folder / "config.json", config)
    return config


def older_rope_keys(folder: Path) -> None:
    """Write RoPE settings as transformers did before version 5."""
    config = read_json(folder / "config.json")
    rope = config["rope_parameters"]
    if "full_attention" in rope:  # ModernBERT
        edit_config(
            folder,
            rope_parameters=...,
            layer_types=...,
            global_rope_theta=rope["full_attention"]["rope_theta"],
            local_rope_theta=rope["sliding_attention"]["rope_theta"],
            global_attn_every_n_layers=3,
        )
    else:
        edit_config(
            folder,
            rope_parameters=...,
            layer_types=...,
            rope_theta=rope["rope_theta"],
            rope_scaling=None,
            torch_dtype=config.get("dtype", "float32"),
            dtype=...,
        )


def _save_tensors(folder: Path, tensors: Tensors, name: str = "model.safetensors") -> None:
    contiguous = {key: tensor.detach().clone().contiguous() for key, tensor in tensors.items()}
    save_file(contiguous, folder / name, metadata={"format": "pt"})


def tensors_of(folder: Path) -> Tensors:
    """Return every tensor of a folder that holds a single model.safetensors."""
    return dict(load_file(folder / "model.safetensors"))


def arrays_of(folder: Path) -> Arrays:
    """Return the same as float64 arrays, for `naive`."""
    return as_arrays(tensors_of(folder))


def as_arrays(tensors: Mapping[str, torch.Tensor]) -> Arrays:
    return {name: tensor.to(torch.float64).numpy() for name, tensor in tensors.items()}


def add_prefix(folder: Path, prefix: str) -> None:
    """Rename every tensor, as a checkpoint saved from a model with a head does."""
    _save_tensors(folder, {prefix + name: value for name, value in tensors_of(folder).items()})


def add_tensors(folder: Path, **tensors: torch.Tensor) -> None:
    """Add tensors to model.safetensors; `__` stands for a dot."""
    extra = {name.replace("__", "."): value for name, value in tensors.items()}
    _save_tensors(folder, tensors_of(folder) | extra)


def drop_tensors(folder: Path, *names: str) -> None:
    """Take tensors out of model.safetensors."""
    kept = {name: value for name, value in tensors_of(folder).items() if name not in names}
    _save_tensors(folder, kept)


def cast(folder: Path, dtype: torch.dtype) -> None:
    """Store every tensor in another dtype, and say so in config.json."""
    _save_tensors(folder, {name: value.to(dtype) for name, value in tensors_of(folder).items()})
    edit_config(folder, torch_dtype=str(dtype).removeprefix("torch."))


def _groups(names: Sequence[str], count: int) -> Iterator[Sequence[str]]:
    size = math.ceil(len(names) / count)
    for start in range(0, len(names), size):
        yield names[start : start + size]


def _save_pickle(folder: Path, tensors: Tensors, name: str = "pytorch_model.bin") -> None:
    torch.save(tensors, folder / name)


def _replace_by_shards(folder: Path, count: int, file: str, save: Any) -> None:
    tensors, (stem, suffix) = tensors_of(folder), file.split(".")
    groups = list(_groups(sorted(tensors), count))
    weight_map = {}
    for i, group in enumerate(groups, start=1):
        name = f"{stem}-{i:05d}-of-{len(groups):05d}.{suffix}"
        save(folder, {key: tensors[key] for key in group}, name)
        weight_map.update(dict.fromkeys(group, name))
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    write_json(folder / f"{file}.index.json", index)
    (folder / "model.safetensors").unlink()


def shard(folder: Path, count: int = 3) -> None:
    """Cut model.safetensors into files with an index."""
    _replace_by_shards(folder, count, "model.safetensors", _save_tensors)


def unshard(folder: Path, tensors: Tensors) -> None:
    """Put one model.safetensors in the place of every weight file."""
    for file in [*folder.glob("model*.safetensors*"), *folder.glob("pytorch_model*")]:
        file.unlink()
    _save_tensors(folder, tensors)


def to_sharded_pickle(folder: Path, count: int = 3) -> None:
    """Leave pytorch_model-0000N-of-0000M.bin and their index as the only weights."""
    _replace_by_shards(folder, count, "pytorch_model.bin", _save_pickle)


def to_pickle(folder: Path) -> None:
    """Leave pytorch_model.bin as the only weights."""
    _save_pickle(folder, tensors_of(folder))
    (folder / "model.safetensors").unlink()


# --- the module files of sentence-transformers ----------------------------------------------------

_POOLING_KEYS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "last": "pooling_mode_lasttoken",
}


def pooling_config(width: int, *modes: str) -> Config:
    """Return 1_Pooling/config.json with the given modes on."""
    flags = {key: mode in modes for mode, key in _POOLING_KEYS.items()}
    return {"word_embedding_dimension": width, **flags, "include_prompt": True}


def _module(index: int, path: str, kind: str) -> Config:
    return {
        "idx": index,
        "name": str(index),
        "path": path,
        "type": f"sentence_transformers.models.{kind}",
    }


def add_modules(
    folder: Path,
    pooling: str,
    *,
    dense: Tensors | None = None,
    activation: str = "torch.nn.modules.activation.Tanh",
    normalize: bool = True,
    prompts: Mapping[str, str] | None = None,
    max_seq_length: int = 8192,
) -> None:
    """Write modules.json and the files of its modules."""
    config = read_json(folder / "config.json")
    width = next(config[key] for key in ("hidden_size", "dim", "d_model") if key in config)
    modules = [_module(0, "", "Transformer"), _module(1, "1_Pooling", "Pooling")]
    write_json(folder / "1_Pooling" / "config.json", pooling_config(width, pooling))
    if dense is not None:
        modules.append(_module(2, "2_Dense", "Dense"))
        add_dense(folder / "2_Dense", dense, activation)
    if normalize:
        number = len(modules)
        modules.append(_module(number, f"{number}_Normalize", "Normalize"))
    write_json(folder / "modules.json", modules)
    write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": max_seq_length, "do_lower_case": False},
    )
    write_json(
        folder / "config_sentence_transformers.json",
        {"prompts": dict(prompts or {}), "default_prompt_name": None},
    )


def add_dense(folder: Path, tensors: Tensors, activation: str) -> None:
    """Write a Dense module: `linear.weight` and perhaps `linear.bias`."""
    outputs, inputs = tensors["linear.weight"].shape
    config = {
        "in_features": inputs,
        "out_features": outputs,
        "bias": "linear.bias" in tensors,
        "activation_function": activation,
    }
    write_json(folder / "config.json", config)
    _save_tensors(folder, tensors)


# --- bge-m3 ---------------------------------------------------------------------------------------


def add_m3_heads(folder: Path, width: int, token_width: int, seed: int = 1) -> dict[str, Tensors]:
    """Write sparse_linear.pt and colbert_linear.pt, and return what is in them."""
    generator = torch.Generator().manual_seed(seed)
    heads: dict[str, Tensors] = {}
    for name, outputs in (("sparse_linear", 1), ("colbert_linear", token_width)):
        heads[name] = {
            "weight": random_weight("weight", (outputs, width), generator),
            "bias": random_weight(".bias", (outputs,), generator),
        }
        torch.save(heads[name], folder / f"{name}.pt")
    return heads


# --- the `new` architecture -----------------------------------------------------------------------

NEW_CONFIG: Config = {
    "model_type": "new",
    "architectures": ["NewModel"],
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 72,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": 64,
    "type_vocab_size": 0,
    "layer_norm_type": "layer_norm",
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "rope",
    "rope_theta": 500000,
    "rope_scaling": None,
    "pack_qkv": True,
    "unpad_inputs": False,
    "use_memory_efficient_attention": False,
    "logn_attention_scale": False,
    "logn_attention_clip1": False,
    "pad_token_id": 0,
    "torch_dtype": "float32",
}


def _new_layer_shapes(config: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, inner = config["hidden_size"], config["intermediate_size"]
    packed = [("qkv_proj", 3 * width)]
    apart = [("q_proj", width), ("k_proj", width), ("v_proj", width)]
    for name, rows in packed if config["pack_qkv"] else apart:
        yield f"attention.{name}.weight", (rows, width)
        yield f"attention.{name}.bias", (rows,)
    yield "attention.o_proj.weight", (width, width)
    yield "attention.o_proj.bias", (width,)
    for norm in ("attn_ln", "mlp_ln"):
        yield f"{norm}.weight", (width,)
        if config["layer_norm_type"] == "layer_norm":
            yield f"{norm}.bias", (width,)
    yield "mlp.up_gate_proj.weight", (2 * inner, width)
    yield "mlp.down_proj.weight", (width, inner)
    yield "mlp.down_proj.bias", (width,)


def _new_shapes(config: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = config["hidden_size"]
    yield "embeddings.word_embeddings.weight", (config["vocab_size"], width)
    if config["position_embedding_type"] == "absolute":
        rows = config["max_position_embeddings"]
        yield "embeddings.position_embeddings.weight", (rows, width)
    if config["type_vocab_size"]:
        yield "embeddings.token_type_embeddings.weight", (config["type_vocab_size"], width)
    yield "embeddings.LayerNorm.weight", (width,)
    yield "embeddings.LayerNorm.bias", (width,)
    for i in range(config["num_hidden_layers"]):
        for name, shape in _new_layer_shapes(config):
            yield f"encoder.layer.{i}.{name}", shape


_NEW_HEADS = {"NewForTokenClassification", "NewForSequenceClassification"}


def new_tensors(config: Config, seed: int = 0, *, prefix: bool | None = None) -> Tensors:
    """Return a `new` checkpoint's tensors; heads follow `architectures`, and bring the prefix."""
    heads = _NEW_HEADS & set(config["architectures"])
    before = "new." if (prefix if prefix is not None else heads) else ""
    width = config["hidden_size"]
    shapes = {before + name: shape for name, shape in _new_shapes(config)}
    if heads:
        shapes |= {"classifier.weight": (1, width), "classifier.bias": (1,)}
    if "NewForSequenceClassification" in heads:
        shapes |= {"new.pooler.dense.weight": (width, width), "new.pooler.dense.bias": (width,)}
    generator = torch.Generator().manual_seed(seed)
    return {name: random_weight(name, shape, generator) for name, shape in shapes.items()}


def new_model(
    folder: Path, *, seed: int = 0, prefix: bool | None = None, **changes: Any
) -> tuple[Config, Arrays]:
    """Write a `new` checkpoint; return its config, and its tensors for `naive`."""
    config = NEW_CONFIG | {"num_labels": 1} | changes
    tensors = new_tensors(config, seed, prefix=prefix)
    write(folder, config, tensors)
    add_modules(folder, "cls")
    return config, as_arrays(tensors)


# --- NV-Embed -------------------------------------------------------------------------------------

NVEMBED_CONFIG: Config = {
    "model_type": "nvembed",
    "architectures": ["NVEmbedModel"],
    "hidden_size": 32,
    "is_mask_instruction": True,
    "padding_side": "right",
    "add_eos": True,
    "add_pad_token": True,
    "mask_type": "b",
    "torch_dtype": "float32",
    "text_config": {
        "model_type": "bidir_mistral",
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "latent_attention_config": {
        "model_type": "latent_attention",
        "num_latents_value": 12,
        "num_cross_heads": 3,
        "output_normalize": False,
        "hidden_dim": 32,
        "latent_dim": 32,
        "cross_dim_head": 20,
    },
}


def _mistral_shapes(config: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, inner = config["hidden_size"], config["intermediate_size"]
    head_dim = width // config["num_attention_heads"]
    queries, keys = width, head_dim * config["num_key_value_heads"]
    yield "embed_tokens.weight", (config["vocab_size"], width)
    for i in range(config["num_hidden_layers"]):
        name = f"layers.{i}"
        for part, rows in (("q", queries), ("k", keys), ("v", keys), ("o", width)):
            yield f"{name}.self_attn.{part}_proj.weight", (rows, queries if part == "o" else width)
        yield f"{name}.mlp.gate_proj.weight", (inner, width)
        yield f"{name}.mlp.up_proj.weight", (inner, width)
        yield f"{name}.mlp.down_proj.weight", (width, inner)
        yield f"{name}.input_layernorm.weight", (width,)
        yield f"{name}.post_attention_layernorm.weight", (width,)
    yield "norm.weight", (width,)


def _latent_shapes(config: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = config["latent_dim"]
    attended = config["num_cross_heads"] * config["cross_dim_head"]
    attend, feed = "cross_attend_blocks.0", "cross_attend_blocks.1"
    yield "latents", (config["num_latents_value"], width)
    yield f"{attend}.fn.to_q.weight", (attended, width)
    yield f"{attend}.fn.to_kv.weight", (2 * attended, config["hidden_dim"])
    yield f"{attend}.fn.to_out.weight", (width, attended)
    for norm in (f"{attend}.norm", f"{attend}.norm_context", f"{feed}.norm"):
        yield f"{norm}.weight", (width,)
        yield f"{norm}.bias", (width,)
    yield f"{feed}.fn.net.0.weight", (8 * width, width)
    yield f"{feed}.fn.net.0.bias", (8 * width,)
    yield f"{feed}.fn.net.2.weight", (width, 4 * width)
    yield f"{feed}.fn.net.2.bias", (width,)


def nvembed_model(
    folder: Path, *, seed: int = 0, latent_scale: float = 1.0, **changes: Any
) -> tuple[Config, Arrays]:
    """Write an NV-Embed checkpoint; return its config, and its tensors for `naive`."""
    config = NVEMBED_CONFIG | changes
    shapes = {f"embedding_model.{n}": s for n, s in _mistral_shapes(config["text_config"])}
    latent = config["latent_attention_config"]
    shapes |= {f"latent_attention_model.{n}": s for n, s in _latent_shapes(latent)}
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: random_weight(name, shape, generator) for name, shape in shapes.items()}
    tensors["latent_attention_model.latents"] *= latent_scale
    write(folder, config, tensors)
    return config, as_arrays(tensors)
