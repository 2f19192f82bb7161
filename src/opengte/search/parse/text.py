"""Plain text and Markdown: the file's own characters, so that places in it hold."""

import re
from collections.abc import Iterator
from typing import Any

from opengte.search.parse.base import (
    ParsedDocument,
    ParsedItem,
    ParseProblem,
    Section,
    scalar_fields,
)
from opengte.search.parse.encodings import find_encoding

FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?\n)(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL)
MOST_FRONT_MATTER = 2**16
UNDERLINED = re.compile(r"^(\S.*)\r?\n([=\-~^\"'#*+.:_`])\2{2,}[ \t]*\r?$", re.MULTILINE)
MOST_TITLE = 200


def decode_text(content: bytes, declares: bool = False) -> tuple[str, tuple[str, ...]]:
    """Return a file as text, and what is doubtful about it; declares: as for `find_encoding`."""
    found = find_encoding(content, declares)
    text = found.decode(content)
    return text, (*filter(None, [found.note]), *_mojibake(text))


_DOUBLE = re.compile("[\u00c2-\u00c3][\u0080-\u00bf]|\u00e2\u20ac[\u0153\u2122\u201c\u201d\u2019]")


def _mojibake(text: str) -> tuple[str, ...]:
    """Return a warning where many characters look like UTF-8 that was read as something else."""
    found = len(_DOUBLE.findall(text[:100_000]))
    return (f"{found} characters look wrongly decoded",) if found > 3 else ()


def parse_plain_text(content: bytes) -> Iterator[ParsedItem]:
    """Yield a plain text; lines that are underlined, as in reStructuredText, head its sections."""
    text, warnings = decode_text(content)
    sections = tuple(
        Section(match.start(), match[1].strip()[:MOST_TITLE]) for match in UNDERLINED.finditer(text)
    )
    title = sections[0].title if sections else ""
    yield ParsedDocument(text, title=title, sections=sections, warnings=warnings)


def parse_markdown(content: bytes) -> Iterator[ParsedItem]:
    """Yield a Markdown text: headings are sections, front matter is metadata and not text."""
    text, warnings = decode_text(content)
    settings, body, problem = _front_matter(text)
    if problem:
        yield problem
    sections = markdown_headings(text, body)
    title = settings.pop("title", "") or (sections[0].title if sections else "")
    yield ParsedDocument(
        " " * body + text[body:] if body else text,
        title=str(title)[:MOST_TITLE],
        sections=sections,
        metadata=scalar_fields(settings),
        warnings=warnings,
    )


def _front_matter(text: str) -> tuple[dict[str, Any], int, ParseProblem | None]:
    """Return the settings above a text, and where the text begins."""
    match = FRONT_MATTER.match(text[:MOST_FRONT_MATTER])
    if not match:
        return {}, 0, None
    import yaml

    try:
        values = yaml.safe_load(match[1])
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        return {}, match.end(), ParseProblem(f"front matter is not YAML: {reason}", line=1)
    return (dict(values) if isinstance(values, dict) else {}), match.end(), None


def markdown_headings(text: str, body: int) -> tuple[Section, ...]:
    """Return the headings that a Markdown reader sees; one inside a block of code is none."""
    from markdown_it import MarkdownIt

    starts, place = [], body
    for line in text[body:].splitlines(keepends=True):
        starts.append(place)
        place += len(line)
    parser = MarkdownIt("commonmark", {"maxNesting": 20}).disable(["html_inline", "autolink"])
    tokens = parser.parse(text[body:])
    return tuple(
        Section(starts[one.map[0]], _heading(text, starts, one.map[0]))
        for one in tokens
        if one.type == "heading_open" and one.map and one.map[0] < len(starts)
    )


def _heading(text: str, starts: list[int], line: int) -> str:
    end = starts[line + 1] if line + 1 < len(starts) else len(text)
    return text[starts[line] : end].strip().strip("#").strip()[:MOST_TITLE]
