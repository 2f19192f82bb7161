"""Terms for BM25 beyond the words that blanks and punctuation show, for texts that need them.

Full-text indexes cut a text at what is no letter. In Chinese, Japanese, Thai, Lao, Khmer and
Burmese that leaves whole sentences; in Korean, nouns with their particles; in Hebrew and Arabic,
words with an article or a preposition in front; in German, compounds. Such texts get
further terms, in documents and in queries alike: pairs of neighbouring letters and single
ideographs, Hebrew words without prefixes, Arabic stems as in light10 (Larkey, Ballesteros and
Connell 2002), and four letters each of German words. The script decides, and for German the
function words; no option does. Terms consist of letters, so that every tokenizer keeps them.
"""

import re
from collections.abc import Callable, Iterator, Mapping

VERSION = 1  # of the terms: an index that has those of another version, or none, is renewed

Term = tuple[int, int, str]  # of text[start:end]

_HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3041-\u309f\u30a1-\u30ff\u31f0-\u31ff"  # with the sign of length
_HANGUL = "\uac00-\ud7a3"
_MARKED = "\u0e00-\u0e4e\u0e80-\u0ece\u1000-\u104f\u1780-\u17d3"  # Thai, Lao, Burmese, Khmer
_RUNS = re.compile(
    f"(?P<pairs>[{_HAN}{_KANA}]+|[{_HANGUL}]+|[{_MARKED}]+)"
    "|(?P<hebrew>[\u0591-\u05ea]+)|(?P<arabic>[\u0610-\u061a\u0620-\u06d3]+)"
)
_IDEOGRAPH = re.compile(f"[{_HAN}]")

# what stands before a Hebrew word: and, the, in, as, to, from, that, when
_HEBREW = re.compile("[והבכלמש]|ו[הבכלמש]|ש[הבלמ]|מה|כש|כשה")
_HEBREW_POINTS = re.compile("[\u0591-\u05c7]")
_ARABIC_MARKS = re.compile("[\u0610-\u061a\u0640\u064b-\u065f\u0670]")
_ARABIC_LETTERS = str.maketrans("أإآٱىة", "اااايه")
_ARABIC_PREFIX = re.compile("(?:و?ال|بال|كال|فال|لل)(?=..)|[وبلكف](?=...)")
_ARABIC_SUFFIX = re.compile("(?<=..)(?:ها|ان|ات|ون|ين|يه|ه|ي)$")
_REST = 3  # letters that are left of a Hebrew word

_WORD = re.compile(r"[^\W\d_]+")
_PART = 4  # letters of a part of a compound
_MARK = "\u01c3"  # a letter that makes a part another term than the word of the same letters
_GERMAN = frozenset(
    "der die das dem den ein eine einer einem einen kein keine und oder ist sind wird werden wurde "
    "wurden nicht auch auf aus bei beim für im mit nach über unter von vom vor zu zum zur am als "
    "dass ich wir sie sich wie wer wann wo welche sein seine ihr ihre zwei gegen wegen".split()
)
_SHARE = 0.08  # of the words of a German text that are among them
_SAMPLE = 10_000  # characters that tell


def script_terms(text: str) -> Iterator[Term]:
    """Yield the further terms that the script of a text asks for, and where each is.

    >>> [term for _, _, term in script_terms("寿司 and SQL")]
    ['寿', '司', '寿司']
    >>> [term for _, _, term in script_terms("המחשב")]
    ['מחשב']
    """
    if not text.isascii():
        for run in _RUNS.finditer(text):
            yield from _TERMS[run.lastgroup or ""](run[0], run.start())


def extra_terms(text: str) -> str:
    """Return all further terms of a text with blanks between them; "" where it needs none."""
    found = [term for _, _, term in script_terms(text)]
    if _is_german(text):
        found += (part for word in _WORD.findall(text) for part in _parts(word.lower()))
    return " ".join(found)


def with_terms(text: str) -> str:
    """Return a text with its further terms behind it: what BM25 is asked."""
    more = extra_terms(text)
    return f"{text} {more}" if more else text


def indexed_text(title: str, text: str) -> tuple[str, int]:
    """Return what BM25 indexes of a document, and where in it the text begins.

    The further terms stand between title and text, so that the text is the end of it.
    """
    parts = [title, extra_terms(f"{title} {text}")]
    head = "".join(f"{part}\n\n" for part in parts if part)
    return head + text, len(head)


def _pairs(run: str, start: int) -> Iterator[Term]:
    letters = [(i, c) for i, c in enumerate(run, start) if c.isalnum()]
    for i, letter in letters:
        if _IDEOGRAPH.match(letter) or len(letters) == 1:
            yield i, i + 1, letter
    for (first, a), (last, b) in zip(letters, letters[1:], strict=False):
        yield first, last + 1, a + b


def _hebrew(run: str, start: int) -> Iterator[Term]:
    word = _HEBREW_POINTS.sub("", run)
    if 0 < len(word) < len(run):
        yield start, start + len(run), word
    for length in range(1, min(4, len(word) - _REST + 1)):
        if _HEBREW.fullmatch(word[:length]):
            yield start, start + len(run), word[length:]


def _arabic(run: str, start: int) -> Iterator[Term]:
    word = _ARABIC_MARKS.sub("", run).translate(_ARABIC_LETTERS)
    word = _ARABIC_PREFIX.sub("", word, count=1) if _ARABIC_PREFIX.match(word) else word
    while (shorter := _ARABIC_SUFFIX.sub("", word)) != word:
        word = shorter
    if word and word != run:
        yield start, start + len(run), word


_TERMS: Mapping[str, Callable[[str, int], Iterator[Term]]] = {
    "pairs": _pairs,
    "hebrew": _hebrew,
    "arabic": _arabic,
}


def _is_german(text: str) -> bool:
    words = _WORD.findall(text[:_SAMPLE].lower())
    return sum(word in _GERMAN for word in words) >= max(1, _SHARE * len(words))


def _parts(word: str) -> Iterator[str]:
    return (_MARK + word[i : i + _PART] for i in range(len(word) - _PART + 1))
