"""Collect the text of a document block by block, with the headings that begin its sections."""

from collections.abc import Iterable, Mapping

from opengte.search.parse.base import ParsedDocument, Scalar, Section

MOST_TITLE = 200


class OutlineBuilder:
    """Text in blocks; a heading begins a section."""

    def __init__(self) -> None:
        self.sections: list[Section] = []
        self.blocks = 0
        self._parts: list[str] = []
        self._length = 0

    def add(self, text: str, gap: str = "\n\n") -> None:
        """Add a block after a gap; nothing for white space alone."""
        text = text.strip()
        if not text:
            return
        if self._length:
            self._put(gap)
        self._put(text)
        self.blocks += 1

    def heading(self, text: str) -> None:
        """Add a heading, which is a block of one line."""
        text = " ".join(text.split())
        if text:
            start = self._length + 2 * bool(self._length)
            self.sections.append(Section(start, text[:MOST_TITLE]))
            self.add(text)

    def row(self, cells: Iterable[str], gap: str = "\n") -> None:
        """Add a row of a table: its cells on a line, those at the end left out if empty."""
        self.add(" | ".join(" ".join(cell.split()) for cell in cells).rstrip("| "), gap)

    def extend(self, text: str, sections: Iterable[Section]) -> None:
        """Add a text that has sections of its own."""
        if not text.strip():
            return
        shift = self._length + 2 * bool(self._length)
        before = len(text) - len(text.lstrip())
        self.sections += [
            Section(shift + max(0, one.start - before), one.title) for one in sections
        ]
        self.add(text)

    def document(
        self,
        title: str = "",
        metadata: Mapping[str, Scalar] | None = None,
        warnings: Iterable[str] = (),
    ) -> ParsedDocument:
        """Return what was added."""
        first = self.sections[0].title if self.sections else ""
        return ParsedDocument(
            "".join(self._parts),
            title=(title or first)[:MOST_TITLE],
            sections=tuple(self.sections),
            metadata=metadata or {},
            warnings=tuple(warnings),
        )

    def _put(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)
