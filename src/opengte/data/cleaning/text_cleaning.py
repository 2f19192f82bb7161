"""Cleaning of texts: repairs that do not change their meaning, counted by step."""

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

SURROGATES = re.compile("[\ud800-\udfff]")
LINE_ENDS = re.compile("\r\n?")
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff]")
SPACE = re.compile(r"\s+")

Step = Callable[[str], str]

# In order. A lone surrogate is half a character, which no tokenizer can encode; control characters
# and byte order marks carry no meaning; NFC gives each character one spelling.
ALWAYS: tuple[tuple[str, Step], ...] = (
    ("surrogates", lambda text: SURROGATES.sub("\ufffd", text)),
    ("line ends", lambda text: LINE_ENDS.sub("\n", text)),
    ("control characters", lambda text: CONTROL.sub("", text)),
    ("NFC", lambda text: unicodedata.normalize("NFC", text)),
    ("outer white space", str.strip),
)
CHOSEN: dict[str, Step] = {
    "html entities": html.unescape,
    "inner white space": lambda text: SPACE.sub(" ", text),
}


@dataclass(frozen=True)
class CleaningSettings:
    """Which steps to take beyond the conservative ones that are always taken.

    html unescapes entities (`&amp;`), for texts extracted from web pages; space collapses every run
    of white space, line breaks included, into one space: not for code.

    >>> [name for name, _ in CleaningSettings(html=True).steps()][0]
    'html entities'
    """

    html: bool = False
    space: bool = False

    def steps(self) -> tuple[tuple[str, Step], ...]:
        """Return the steps by name, in the order in which they are taken."""
        first = (("html entities", CHOSEN["html entities"]),) if self.html else ()
        last = (("inner white space", CHOSEN["inner white space"]),) if self.space else ()
        return (*first, *ALWAYS, *last)


DEFAULT_CLEANING = CleaningSettings()


class TextCleaner:
    r"""Cleans texts, and counts for each step the texts that it changed.

    >>> counts = Counter()
    >>> TextCleaner(DEFAULT_CLEANING, counts)(" a\r\nb "), dict(counts)
    ('a\nb', {'line ends': 1, 'outer white space': 1})
    """

    def __init__(self, cleaning: CleaningSettings, counts: Counter[str]) -> None:
        self.steps = cleaning.steps()
        self.counts = counts

    def __call__(self, text: str) -> str:
        """Return the cleaned text."""
        for name, step in self.steps:
            cleaned = step(text)
            if cleaned != text:
                self.counts[name] += 1
                text = cleaned
        return text
