"""Write a checkpoint folder with a published shape and random weights, for tests of size and speed.

    python bench/random_checkpoint.py gte-Qwen2-7B-instruct /tmp/gte-qwen2-7b --shards 4

The folder has config.json, safetensors shards with an index, a small tokenizer and the pooling
files that the published model has. Values are normal with a standard deviation of 0.02.
"""

import argparse
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from opengte.arch import architecture_of
from opengte.arch.tensors import TensorSlice, expected_tensors

QWEN2: dict[str, Any] = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "auto_map": {"AutoModel": "modeling_qwen.Qwen2Model"},
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 131072,
    "vocab_size": 151646,
}
NEW: dict[str, Any] = {
    "model_type": "new",
    "architectures": ["NewModel"],
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
    "type_vocab_size": 0,
    "vocab_size": 30528,
}
SHAPES: dict[str, dict[str, Any]] = {
    "gte-base": {
        "model_type": "bert",
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "vocab_size": 30522,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
    },
    "gte-base-en-v1.5": {
        **NEW,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
    "gte-modernbert-base": {
        "model_type": "modernbert",
        "hidden_size": 768,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "intermediate_size": 1152,
        "hidden_activation": "gelu",
        "vocab_size": 50368,
        "max_position_embeddings": 8192,
        "norm_eps": 1e-5,
        "norm_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
        "global_attn_every_n_layers": 3,
        "local_attention": 128,
        "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0,
        "pad_token_id": 0,
    },
    "gte-Qwen2-1.5B-instruct": {
        **QWEN2,
        "hidden_size": 1536,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "intermediate_size": 8960,
    },
    "gte-Qwen2-7B-instruct": {
        **QWEN2,
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
    },
}
DECODERS = ("qwen2",)


def write(folder: Path, config: dict[str, Any], shards: int, dtype: str, seed: int = 0) -> int:
    """Write the folder; return the number of parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**config, "torch_dtype": "bfloat16" if dtype == "BF16" else "float32"}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    architecture = architecture_of(config)
    plan = architecture.plan(config)
    tensors = _tensors(expected_tensors(plan, architecture.naming))
    noise = np.random.default_rng(seed).standard_normal(1 << 22, dtype=np.float32) * 0.02
    groups = _split(tensors, shards)
    index = {}
    for i, group in enumerate(groups):
        name = f"model-{i + 1:05}-of-{len(groups):05}.safetensors"
        _write_shard(folder / name, group, dtype, noise)
        index |= dict.fromkeys(group, name)
    whole = {"metadata": {}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(whole))
    _write_text_files(folder, decoder=config["model_type"] in DECODERS)
    return sum(math.prod(shape) for shape in tensors.values())


def _tensors(sources: dict[str, tuple[TensorSlice, ...]]) -> dict[str, tuple[int, ...]]:
    return {piece.tensor: piece.shape for pieces in sources.values() for piece in pieces}


def _split(tensors: dict[str, tuple[int, ...]], shards: int) -> list[dict[str, tuple[int, ...]]]:
    target = sum(map(math.prod, tensors.values())) / shards
    groups: list[dict[str, tuple[int, ...]]] = [{}]
    for name, shape in tensors.items():
        if sum(map(math.prod, groups[-1].values())) >= target and len(groups) < shards:
            groups.append({})
        groups[-1][name] = shape
    return groups


def _write_shard(
    path: Path, tensors: dict[str, tuple[int, ...]], dtype: str, noise: npt.NDArray[np.float32]
) -> None:
    size = 2 if dtype == "BF16" else 4
    header, offset = {}, 0
    for name, shape in tensors.items():
        end = offset + math.prod(shape) * size
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as handle:
        handle.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors.items():
            values = noise + (1 if "norm" in name.lower() and name.endswith("weight") else 0)
            _write_values(handle, _stored(values, dtype), math.prod(shape))


def _stored(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[Any]:
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values


def _write_values(handle: Any, block: npt.NDArray[Any], count: int) -> None:
    for start in range(0, count, len(block)):
        handle.write(block[: min(len(block), count - start)].data)


def _write_text_files(folder: Path, decoder: bool) -> None:
    """Write a byte-level or a word tokenizer and the pooling files."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer: Any
    if decoder:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {letter: i for i, letter in enumerate(alphabet)}
        tokenizer = Tokenizer(models.BPE(vocabulary, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(["<|endoftext|>"])
        settings = {
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "add_eos_token": True,
        }
    else:
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *map(chr, range(33, 127))]
        words += ["##" + chr(i) for i in range(33, 127)]
        tokenizer = Tokenizer(
            models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
        )
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        from tokenizers.processors import TemplateProcessing

        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
        settings = {
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "unk_token": "[UNK]",
            "pad_token": "[PAD]",
        }
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    mode = "pooling_mode_lasttoken" if decoder else "pooling_mode_cls_token"
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({mode: True}))


def main() -> None:
    """Write one folder from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--dtype", choices=("BF16", "F32"), default="BF16")
    parser.add_argument("--layers", type=int, help="cut the model to its first layers")
    arguments = parser.parse_args()
    config = dict(SHAPES[arguments.shape])
    if arguments.layers:
        config["num_hidden_layers"] = arguments.layers
    count = write(arguments.folder, config, arguments.shards, arguments.dtype)
    print(f"{arguments.folder}: {count:,} parameters in {arguments.shards} shards")


if __name__ == "__main__":
    main()
