"""Calls to the `tokenizers` library: batches of texts, bounded memory, its panics as errors."""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from opengte.errors import InputError, OpenGTEError
from opengte.tokenization.ragged import Offsets, Ragged

if TYPE_CHECKING:
    from tokenizers import Tokenizer

T = TypeVar("T")
Cut = re.Pattern[str] | None

CHUNK = 2**18  # characters in one call; the library needs up to 400 bytes for each
PIECE = 2**15  # characters of one part of a very long text
LOOKAHEAD = 2**8  # characters after a prompt that may change how it is tokenised

# Where a very long text may be cut: see `cut_pattern`.
AT_SPACE = r"(?<=[A-Za-z])(?= [A-Za-z])"
AT_PUNCTUATION = r"(?<=[!-/:-@\[-`{-~])(?=[!-/:-@\[-`{-~])"
AT_IDEOGRAPH = "(?<=[\u4e00-\u9fff])(?=[\u4e00-\u9fff])"

QWEN_SPLIT, LLAMA3_SPLIT = (  # neither joins a letter with the space after it
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    + digits
    + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in ("", "{1,3}")
)
LOCAL_NORMALIZERS = {
    *("BertNormalizer", "NFC", "NFKC", "NFD", "NFKD", "Lowercase", "StripAccents", "Precompiled"),
}
PARALLELISM = "TOKENIZERS_PARALLELISM"


class BackendFailure(OpenGTEError):
    """The library raised or panicked. It is raised and caught within this package only."""


def call_backend(call: Callable[[], T]) -> T:
    """Return the result of a call; BackendFailure if the library raises or panics."""
    try:
        return call()
    except OpenGTEError:
        raise
    except BaseException as error:  # a panic of the library is not an Exception
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise BackendFailure(str(error)) from error
        raise


def unknown_token(backend: "Tokenizer") -> int | None:
    """Return the id of the token that stands for what the vocabulary lacks, if there is one."""
    model = backend.model
    if hasattr(model, "unk_token"):
        return backend.token_to_id(model.unk_token) if model.unk_token is not None else None
    found = json.loads(backend.to_str())["model"].get("unk_id")
    return None if found is None else int(found)


def encode_texts(backend: "Tokenizer", texts: Sequence[str], cut: Cut) -> Ragged:
    """Return the ids of each text, without special tokens around it.

    Very long texts are tokenised in parts, cut where `cut` matches. InputError names the text that
    the library cannot tokenise.
    """
    _quiet_forks()
    pieces = [list(split_long_text(text, cut)) for text in texts]
    counts = np.array([len(own) for own in pieces], dtype=np.int64)
    if len(counts) == 0:
        return Ragged(np.empty(0, np.int32), counts)
    try:
        parts = [_encode_chunk(backend, chunk) for chunk in _chunks(chain.from_iterable(pieces))]
    except BackendFailure as failure:
        raise _named(backend, pieces, failure) from failure
    lengths = np.concatenate([part.lengths for part in parts])
    owned = np.add.reduceat(lengths, np.cumsum(counts) - counts)
    return Ragged(np.concatenate([part.ids for part in parts]), owned)


def count_prefix_tokens(backend: "Tokenizer", texts: Sequence[str], characters: int) -> Offsets:
    """Return the number of leading tokens of each text that end within its first characters, (n,).

    Only the beginning of a text is tokenised: what follows much later cannot change the result.
    """
    starts = [text[: characters + LOOKAHEAD] for text in texts]
    found = call_backend(lambda: backend.encode_batch(starts, add_special_tokens=False))
    ends = ([end for _, end in encoding.offsets] for encoding in found)
    within = (next((i for i, e in enumerate(own) if e > characters), len(own)) for own in ends)
    return np.fromiter(within, np.int64, len(starts))


