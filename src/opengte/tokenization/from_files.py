"""A tokenizer of the `tokenizers` library from the tokenizer files of a checkpoint.

The first of these is used: `tokenizer.json`, `vocab.txt` (WordPiece), a SentencePiece model,
`vocab.json` with `merges.txt` (byte-level BPE). An unknown kind of tokenizer is an error, not a
guess.
"""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from opengte.errors import CheckpointError, CheckpointWarning
from opengte.tokenization.backend import QWEN_SPLIT, BackendFailure, call_backend
from opengte.tokenization.checkpoint_files import read_json, read_json_if_there, read_text
from opengte.tokenization.from_sentencepiece import from_sentencepiece
from opengte.tokenization.special_tokens import (
    BERT_NAMES,
    DEFAULT_NAMES,
    ROBERTA_NAMES,
    added_token,
    set_template,
    special_tokens,
    token_text,
    tokenizer_kind,
    unsupported_tokenizer,
)

SENTENCEPIECE_FILES = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model")


def build_backend(folder: Path) -> Tokenizer:
    """Return the tokenizer of a checkpoint folder, without truncation, padding or randomness."""
    path, build = _source(folder)
    try:
        tokenizer = call_backend(lambda: build(path))
    except BackendFailure as failure:
        raise CheckpointError(
            f"{path} cannot be used: {failure}. Fetch the checkpoint again."
        ) from failure
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = (
            None  # a training option: it would give the same text different ids each time
        )
    return tokenizer


def _source(folder: Path) -> tuple[Path, Callable[[Path], Tokenizer]]:
    """Return the file to build from, and the function that does it."""
    builders: dict[str, Callable[[Path], Tokenizer]] = {
        "tokenizer.json": _from_tokenizer_json,
        "vocab.txt": _from_vocab_txt,
        **dict.fromkeys(SENTENCEPIECE_FILES, from_sentencepiece),
        "vocab.json": _from_vocab_json,
    }
    for name, build in builders.items():
        if (folder / name).is_file():
            return folder / name, build
    raise CheckpointError(
        f"{folder} has no tokenizer; expected one of {', '.join(builders)}. Fetch the checkpoint "
        "again, with its tokenizer files."
    )


def _from_tokenizer_json(path: Path) -> Tokenizer:
    tokenizer: Tokenizer = Tokenizer.from_str(read_text(path))
    normalizer = tokenizer.normalizer
    is_bert = DEFAULT_NAMES.get(tokenizer_kind(path.parent)) is BERT_NAMES
    if is_bert and isinstance(normalizer, normalizers.BertNormalizer):
        _configure(normalizer, path.parent / "tokenizer_config.json")
        tokenizer.normalizer = normalizer
    _warn_of_tokens(path.parent, tokenizer)
    _warn_of_space(path.parent / "tokenizer_config.json", tokenizer)
    return tokenizer


def _warn_of_tokens(folder: Path, tokenizer: Tokenizer) -> None:
    """Warn of whole-text tokens that other files name and tokenizer.json has not."""
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        path = folder / name
        settings = read_json_if_there(path)
        named: list[object] = list(settings) if name == "added_tokens.json" else []
        for key in ("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"):
            found = settings.get(key) or ()
            named += found.values() if isinstance(found, dict) else found
        texts = [token_text(token, path, "a token") for token in named]
        if missing := [text for text in texts if text and text not in known]:
            warnings.warn(
                f"{path} names tokens that tokenizer.json does not have as added tokens "
                f"({', '.join(map(repr, missing[:5]))}): a text that holds one is split as any "
                "other text. Save the tokenizer again with the library that wrote it.",
                CheckpointWarning,
                stacklevel=2,
            )


def _warn_of_space(path: Path, tokenizer: Tokenizer) -> None:
    """Warn where add_prefix_space contradicts tokenizer.json, which is followed."""
    wanted = read_json_if_there(path).get("add_prefix_space")
    if wanted is None or tokenizer.pre_tokenizer is None:
        return
    steps = json.loads(tokenizer.pre_tokenizer.__getstate__())
    for step in steps.get("pretokenizers", [steps]):
        found = step.get("add_prefix_space")
        if step.get("type") == "Metaspace":
            found = step.get("prepend_scheme") != "never"
        if isinstance(found, bool) and found is not bool(wanted):
            warnings.warn(
                f"{path} says `add_prefix_space` = {wanted}, but tokenizer.json has {found}; the "
                "latter is followed. If the model was trained with the former, the vectors of "
                "texts change with their first word.",
                CheckpointWarning,
                stacklevel=2,
            )


def _configure(normalizer: normalizers.BertNormalizer, config_path: Path) -> None:
    """Apply the settings of tokenizer_config.json to a normaliser; warn if it had others."""
    settings = _bert_settings(config_path)
    differing = [key for key, value in settings.items() if getattr(normalizer, key) != value]
    for key in differing:
        setattr(normalizer, key, settings[key])
    if differing:
        warnings.warn(
            f"{config_path} contradicts tokenizer.json on {', '.join(differing)}; the former is "
            "followed, as transformers does. Correct one of the two.",
            CheckpointWarning,
            stacklevel=2,
        )


