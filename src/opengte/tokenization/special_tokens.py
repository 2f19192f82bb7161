"""The special tokens in a checkpoint's files, and the kind of its tokenizer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, processors

from opengte.errors import CheckpointError, UnsupportedModelError
from opengte.tokenization.checkpoint_files import read_json_if_there

NAMES = ("cls", "sep", "bos", "eos", "pad", "unk", "mask")
BERT_NAMES = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}
ROBERTA_NAMES = {
    "bos": "<s>",
    "cls": "<s>",
    "eos": "</s>",
    "sep": "</s>",
    "unk": "<unk>",
    "pad": "<pad>",
    "mask": "<mask>",
}
DEFAULT_NAMES: dict[str, dict[str, str]] = {
    **dict.fromkeys(("Bert", "DistilBert", "Electra"), BERT_NAMES),
    **dict.fromkeys(("Roberta", "XLMRoberta"), ROBERTA_NAMES),
    "Llama": {"bos": "<s>", "eos": "</s>", "unk": "<unk>"},
    "Qwen2": {"eos": "<|endoftext|>", "pad": "<|endoftext|>"},
    "T5": {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"},
}
MODEL_TYPES = {  # model_type of config.json -> kind of tokenizer, where there is no tokenizer_class
    "bert": "Bert",
    "distilbert": "DistilBert",
    "electra": "Electra",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "t5": "T5",
    "llama": "Llama",
    "mistral": "Llama",
    "qwen2": "Qwen2",
    "qwen3": "Qwen2",
}
GENERIC_KINDS = ("", "PreTrained", "TokenizersBackend", "SentencePieceBackend")


def tokenizer_kind(folder: Path) -> str:
    """Return the kind of tokenizer in the files ("Bert", "XLMRoberta", ...); "" if unknown."""
    value = read_json_if_there(folder / "tokenizer_config.json").get("tokenizer_class")
    kind = value.removesuffix("Fast").removesuffix("Tokenizer") if isinstance(value, str) else ""
    if kind not in GENERIC_KINDS:
        return kind
    model_type = read_json_if_there(folder / "config.json").get("model_type")
    if isinstance(model_type, str) and model_type in MODEL_TYPES:
        return MODEL_TYPES[model_type]
    return "Bert" if (folder / "vocab.txt").is_file() else ""


def special_tokens(folder: Path) -> dict[str, str]:
    """Return the special tokens of a checkpoint folder: "cls", "sep", "bos", ... -> token.

    A token that the files do not name is the usual one of this kind of tokenizer; null means none.
    """
    names = dict(DEFAULT_NAMES.get(tokenizer_kind(folder), {}))
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / file
        settings = read_json_if_there(path)
        for name in NAMES:
            key = f"{name}_token"
            if key in settings:
                names[name] = token_text(settings[key], path, key)
    return {name: token for name, token in names.items() if token}


def token_text(token: object, path: Path, key: str) -> str:
    """Return the text of a special token, a string or {"content": ...} in the file; "" for null."""
    value = token.get("content") if isinstance(token, Mapping) else token
    if value is not None and not isinstance(value, str):
        raise CheckpointError(f"{path} has {key}={token!r}; expected a string, or null for none.")
    return value or ""


def added_token(text: str, settings: Mapping[str, Any] | None = None) -> AddedToken:
    """Return an added token, which is special unless the checkpoint's settings say otherwise."""
    given = {"special": True, **(settings or {})}
    keys = ("special", "lstrip", "rstrip", "single_word", "normalized")
    return AddedToken(text, **{key: bool(given.get(key, False)) for key in keys})


def set_template(tokenizer: Tokenizer, single: str, second: str) -> None:
    """Set the special tokens around one text, and those around the second text of a pair."""
    names = {item.rsplit(":", 1)[0] for item in f"{single} {second}".split()} - {"$A", "$B"}
    ids = {name: tokenizer.token_to_id(name) for name in sorted(names)}
    missing = [name for name, token in ids.items() if token is None]
    if missing:
        raise CheckpointError(
            f"The vocabulary has no {missing[0]!r}, which goes around every text. Fetch the "
            "checkpoint again."
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=f"{single} {second}", special_tokens=list(ids.items())
    )


def unsupported_tokenizer(path: Path, kind: str) -> UnsupportedModelError:
    """Return the error for a file whose special tokens are not known."""
    return UnsupportedModelError(
        f"{path} belongs to a tokenizer of kind {kind or 'unknown'!r}, whose special tokens are "
        "not known here. Convert it to tokenizer.json with the library that it comes from, or name "
        "its tokenizer_class in tokenizer_config.json."
    )
