"""The part of a very long text that its first or last tokens depend on; the rest is never read.

The part is exact: its tokens are those of the whole text. It ends where cutting changes no id
(`cut_pattern`). A text without such a place, such as a long word, is cut where no continuation can
change its first tokens. In any segmentation a token ends within the last `longest` characters, for
none is longer, and the tokens before that end are those of the text up to it alone. So where the
texts up to each of these places begin with the same tokens, the whole text does too.
"""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from opengte.tokenization.backend import CHUNK, PIECE, Cut, call_backend, encode_texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LONG = 2 * PIECE  # characters of a text that is read whole
CHARACTERS_PER_TOKEN = 4  # assumed at first; then the part grows
GROWTH = 4
MARGIN = 8  # characters that may be normalised in another way at the start of a part
BYTES = 4  # of a character, each of which may be a token
REPEATED = 200  # longer than any word that BERT does not turn into its unknown token

# Runs of which BERT's tokenizer reads the beginning only: letters (a word of more than 100
# characters is unknown, whatever it is), accents, emoji, white space, controls.
_IDEOGRAPHS = (
    "\u2e80-\u2fff\u3000-\u303f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002ffff_"
)
_BERT_RUNS = re.compile(
    "|".join(
        rf"(?<!{one}){one}{{{REPEATED + 1},}}"
        for one in (
            rf"[^\W{_IDEOGRAPHS}]",
            "[\u0300-\u036f]",
            "[\U0001f300-\U0001faff]",
            "[ \t\n]",
            "[\x00-\x08\x0e-\x1f]",
        )
    )
)


def longest_token(backend: "Tokenizer") -> int:
    """Return the characters of the longest token, or of the longest word of WordPiece."""
    longest = max(map(len, backend.get_vocab(with_added_tokens=True)), default=1)
    return max(longest, getattr(backend.model, "max_input_chars_per_word", 0) + 1)


def shortened(backend: "Tokenizer", text: str, longest: int) -> str:
    """Return a very long text without those ends of its runs that BERT's tokenizer never reads."""
    if len(text) <= LONG or not _is_bert(backend) or longest >= REPEATED:
        return text
    return _BERT_RUNS.sub(lambda run: run[0][:REPEATED], text)


def beginning(backend: "Tokenizer", text: str, cut: Cut, most: int, longest: int) -> str:
    """Return a part from the start of a text that has the first `most` tokens of the whole."""
    size = PIECE
    while len(text) > max(size, LONG):
        place = cut.search(text, size, size + PIECE) if cut else None
        if place and _count(backend, text[: place.start()], cut) >= most:
            return text[: place.start()]
        if place is None:
            return _settled(backend, text, cut, most, longest)
        size *= GROWTH
    return text


def ending(backend: "Tokenizer", text: str, cut: Cut, most: int, longest: int) -> str:
    """Return a part up to the end of a text that has the last `most` tokens of the whole."""
    size = PIECE
    while len(text) > max(size, LONG):
        place = cut.search(text, len(text) - size) if cut else None
        if place and _count(backend, text[place.start() :], cut) >= most:
            return text[place.start() :]
        part = None if place else _settled_end(backend, text[-size:], most, longest)
        if part:
            return part
        size *= GROWTH
    return text


def _settled(backend: "Tokenizer", text: str, cut: Cut, most: int, longest: int) -> str:
    """Return a part of a text that has its first tokens however the text goes on after it."""
    size = CHARACTERS_PER_TOKEN * most + 8 * longest
    while size * longest < len(text):
        window = _window(backend, text[:size], longest)
        found = _common(backend, text, range(size - window, size + 1), most) if window else None
        if found is not None:
            return text[:found]
        size *= GROWTH
    return text