def _bert_settings(config_path: Path) -> dict[str, Any]:
    """Return the settings of a BERT normaliser in tokenizer_config.json, by the library's names."""
    keys = {
        "do_lower_case": "lowercase",
        "strip_accents": "strip_accents",
        "tokenize_chinese_chars": "handle_chinese_chars",
    }
    config = read_json_if_there(config_path)
    for key in keys:
        if not isinstance(config.get(key), bool | None):
            raise CheckpointError(f"{config_path} has {key}={config[key]!r}; expected a boolean.")
    # null is a value of strip_accents: it follows lowercase
    return {
        ours: config[key]
        for key, ours in keys.items()
        if key in config and (config[key] is not None or key == "strip_accents")
    }


def _from_vocab_txt(path: Path) -> Tokenizer:
    """Return a BERT WordPiece tokenizer from a file with one token per line."""
    kind = tokenizer_kind(path.parent)
    if kind and DEFAULT_NAMES.get(kind) is not BERT_NAMES:
        raise unsupported_tokenizer(path, kind)
    lines = read_text(path).replace("\r\n", "\n").removesuffix("\n").split("\n")
    vocab = {token: index for index, token in enumerate(lines)}
    names = special_tokens(path.parent)
    for name in ("cls", "sep", "unk"):
        if names.get(name) not in vocab:
            raise CheckpointError(
                f"{path} has no line {names.get(name)!r}, the {name}_token; expected a BERT "
                f"vocabulary (found {len(lines)} lines). Fetch the checkpoint again."
            )
    settings = {"lowercase": True, **_bert_settings(path.parent / "tokenizer_config.json")}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token=names["unk"]))
    tokenizer.normalizer = normalizers.BertNormalizer(**settings)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens([added_token(t) for t in names.values() if t in vocab])
    cls, sep = names["cls"], names["sep"]
    set_template(tokenizer, f"{cls}:0 $A:0 {sep}:0", f"$B:1 {sep}:1")
    return tokenizer


def _from_vocab_json(path: Path) -> Tokenizer:
    """Return a byte-level BPE tokenizer: Qwen2's or RoBERTa's."""
    kind = tokenizer_kind(path.parent)
    if kind not in ("Qwen2", "Roberta"):
        raise unsupported_tokenizer(path, kind)
    vocab, merges_path = read_json(path), path.parent / "merges.txt"
    for token, index in vocab.items():
        if not isinstance(index, int):
            raise CheckpointError(f"{path} gives {token!r} the id {index!r}; expected an integer.")
    tokenizer = Tokenizer(models.BPE(vocab, _merges(merges_path, vocab)))
    tokenizer.decoder = decoders.ByteLevel()
    if kind == "Qwen2":
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    _add_listed(tokenizer, path.parent)
    if kind == "Roberta":
        names = ROBERTA_NAMES | special_tokens(path.parent)
        bos, eos = names["bos"], names["eos"]
        set_template(tokenizer, f"{bos}:0 $A:0 {eos}:0", f"{eos}:0 $B:0 {eos}:0")
    return tokenizer


def _merges(path: Path, vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Return the merges of merges.txt, best first."""
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        parts = line.rstrip("\r").split(" ")
        if len(parts) != 2 or any(part not in vocab for part in (*parts, "".join(parts))):
            raise CheckpointError(
                f"{path} line {number} is {line[:60]!r}; expected two tokens of vocab.json that "
                "make a third. Fetch the checkpoint again."
            )
        merges.append((parts[0], parts[1]))
    return merges


def _add_listed(tokenizer: Tokenizer, folder: Path) -> None:
    """Add the special tokens that the files list with ids, and those that they name."""
    for index, token in sorted(_listed(folder).items()):
        tokenizer.add_tokens([token])
        found = tokenizer.token_to_id(token.content)
        if found != index:
            raise CheckpointError(
                f"{folder} lists the added token {token.content!r} as id {index}, but by its place "
                f"in the vocabulary it is {found}. Fetch the checkpoint again."
            )
    named = (
        token
        for token in special_tokens(folder).values()
        if tokenizer.token_to_id(token) is not None
    )
    tokenizer.add_special_tokens([added_token(token) for token in named])


def _listed(folder: Path) -> dict[int, AddedToken]:
    """Return the tokens that added_tokens.json and tokenizer_config.json list, by id."""
    listed: dict[int, AddedToken] = {}
    path = folder / "added_tokens.json"
    for text, index in read_json_if_there(path).items():
        listed[_index(index, path)] = added_token(text)
    path = folder / "tokenizer_config.json"
    decoder = read_json_if_there(path).get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict) or not all(isinstance(v, dict) for v in decoder.values()):
        raise CheckpointError(
            f"{path} has an added_tokens_decoder that does not map ids to tokens."
        )
    for index, settings in decoder.items():
        text = token_text(settings, path, f"added_tokens_decoder[{index}]")
        listed[_index(index, path)] = added_token(text, settings)
    return listed


def _index(value: object, path: Path) -> int:
    """Return an id that a file gives as a number or as a string of digits."""
    if not str(value).isdecimal():
        raise CheckpointError(f"{path} gives an added token the id {value!r}; expected a number.")
    return int(str(value))
