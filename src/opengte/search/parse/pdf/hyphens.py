"""Words that are cut at the ends of lines: joined where the joined word is one, else hyphenated."""

import re
from collections import Counter
from collections.abc import Callable
from functools import cache

# PDFium marks hyphens at the ends of lines with U+FFFE or U+0002, and drops the end of the line
CUT = re.compile("(?:([\ufffe\u0002])[ \t]*(?:\r?\n)?|([-‐\u00ad])[ \t]*\r?\n)[ \t]*([^\\W_]+)")
LAST_WORD = re.compile("[^\\W_]+(?:['’\\-‐][^\\W_]+)*\\Z")
LONGEST = 60  # characters before a cut in which its word is looked for
WORDS = re.compile("[^\\W\\d_]+(?:[-‐][^\\W\\d_]+)*")
LEFT_OVER = re.compile("[\ufffe\u0002]")

COMMON = {  # words by which a language is told
    "de": "der die und nicht das mit ist ein von den",
    "en": "the and of to that is for with are this",
    "es": "los para una que con las por del como más",
    "fr": "les des dans pour est une pas sur qui avec",
    "it": "che per della sono con una nel alla anche gli",
    "nl": "het een van niet dat voor zijn met aan worden",
    "pt": "não para uma dos com que são mais como pelo",
    "ru": "и не что на с как для это по из",
}
COMPOUNDING = ("de", "nl", "")  # any two words make one; "": a language that is not known


def join_cut_words(text: str) -> str:
    """Join the two parts of each word that was cut at the end of a line.

    The joined word must occur elsewhere in the text or be a word of its language; where both parts
    are words of their own, the hyphen was there before the line was cut.

    >>> join_cut_words("The configu-\\nration of a well-\\nknown device is for the user.")
    'The configuration of a well-known device is for the user.'
    """
    cuts = list(CUT.finditer(text))
    if not cuts:
        return LEFT_OVER.sub("-", text)
    seen = Counter(word.lower() for word in WORDS.findall(text))
    known = _lexicon(_language(seen))
    parts: list[str] = []
    end = 0
    for cut in cuts:
        parts.append(text[end : cut.start()])
        before = LAST_WORD.search("".join(parts[-4:])[-LONGEST:])
        end = cut.start(3)
        if before is None:
            parts.append(text[cut.start() : end])
        elif cut[2] != "\u00ad" and not _is_one_word(before[0], cut[3], seen, known):
            parts.append("-")
    return LEFT_OVER.sub("-", "".join([*parts, text[end:]]))


def _is_one_word(
    before: str, after: str, seen: Counter[str], known: Callable[[str], bool] | None
) -> bool:
    left, right = re.split("[-‐]", before.lower())[-1], after.lower()
    if not after[0].islower() and after[0].upper() != after[0].lower():
        return before.isupper() and after.isupper() and seen[left + right] > 0
    if before[-1].isdigit() or after[0].isdigit():
        return False
    hyphenated = seen[f"{before.lower()}-{right}"] or seen[f"{left}-{right}"]
    if hyphenated or seen[left + right]:
        return seen[left + right] > hyphenated
    if known is None:
        return True
    return known(left + right) or not (known(left) and known(right))


def _language(seen: Counter[str]) -> str:
    """Return the language of most of the common words, "" where there are too few."""
    scores = {name: sum(seen[word] for word in words.split()) for name, words in COMMON.items()}
    best = max(scores, key=lambda name: scores[name])
    return best if scores[best] > 1 else ""


@cache
def _lexicon(language: str) -> Callable[[str], bool] | None:
    """Return what tells words of a language, None where compounds make a list of them useless."""
    if language in COMPOUNDING:
        return None
    from spellchecker import SpellChecker

    words = SpellChecker(language=language, distance=1).word_frequency
    return lambda word: word in words
