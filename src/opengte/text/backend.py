"""Running the `tokenizers` library: many texts at once, in bounded memory, without its crashes."""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from opengte.errors import InputError, OpenGTEError
from opengte.text.ragged import Ragged

if TYPE_CHECKING:
    from tokenizers import Tokenizer

T = TypeVar("T")

CHUNK = 2**20  # characters handed over at once; the library takes some 130 bytes for each
PIECE = 2**17  # characters of one piece of a very long text
LOOKAHEAD = 2**12  # characters after a prompt that may change how it is tokenised
CUT = re.compile(r"(?<=[A-Za-z])(?= [A-Za-z])")  # where a text may be cut, see `may_cut`

QWEN_SPLIT, LLAMA3_SPLIT = (  # neither joins a letter to the space after it
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
    """The library raised or panicked; it never leaves this package."""


def guarded(call: Callable[[], T]) -> T:
    """Return the call's result; BackendFailure for what the library raises, panics included."""
    try:
        return call()
    except OpenGTEError:
        raise
    except BaseException as error:  # a panic of the library is not an Exception
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise BackendFailure(str(error)) from error
        raise


def encode(backend: "Tokenizer", texts: Sequence[str], *, cuttable: bool) -> Ragged:
    """Return the ids of each text, without special tokens around it.

    Very long texts are tokenised in pieces if the tokenizer is cuttable (`may_cut`). InputError
    names the text that the library cannot tokenise.
    """
    _quiet_forks()
    pieces = [list(_cut(text)) if cuttable and len(text) > PIECE else [text] for text in texts]
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


def prefix_tokens(backend: "Tokenizer", text: str, characters: int) -> int:
    """Return how many leading tokens of the text end within its first characters.

    What follows much later in the text has no say in that, and is not looked at.
    """
    start = text[: characters + LOOKAHEAD]
    offsets = guarded(lambda: backend.encode(start, add_special_tokens=False)).offsets
    ends = np.array([end for _, end in offsets] + [characters + 1])
    return int(np.argmax(ends > characters))


def may_cut(backend: "Tokenizer") -> bool:
    """Return whether cutting a text between a letter and a space leaves its ids as they are.

    True only for normalisers that look at one character and its accents, followed by a split that
    ends a word before a space.
    """
    steps = _steps(backend.pre_tokenizer, "pretokenizers")
    added = backend.get_added_tokens_decoder().values()
    return (
        all(_is_local(step) for step in _steps(backend.normalizer, "normalizers"))
        and bool(steps)
        and _ends_words(steps[0])
        and all(step.get("prepend_scheme", "always") != "first" for step in steps)
        and not any(" " in token.content or token.rstrip for token in added)
    )


def _steps(component: Any, key: str) -> list[dict[str, Any]]:
    """Return the settings of a normaliser or pre-tokenizer, a sequence flattened."""
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


def _cut(text: str) -> Iterator[str]:
    """Yield a long text in pieces of about `PIECE` characters."""
    start = 0
    while place := CUT.search(text, start + PIECE):
        yield text[start : place.start()]
        start = place.start()
    yield text[start:]


def _chunks(pieces: Iterator[str]) -> Iterator[list[str]]:
    """Yield the pieces in lists of about `CHUNK` characters."""
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
    found = guarded(lambda: backend.encode_batch_fast(pieces, add_special_tokens=False))
    lengths = np.fromiter(map(len, found), np.int64, len(found))
    tokens = chain.from_iterable(encoding.ids for encoding in found)
    return Ragged(np.fromiter(tokens, np.int32, int(lengths.sum())), lengths)


def _named(backend: "Tokenizer", pieces: list[list[str]], failure: BackendFailure) -> InputError:
    """Return the error that names the first text the library cannot tokenise."""
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

    The library does that itself once its threads have run, but prints a warning in every child;
    it stays silent where the variable is set, as it then is for the child alone.
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