def cut_pattern(backend: "Tokenizer") -> Cut:
    """Return a pattern of the places where cutting a text does not change its ids, or None.

    This requires a normaliser that looks at one character and its accents only, and a first split
    that ends a word there: before a space, in BERT also between ideographs and between punctuation.
    """
    normalizer = _steps(backend.normalizer, "normalizers")
    splits = _steps(backend.pre_tokenizer, "pretokenizers")
    added = backend.get_added_tokens_decoder().values()
    first = any(step.get("prepend_scheme") == "first" for step in splits)
    if first or not splits or not _ends_words(splits[0]) or not all(map(_is_local, normalizer)):
        return None
    places = [AT_SPACE]
    if splits[0]["type"] == "BertPreTokenizer":
        places.append(AT_PUNCTUATION)
        if any(step.get("handle_chinese_chars") for step in normalizer):
            places.append(AT_IDEOGRAPH)
    cut = re.compile("|".join(places))
    if any(token.rstrip or cut.search(f"a{token.content}a") for token in added):
        return None
    return cut


def _steps(component: Any, key: str) -> list[dict[str, Any]]:
    """Return the settings of a normaliser or pre-tokenizer; a sequence is flattened."""
    if component is None:
        return []
    settings: dict[str, Any] = json.loads(component.__getstate__())
    return list(settings[key]) if settings.get("type") == "Sequence" else [settings]


def _is_local(step: dict[str, Any]) -> bool:
    collapses_spaces = step["type"] == "Replace" and step["pattern"] == {"Regex": " {2,}"}
    return step["type"] in LOCAL_NORMALIZERS or collapses_spaces


def _ends_words(step: dict[str, Any]) -> bool:
    match step["type"]:
        case "BertPreTokenizer" | "Whitespace" | "WhitespaceSplit":
            return True
        case "Metaspace":
            return bool(step.get("split", True))
        case "ByteLevel":
            return bool(step.get("use_regex", True))
        case "Split":
            plain = step["behavior"] == "Isolated" and not step["invert"]
            return plain and step["pattern"].get("Regex") in (QWEN_SPLIT, LLAMA3_SPLIT)
    return False


def split_long_text(text: str, cut: Cut) -> Iterator[str]:
    """Yield a text in parts of about `PIECE` characters, if it may be cut."""
    start = 0
    while cut and len(text) - start > PIECE and (place := cut.search(text, start + PIECE)):
        yield text[start : place.start()]
        start = place.start()
    yield text[start:]


def _chunks(pieces: Iterator[str]) -> Iterator[list[str]]:
    """Yield the parts in lists of about `CHUNK` characters."""
    chunk: list[str] = []
    size = 0
    for piece in pieces:
        chunk.append(piece)
        size += len(piece) + 16
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _encode_chunk(backend: "Tokenizer", pieces: list[str]) -> Ragged:
    found = call_backend(lambda: backend.encode_batch_fast(pieces, add_special_tokens=False))
    lengths = np.fromiter(map(len, found), np.int64, len(found))
    tokens = chain.from_iterable(encoding.ids for encoding in found)
    return Ragged(np.fromiter(tokens, np.int32, int(lengths.sum())), lengths)


def _named(backend: "Tokenizer", pieces: list[list[str]], failure: BackendFailure) -> InputError:
    """Return the error that names the first text that the library cannot tokenise."""
    for index, own in enumerate(pieces):
        try:
            _encode_chunk(backend, own)
        except BackendFailure as error:
            return InputError(
                f"texts[{index}], of {sum(map(len, own))} characters, cannot be tokenised: the "
                f"tokenizers library failed with {str(error)!r}. Remove or shorten that text."
            )
    return InputError(f"The texts cannot be tokenised: {failure}. Tokenise them one by one.")


@cache
def _quiet_forks() -> None:
    """Make forked children tokenise on one thread, without the library's warning.

    Once its threads have run, the library does so itself, but prints a warning in every child. It
    prints none where the variable is set, which these hooks do for the child only.
    """
    ours: list[bool] = []

    def before() -> None:
        if PARALLELISM not in os.environ:
            os.environ[PARALLELISM] = "false"
            ours.append(True)

    def after() -> None:
        if ours:
            ours.clear()
            os.environ.pop(PARALLELISM, None)

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=before, after_in_parent=after)
