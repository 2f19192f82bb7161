"""Hide private parts of texts by pattern, and show what is hidden before anything is written."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from opengte.errors import InputError

PATTERNS: Mapping[str, str] = {
    "email": r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
    "secret": r"\b(?:sk|pk|ghp|gho|xox[abp]|AKIA)[-_A-Za-z0-9]{12,}\b|(?i:\bbearer\s+\S{12,})",
    "iban": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b",
    "card": r"\b(?:\d[ -]?){13,19}\b",
    "address": r"\b(?:\d{1,3}\.){3}\d{1,3}\b",
    "phone": r"(?<![\w.])\+?\d[\d ()/-]{7,}\d(?![\w.])",
}
EXAMPLES = 3  # of a pattern that are shown


@dataclass(frozen=True)
class RedactionPreview:
    """How many texts each pattern changes, and a few of them as they will be written."""

    texts: int
    changed: Mapping[str, int]
    examples: Mapping[str, Sequence[str]]


class Redactor:
    """Replaces what patterns match by their names in brackets.

    >>> Redactor().redact("mail me at ann@example.org")
    'mail me at [email]'
    """

    def __init__(self, more: Iterable[str] = ()) -> None:
        """Take further regular expressions; InputError for one that is none."""
        named = {**PATTERNS, **{f"private {n}": text for n, text in enumerate(more, 1)}}
        self._patterns: dict[str, re.Pattern[str]] = {}
        for name, text in named.items():
            try:
                self._patterns[name] = re.compile(text)
            except re.error as error:
                raise InputError(
                    f"the pattern {text!r} is no regular expression: {error}"
                ) from None
            if self._patterns[name].match("") is not None:
                raise InputError(f"the pattern {text!r} matches an empty text: it hides everything")

    def redact(self, text: str) -> str:
        """Return a text without what is private."""
        for name, pattern in self._patterns.items():
            text = pattern.sub(f"[{name}]", text)
        return text

    def preview(self, texts: Iterable[str]) -> RedactionPreview:
        """Return what redaction would do to texts, to be shown before they are written."""
        changed: Counter[str] = Counter()
        examples: dict[str, list[str]] = {}
        total = 0
        for text in texts:
            total += 1
            now = self.redact(text)
            for name in self._patterns if now != text else ():
                if f"[{name}]" in now and f"[{name}]" not in text:
                    changed[name] += 1
                    held = examples.setdefault(name, [])
                    if len(held) < EXAMPLES:
                        held.append(now)
        return RedactionPreview(total, dict(changed), examples)