def _settled_end(backend: "Tokenizer", text: str, most: int, longest: int) -> str | None:
    """Return a part whose last `most` tokens are the same whatever comes before it, or None.

    A token of the whole text begins within the first `longest` characters of the part, and what
    follows it are the tokens of the rest alone. So from where all these rests have a border between
    two tokens, all have the same tokens.
    """
    size = CHARACTERS_PER_TOKEN * most + 8 * longest
    while size < GROWTH * len(text):
        part = text[-size:]
        count = _count(backend, part, None)
        if count > most:
            word = _first_word(backend, part) if _prefixes(backend) else None
            ends = _borders(backend, part) if word is None else _word_borders(backend, word)
            length = len(part if word is None else word)
            found = _common_border(ends, longest + MARGIN, length)
            if found is not None and count >= most + BYTES * found + MARGIN:
                return part
        size *= GROWTH
    return None


def _common_border(ends: Callable[[int], set[int]], window: int, length: int) -> int | None:
    """Return the first border that all tokenisations from starts in a window have, if any."""
    if length <= window:
        return None
    common = ends(0)
    for start in range(1, window + 1):
        common &= ends(start)
    return min(common, default=None)


def _borders(backend: "Tokenizer", text: str) -> Callable[[int], set[int]]:
    """Return a function from a start to the borders between the tokens of the text from there."""

    def ends(start: int) -> set[int]:
        encoding = call_backend(lambda: backend.encode(text[start:], add_special_tokens=False))
        spans = encoding.offsets
        after = [begin for begin, _ in spans[1:]]  # a character may be several tokens
        return {start + end for (_, end), next_ in zip(spans, after, strict=False) if next_ >= end}

    return ends


def _word_borders(backend: "Tokenizer", word: str) -> Callable[[int], set[int]]:
    """Return the same for a normalised word, of which the model's tokens are asked, in bytes."""
    size = len(word.encode())

    def ends(start: int) -> set[int]:
        rest = word[start:]
        tokens = call_backend(lambda: backend.model.tokenize(rest))
        return {size - len(rest.encode()) + token.offsets[1] for token in tokens}

    return ends


def _first_word(backend: "Tokenizer", text: str) -> str:
    """Return the first word of a text, as the model reads it."""
    normal = backend.normalizer.normalize_str(text) if backend.normalizer else text
    words = backend.pre_tokenizer.pre_tokenize_str(normal) if backend.pre_tokenizer else [(normal,)]
    return words[0][0] if words else ""


def _prefixes(backend: "Tokenizer") -> bool:
    """Return whether the tokenizer puts a space before a text that has none."""
    return len(_first_word(backend, "a")) > 1


def _window(backend: "Tokenizer", text: str, longest: int) -> int:
    """Return how many characters at the end of a text one token can cover; 0 for too many."""
    if text[-1].isspace() and any(t.lstrip for t in backend.get_added_tokens_decoder().values()):
        return 0  # a later added token may strip it
    for window in (longest, GROWTH * longest):
        tail = text[-window - 1 :]
        normal = backend.normalizer.normalize_str(tail) if backend.normalizer else tail
        if len(normal) > longest:  # some texts become shorter: accents, white space
            return window
    return 0


def _common(backend: "Tokenizer", text: str, ends: range, most: int) -> int | None:
    """Return the end of the text with the fewest tokens if all begin with the same `most`."""
    first = _encoded(backend, [text[: ends[-1]]])[0]
    if len(first) < most:
        return None
    fewest, best = len(first), ends[-1]
    step = max(1, CHUNK // ends[-1])
    for start in range(0, len(ends), step):
        part = ends[start : start + step]
        for end, ids in zip(part, _encoded(backend, [text[:e] for e in part]), strict=True):
            if ids[:most] != first[:most]:
                return None
            fewest, best = min((fewest, best), (len(ids), end))
    return best


def _encoded(backend: "Tokenizer", texts: Sequence[str]) -> list[list[int]]:
    found = call_backend(lambda: backend.encode_batch_fast(texts, add_special_tokens=False))
    return [encoding.ids for encoding in found]


def _count(backend: "Tokenizer", text: str, cut: Cut) -> int:
    return int(encode_texts(backend, [text], cut).lengths[0])


def _is_bert(backend: "Tokenizer") -> bool:
    return (
        type(backend.model).__name__ == "WordPiece"
        and type(backend.pre_tokenizer).__name__ == "BertPreTokenizer"
        and type(backend.normalizer).__name__ in ("BertNormalizer", "NoneType")
        and backend.model.max_input_chars_per_word < REPEATED
    )
