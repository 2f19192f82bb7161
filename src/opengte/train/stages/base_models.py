"""Starting points of a stage: a published model, another one read as an encoder, or a new one."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from opengte import arch, checkpoint_files, hub
from opengte import checkpoint as checkpoints
from opengte.arch.plan import Pooling, PoolingKind
from opengte.checkpoint import Checkpoint
from opengte.errors import CheckpointError, InputError, UnsupportedModelError
from opengte.reference.initialization import init_model
from opengte.tokenization.prompts import Prompts
from opengte.train.saving.export import ExportPackage, export_model
from opengte.train.saving.model_card import TrainedModelCard

Architecture = Literal["new", "qwen2"]

# width, layers, heads, inner; `small` and `base` are those of MiniLM-L6 and gte-*-base-v1.5
SIZES = {
    "tiny": (64, 2, 2, 128),
    "mini": (192, 4, 3, 512),
    "small": (384, 6, 6, 1024),
    "base": (768, 12, 12, 3072),
}
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
END = "<|endoftext|>"
SAMPLE = 500_000  # texts that a tokenizer is trained on
ALPHABET = 1000  # letters that it knows
_MODES = {
    "cls": "cls_token",
    "mean": "mean_tokens",
    "last": "lasttoken",
    "max": "max_tokens",
    "mean_sqrt": "mean_sqrt_len_tokens",
    "weighted": "weightedmean_tokens",
}


def read_encoder(
    model: str | Path,
    into: Path,
    *,
    pooling: PoolingKind | None = None,
    config: Mapping[str, Any] | None = None,
    tokenizer: Mapping[str, Any] | None = None,
    prompts: Mapping[str, str] | None = None,
) -> Checkpoint:
    """Read a model as the encoder that it is to become; nothing is copied.

    Where its files lack what is asked for (pooling, keys of config.json and of
    tokenizer_config.json, prompts), the folder `into` is made, with links to the files and changed
    copies of some.
    """
    if not (pooling or config or tokenizer or prompts):
        return checkpoints.read_checkpoint(model, kind="encoder")
    source = hub.fetch_model(str(model)).folder
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    for path in source.iterdir():
        if path.name != "modules.json" or pooling is None:
            os.symlink(path.resolve(), into / path.name)
    _change(into / "config.json", config or {})
    _change(into / "tokenizer_config.json", tokenizer or {})
    if prompts is not None:
        _change(into / "config_sentence_transformers.json", {"prompts": dict(prompts)})
    if pooling is not None:
        write_pooling(into, pooling)
    return checkpoints.read_checkpoint(into, kind="encoder")


def read_pooled_encoder(
    model: str | Path, into: Path, fallback: PoolingKind = "mean"
) -> Checkpoint:
    """Read a model as an encoder; one that names no pooling gets the fallback."""
    try:
        return checkpoints.read_checkpoint(model, kind="encoder")
    except UnsupportedModelError:
        raise
    except CheckpointError as error:
        if "how to pool" not in str(error):
            raise
        return read_encoder(model, into, pooling=fallback)


def _change(path: Path, changes: Mapping[str, Any]) -> None:
    """Change keys of a file; a link is replaced by a changed copy."""
    if not changes:
        return
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.unlink(missing_ok=True)
    path.write_text(json.dumps({**content, **changes}, indent=2) + "\n", encoding="utf-8")


def write_pooling(folder: Path, pooling: Pooling) -> None:
    """Write into a folder how token states are pooled to a vector."""
    path = folder / "1_Pooling"
    if path.is_symlink():
        path.unlink()
    path.mkdir(exist_ok=True)
    width = checkpoint_files.read_json_config(folder / "config.json").get("hidden_size")
    flags = {f"pooling_mode_{name}": kind == pooling for kind, name in _MODES.items()}
    content = {"word_embedding_dimension": width, **flags}
    (path / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def create_model(
    folder: Path,
    texts: Iterable[str],
    *,
    architecture: Architecture = "new",
    size: str = "mini",
    vocabulary: int = 8192,
    positions: int = 512,
    seed: int = 0,
) -> Checkpoint:
    """Write a model with random weights and a tokenizer trained on texts, and read it.

    architecture `new` is an encoder with rotary positions (mean pooling), `qwen2` a causal decoder
    (last token). The vocabulary may become smaller than asked if the texts are few. Raises
    InputError for an unknown size or a folder that is not empty.

    >>> texts = ["a cat sat", "a dog ran", "the cat ran"]
    >>> start = create_model(Path("new-model"), texts, size="tiny", vocabulary=100)
    >>> start.plan.dimension
    64
    """
    if size not in SIZES:
        raise InputError(f"size is {size!r}, expected {', '.join(SIZES)}")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"`{folder}` is not empty; give a new folder for the model")
    files = folder.with_name(f".tokenizer-{folder.name}")
    files.mkdir(parents=True, exist_ok=True)
    try:
        words, ids = _TOKENIZERS[architecture](files, texts, vocabulary)
        config = _CONFIGS[architecture](size, words, positions, ids)
        pooling: PoolingKind = "mean" if architecture == "new" else "last"
        plan = arch.plan_of(config)
        model = init_model(replace(plan, pooling=pooling), seed)
        notes = "Random weights: a model to train, of no use as it is."
        card = TrainedModelCard(name=folder.name, notes=notes)
        package = ExportPackage(config, files, positions, Prompts(), card)
        export_model(model, folder, package)
    finally:
        shutil.rmtree(files, ignore_errors=True)
    return checkpoints.read_checkpoint(folder, kind="encoder")


def _new(size: str, words: int, positions: int, ids: Mapping[str, int]) -> dict[str, Any]:
    width, layers, heads, inner = SIZES[size]
    return {
        "model_type": "new",
        "vocab_size": words,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "hidden_act": "gelu",
        "max_position_embeddings": positions,
        "type_vocab_size": 0,
        "layer_norm_type": "layer_norm",
        "layer_norm_eps": 1e-12,
        "position_embedding_type": "rope",
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "pad_token_id": ids["pad"],
    }


def _qwen2(size: str, words: int, positions: int, ids: Mapping[str, int]) -> dict[str, Any]:
    width, layers, heads, inner = SIZES[size]
    return {
        "model_type": "qwen2",
        "vocab_size": words,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 2),
        "intermediate_size": inner,
        "hidden_act": "silu",
        "max_position_embeddings": positions,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "eos_token_id": ids["eos"],
        "pad_token_id": ids["pad"],
    }


def _wordpiece(folder: Path, texts: Iterable[str], vocabulary: int) -> tuple[int, dict[str, int]]:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers.trainers import WordPieceTrainer

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    texts = list(islice(texts, SAMPLE))
    letters = Counter(char for text in texts for char in tokenizer.normalizer.normalize_str(text))
    common = sorted(char for char, _ in letters.most_common(ALPHABET) if not char.isspace())
    # letters inside words get fixed ids, which would otherwise depend on a random hash
    fixed = [*SPECIALS, *(f"##{char}" for char in common)]
    trainer = WordPieceTrainer(
        vocab_size=vocabulary,
        special_tokens=fixed,
        initial_alphabet=common,
        limit_alphabet=len(common),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer = _plain(tokenizer)
    names = {t.strip("[]").lower(): t for t in SPECIALS}
    ids = {name: SPECIALS.index(token) for name, token in names.items()}  # they come first
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["cls"]), ("[SEP]", ids["sep"])],
    )
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    _save(tokenizer, folder, settings | {f"{name}_token": t for name, t in names.items()})
    return tokenizer.get_vocab_size(), ids


def _plain(trained: Any) -> Any:
    """Return the tokenizer with SPECIALS as its only special tokens."""
    from tokenizers import Tokenizer, models

    model = models.WordPiece(trained.get_vocab(), unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.decoder = trained.normalizer, trained.decoder
    tokenizer.pre_tokenizer = trained.pre_tokenizer
    tokenizer.add_special_tokens(list(SPECIALS))
    return tokenizer


def _bytes(folder: Path, texts: Iterable[str], vocabulary: int) -> tuple[int, dict[str, int]]:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from tokenizers.trainers import BpeTrainer

    from opengte.tokenization.backend import QWEN_SPLIT

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(islice(texts, SAMPLE), trainer)
    settings = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": END, "pad_token": END}
    _save(tokenizer, folder, settings)
    return tokenizer.get_vocab_size(), {"eos": 0, "pad": 0}  # special tokens come first


def _save(tokenizer: Any, folder: Path, settings: Mapping[str, Any]) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(dict(settings), indent=2) + "\n", encoding="utf-8")


_TOKENIZERS = {"new": _wordpiece, "qwen2": _bytes}
_CONFIGS = {"new": _new, "qwen2": _qwen2}
