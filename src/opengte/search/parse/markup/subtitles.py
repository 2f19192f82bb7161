"""Subtitles (SubRip and WebVTT): what is said, in sections of a minute."""

import re
from collections.abc import Iterator

from opengte.search.parse.base import ParsedItem, UnreadableFileError
from opengte.search.parse.outline import OutlineBuilder
from opengte.search.parse.text import decode_text

TIMES = re.compile(r"^(?:(\d+):)?(\d\d?):(\d\d)[.,]\d+[ \t]*-->.*$", re.MULTILINE)
MARKS = re.compile(r"</?[^<>\n]*>|\{\\[^}\n]*\}")
SPEAKER = re.compile(r"<v(?:\.[^ >]*)? ([^>]+)>")


def parse_subtitles(content: bytes) -> Iterator[ParsedItem]:
    """Yield what is said, without times and marks; speakers are kept."""
    text, warnings = decode_text(content)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    cues = list(TIMES.finditer(text))
    if not cues and text.strip():
        raise UnreadableFileError("no subtitles, though its name says so: it has no times")
    ends = [*(cue.start() for cue in cues), len(text)][1:]
    out, minute, last = OutlineBuilder(), -1, ""
    for number, (cue, end) in enumerate(zip(cues, ends, strict=True), 1):
        now = 60 * int(cue[1] or 0) + int(cue[2])
        if now != minute:
            minute = now
            out.heading(f"{now // 60:02d}:{now % 60:02d}:00")
        for line in _lines(text[cue.end() : end], final=number == len(cues)):
            if line != last:  # captions that roll repeat the line above
                out.add(line, "\n")
                last = line
    yield out.document(warnings=warnings)


def _lines(block: str, *, final: bool) -> list[str]:
    """Return the lines of a cue, without the number or name of the next one and comments."""
    said, _, rest = block.lstrip("\n").partition("\n\n")
    if not rest and not final and said.count("\n") and said.rstrip().rpartition("\n")[2].isdigit():
        said = said.rstrip().rpartition("\n")[0]  # no empty line before the next number
    said = MARKS.sub("", SPEAKER.sub(r"\1: ", said))
    return [line.strip() for line in said.split("\n") if line.strip()]
