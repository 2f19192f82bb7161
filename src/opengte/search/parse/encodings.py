"""The encoding of a text: UTF-8 where it is that, else what it says, else what its bytes look like.

Lines are judged one by one, since files are joined from others: those that are UTF-8 stay so, the
others are read in the encoding that a detector finds in them (chardetng, as in Firefox).
"""

import codecs
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO
from unicodedata import category

from opengte.search.parse.base import UnreadableFileError

MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
CHUNK = 2**20
LINE = 2**26  # bytes from which a line may be cut inside a character
SAMPLE = 2**16  # bytes that the detector sees
SNIFFED = 8192  # bytes in which controls mark a binary
BINARY = "binary, though its name says that it is text"

_DECLARED = re.compile(rb"(?:charset|encoding|coding)\s*[=:]\s*[\"']?\s*([\w.:-]{3,40})", re.I)
# names of the Web for encodings that Python knows with more characters by others
_WIDER = {
    "ascii": "windows-1252",
    "iso8859-1": "windows-1252",
    "iso8859-9": "windows-1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "big5": "big5hkscs",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
_RARE = ("windows-1254", "windows-1257", "iso-8859-4", "iso-8859-13")
_CONTROLS = bytes(code for code in range(32) if code not in b"\b\t\n\f\r\x1b")
_ACCENTS_ALONE = re.compile("[\x80-\uffff]{4,}")  # no word of a Western language has so many
_ESCAPED = re.compile(rb"\x1b\$[@B]")  # ISO-2022-JP
_WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")


@dataclass(frozen=True)
class TextEncoding:
    """How the bytes of a text are read.

    codec is Python's name for it; mixed: only of the lines that are not UTF-8; note says what is
    doubtful about it, and is empty for what is sure.
    """

    codec: str = "utf-8"
    mixed: bool = False
    note: str = ""

    def decode(self, content: bytes) -> str:
        """Return the bytes as text; what the encoding does not have becomes U+FFFD."""
        if not self.mixed:
            codec = "utf-8-sig" if self.codec == "utf-8" else self.codec
            return content.decode(codec, "replace")
        return "".join(map(self._line, content.splitlines(keepends=True)))

    def _line(self, line: bytes) -> str:
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError:
            codec = "utf-8" if _is_damaged(line) else self.codec
            return line.decode(codec, "replace")


def find_encoding(content: bytes, declares: bool = False) -> TextEncoding:
    """Return the encoding of a text; declares: whether its format can name it, as HTML can.

    Raises UnreadableFileError for what is no text.

    >>> find_encoding("Die Königin fährt über die Brücke".encode("latin-1")).codec
    'windows-1252'
    """
    known = _evident(content[:SAMPLE], len(content))
    if known:
        return known
    survey = _Survey()
    survey.add(content)
    if b"\0" in content[:SNIFFED] or survey.is_binary(content[:SNIFFED]):
        raise UnreadableFileError(BINARY)
    declared = _DECLARED.search(content[:4096]) if declares and survey.legacy else None
    return survey.named(declared[1].decode("ascii")) if declared else survey.found()


def as_utf8(file: BinaryIO) -> tuple[BinaryIO, TextEncoding]:
    """Return a file that is open at its start as one of UTF-8, and what its encoding is.

    It is read through once to know; only what is not UTF-8 is converted while it is read again.
    """
    start = file.read(SAMPLE)
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    found = _evident(start, size)
    if not found:
        survey = _Survey()
        while chunk := file.read(CHUNK):
            survey.add(chunk + file.readline(LINE))
        file.seek(0)
        if survey.is_binary(start[:SNIFFED]):
            raise UnreadableFileError(BINARY)
        found = survey.found()
    if found.codec == "utf-8" and not found.mixed:
        return file, found
    return io.BufferedReader(_Recoded(file, found)), found


def _evident(start: bytes, size: int) -> TextEncoding | None:
    """Return the encoding that the first bytes of a text show: a mark, wide characters, escapes."""
    for mark, codec in MARKS:
        if start.startswith(mark):
            return None if codec == "utf-8-sig" else TextEncoding(codec)
    head = start[:SNIFFED]
    share = _controls(head) / max(1, len(head))
    if b"\0" in head or share > 1 / 5 or (share > 1 / 50 and not _is_utf8(head)):
        codec = _wide(start, size)
    else:
        codec = "iso2022_jp" if start.isascii() and _ESCAPED.search(start) else ""
    return TextEncoding(codec, note=_guess(codec)) if codec else None


def _controls(content: bytes) -> int:
    return len(content) - len(content.translate(None, _CONTROLS))


def _is_utf8(start: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return True


def _guess(codec: str) -> str:
    return f"its encoding is not UTF-8 and not named; read as {codec}, a guess from its bytes"


class _Survey:
    """What the lines of a text are: UTF-8, UTF-8 with damage, or something older."""

    def __init__(self) -> None:
        self.lines = 0
        self.utf8 = 0  # characters beyond ASCII
        self.damaged = 0  # lines
        self.legacy = 0  # lines
        self.first = 0  # line that is not UTF-8
        self.sample = bytearray()  # of lines that are not UTF-8

    def add(self, content: bytes) -> None:
        """Take the next lines in."""
        try:
            self.utf8 += 0 if content.isascii() else len(content) - len(content.decode())
            self.lines += content.count(b"\n")
        except UnicodeDecodeError:
            for line in content.splitlines(keepends=True):
                self._add_line(line)

    def _add_line(self, line: bytes) -> None:
        self.lines += 1
        if line.isascii():
            return
        try:
            self.utf8 += len(line) - len(line.decode())
            return
        except UnicodeDecodeError:
            self.first = self.first or self.lines
        if _is_damaged(line):
            self.damaged += 1
        else:
            self.legacy += 1
            self.sample += line[: max(0, SAMPLE - len(self.sample))]

    def is_binary(self, start: bytes) -> bool:
        """Return whether what is not UTF-8 has controls that no text has."""
        return bool(self.first) and _controls(start) > len(start) / 50

    def found(self) -> TextEncoding:
        """Return the encoding without anything that names it."""
        if not self.first:
            return TextEncoding()
        if not self.legacy:
            note = f"not UTF-8 from line {self.first}; such bytes are read as U+FFFD"
            return TextEncoding(note=note)
        codec = _detect(bytes(self.sample))
        western = codec == "windows-1252"  # whose words are never UTF-8 by chance
        if not self.utf8 or (self.utf8 < self.legacy and not western):
            return TextEncoding(codec, note=_guess(codec))
        lines = f"{self.legacy:,} lines are not UTF-8 (the first is line {self.first:,})"
        return TextEncoding(codec, True, f"{lines}; read as {codec}, a guess from their bytes")

    def named(self, name: str) -> TextEncoding:
        """Return the encoding that a text names, unless its bytes say otherwise."""
        guess = self.found()
        codec = _codec(name)
        try:
            text = bytes(self.sample).decode(codec) if codec else ""
        except UnicodeDecodeError:
            text = ""
        western = codec in ("windows-1252", "windows-1254", "iso8859-15")
        words = sum(map(len, _ACCENTS_ALONE.findall(text)))
        if text and not (western and words > sum(one > "\x7f" for one in text) / 2):
            return TextEncoding(codec)
        note = f"names {name} as its encoding, which it is not; read as {guess.codec}, a guess"
        return TextEncoding(guess.codec, guess.mixed, note)


def _is_damaged(line: bytes) -> bool:
    """Return whether a line that is not UTF-8 is mostly that: a character was cut, a byte lost."""
    text = line.decode("utf-8", "replace")
    bad = text.count("\ufffd")
    return sum(character > "\x7f" for character in text) - bad > 2 * bad


def _detect(sample: bytes) -> str:
    from chardetng_py import detect

    found = detect(sample).lower()
    beyond = len(sample) - len(sample.translate(None, bytes(range(128, 256))))
    if beyond < 3 and found in _RARE:  # too little to tell it from the most frequent
        return "windows-1252"
    return _codec(found) or "windows-1252"


def _codec(name: str) -> str:
    """Return Python's codec for a name, empty for one that is none or cannot be that of lines."""
    try:
        found = codecs.lookup(name.lower().removesuffix("-i")).name
    except (LookupError, ValueError):
        return ""
    if found.startswith(("utf", "cp125")):
        return "" if found.startswith("utf") else found.replace("cp", "windows-")
    try:
        if b"a\\x41".decode(found) != "a\\x41":  # of mainframes, or of source code
            return ""
    except (LookupError, UnicodeError):  # a transformation of bytes
        return ""
    return _WIDER.get(found, found)


def _wide(start: bytes, size: int) -> str:
    """Return the encoding of a text of two or four bytes a character, empty if it is none."""
    best, most = "", -1
    for codec in _WIDE:
        if size % (4 if "32" in codec else 2):
            continue
        try:
            text = codecs.getincrementaldecoder(codec)().decode(start)
        except UnicodeDecodeError:
            continue
        plain = sum(character < "\x7f" for character in text)
        if len(text) > 2 and plain > most and _is_plausible(text):
            best, most = codec, plain
    return best


def _is_plausible(text: str) -> bool:
    """Return whether nearly all characters are of ASCII and of one more script, and none odd."""
    odd = {one for one in set(text) if not one.isprintable() and not one.isspace()}
    if any(category(one) != "Cf" for one in odd):
        return False
    blocks = Counter(map(_block, text))
    common = blocks.pop(0, 0) + max(blocks.values(), default=0)
    return common > 0.95 * len(text)


def _block(character: str) -> int:
    code = ord(character)
    if 0x3000 <= code < 0xA000 or 0xAC00 <= code < 0xD7B0 or code >= 0xFF00:
        return 0x30
    return 0 if 0x2000 <= code < 0x2100 else code >> 8


class _Recoded(io.RawIOBase):
    """A file in another encoding, read as UTF-8."""

    def __init__(self, file: BinaryIO, encoding: TextEncoding) -> None:
        self._parts = self._recode(file, encoding)
        self._left = b""

    @staticmethod
    def _recode(file: BinaryIO, encoding: TextEncoding) -> Iterator[bytes]:
        if encoding.mixed:
            while lines := file.readline(LINE):
                yield encoding.decode(lines).encode()
            return
        decoder = codecs.getincrementaldecoder(encoding.codec)("replace")
        while chunk := file.read(CHUNK):
            yield decoder.decode(chunk).encode("utf-8", "replace")
        yield decoder.decode(b"", True).encode("utf-8", "replace")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._left:
            part = next(self._parts, None)
            if part is None:
                return 0
            self._left = part
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
