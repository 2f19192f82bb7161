"""Manual pages (man and mdoc): their text without macros; .SH and .SS are headings."""

import re
from collections.abc import Iterator

from opengte.search.parse.base import ParsedItem
from opengte.search.parse.outline import OutlineBuilder
from opengte.search.parse.text import decode_text

NAMED = {"aq": "'", "dq": '"', "lq": "“", "rq": "”", "oq": "‘", "cq": "’", "em": "—", "en": "–"}
NAMED |= {"bu": "•", "co": "©", "rs": "\\", "ha": "^", "ti": "~", "ga": "`", "hy": "-", "mi": "-"}
NAMED |= {"<=": "≤", ">=": "≥", "->": "→", "<-": "←", "mu": "×", "de": "°", "rg": "®", "tm": "™"}
ESCAPE = re.compile(
    r"\\(?:(?P<font>f(?:\[[^]]*\]|\(..|.)|[sFkRn]?\*(?:\[[^]]*\]|\(..|.)|s[-+]?\d|m\[[^]]*\]|n(?:\[[^]]*\]|\(..|.)"
    r"|[hvwlLoDX]'[^']*'|[&%|^,/)!:c{}dzur])|\((?P<two>..)|\[(?P<long>[^]]+)\]|(?P<one>.))"
)
HEADINGS = (".SH", ".SS", ".Sh", ".Ss")
PARAGRAPHS = (".PP", ".P", ".LP", ".TP", ".IP", ".HP", ".Pp", ".It", ".sp", ".TQ", ".RS", ".RE")
SPOKEN = (".B", ".I", ".BR", ".BI", ".IR", ".IB", ".RB", ".RI", ".SM", ".SB", ".MR", ".UR", ".MT")
ALTERNATING = (".BR", ".BI", ".IR", ".IB", ".RB", ".RI", ".MR")
SILENT = (".Dd", ".Os", ".Bl", ".El", ".UE", ".ME")
VERBATIM, PROSE = (".nf", ".EX", ".Bd"), (".fi", ".EE", ".Ed")
MACRO = re.compile("[A-Z][a-z]")  # of mdoc
BREAKS = (*PARAGRAPHS, *SILENT, *VERBATIM, *PROSE)
SKIPPED = (".de", ".de1", ".ig", ".am")
MDOC = {"Op": "[", "Oo": "[", "Oc": "]", "Aq": "<", "Fl": "-", "Nm": "", "Pq": "(", "Dq": "“"}
CLOSING = {"Op": "]", "Aq": ">", "Pq": ")", "Dq": "”", "Ql": "’", "Sq": "’"}


def parse_man_page(content: bytes) -> Iterator[ParsedItem]:
    """Yield the text of a manual page; macros that are not known are left out, not their text."""
    source, warnings = decode_text(content)
    reader = _ManReader()
    ending = ""
    for line in source.replace("\\\n", "").splitlines():
        if ending:
            ending = "" if line.startswith(ending) else ending
        elif line.startswith(SKIPPED):
            ending = _ending(line)
        else:
            reader.line(line)
    reader.flush()
    yield reader.out.document(reader.title, warnings=warnings)


def _ending(line: str) -> str:
    """Return the line that ends a definition, or a part that is ignored."""
    macro, *words = _arguments(line)
    named = words[:1] if macro == ".ig" else words[1:2]
    return f".{named[0]}" if named else ".."


class _ManReader:
    def __init__(self) -> None:
        self.out, self.title, self.name = OutlineBuilder(), "", ""
        self._words: list[str] = []
        self._verbatim = False
        self._heading = False  # the text of a heading comes on the next line

    def flush(self) -> None:
        """End a paragraph."""
        gap = "\n" if self._verbatim else " "
        self.out.add(gap.join(self._words))
        self._words = []

    def line(self, line: str) -> None:
        """Read a line of the source."""
        macro, _, rest = line.partition(" ") if line[:1] in (".", "'") else ("", "", line)
        macro = "." + macro[1:].strip()
        words = _arguments(rest)
        if line.startswith(('.\\"', "'\\\"", '.\\ "')) or macro == '.\\"':
            return
        if macro in HEADINGS:
            self.flush()
            self.out.heading(_plain(" ".join(words)))
            self._heading = not words
        elif macro in (".TH", ".Dt"):
            self.title = _plain("(".join(words[:2]) + ")" * (len(words) > 1))
        elif macro in BREAKS or not line.strip():
            self.flush()
            self._verbatim = macro in VERBATIM or (self._verbatim and macro not in PROSE)
            self._say(self._mdoc(words if macro == ".It" else words[: macro == ".IP"]))
        elif macro in SPOKEN:
            self._say([_plain(("" if macro in ALTERNATING else " ").join(words))])
        elif macro == ".":
            self._say([_plain(line)])
        elif len(macro) == 3 and MACRO.fullmatch(macro[1:]):
            self._say(self._mdoc([macro[1:], *words]))

    def _say(self, words: list[str]) -> None:
        text = " ".join(words)
        if self._heading and text.strip():
            self.out.heading(text)
            self._heading = False
        elif text.strip() or self._verbatim:
            self._words.append(text if self._verbatim else text.strip())

    def _mdoc(self, words: list[str]) -> list[str]:
        """Return what a line of mdoc says: its macros as marks."""
        said, ending = [], ""
        if words[:1] == ["Nm"]:
            self.name = words[1] if len(words) > 1 and words[1].isalnum() else self.name
            said = [] if len(words) > 1 else [self.name]
        for word in words:
            if MACRO.fullmatch(word):
                said.append(MDOC.get(word, ""))
                ending = CLOSING.get(word, "") + ending
            else:
                said.append(_plain(word))
        text = " ".join(filter(None, [*said, ending]))
        return [re.sub(r"(?<=[\[(<“]) | (?=[\])>,.;:”])|(?<=(?<!\S)-) ", "", text)]


def _arguments(text: str) -> list[str]:
    """Return the arguments of a macro; quotation marks hold one together."""
    found = re.findall(r'"((?:[^"]|"")*)"?|(\S+)', re.sub(r'\\".*', "", text))
    return [(quoted or bare).replace('""', '"') for quoted, bare in found]


def _plain(text: str) -> str:
    def shown(match: re.Match[str]) -> str:
        if match["font"]:
            return ""
        name = match["two"] or match["long"]
        if name:
            code = re.fullmatch(r"u([0-9A-F]{4,5})", name)
            return chr(int(code[1], 16)) if code else NAMED.get(name, "")
        return {"e": "\\", "t": "\t", "~": " ", " ": " ", "0": " "}.get(match["one"], match["one"])

    return ESCAPE.sub(shown, re.sub(r'\\".*', "", text))
