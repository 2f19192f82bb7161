"""Source code and settings: the file's own characters; definitions and tables are sections."""

import ast
import re
import warnings
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from opengte.search.parse.base import ParsedDocument, ParsedItem, Section
from opengte.search.parse.text import MOST_TITLE, decode_text

DEFINITION = re.compile(
    r"^(?:@\w|(?:export |pub(?:lic)? |private |static |async |abstract |final )*"
    r"(?:class|def|fn|func|function|interface|struct|enum|trait|impl|type|module|namespace|sub)\b)"
    r".*",
    re.MULTILINE,
)
SETTING = re.compile(r"^(?:\[+[^\]\n]+\]+|[\w.\"'-]+:(?=[ \t]*(?:[#|>&].*)?$)).*", re.MULTILINE)
# suffixes to the package of a grammar, and its function where it is not `language`
GRAMMARS = {
    ".js .mjs .cjs .jsx": ("tree_sitter_javascript", "language"),
    ".ts": ("tree_sitter_typescript", "language_typescript"),
    ".tsx": ("tree_sitter_typescript", "language_tsx"),
    ".java": ("tree_sitter_java", "language"),
    ".c .h": ("tree_sitter_c", "language"),
    ".cc .cpp .hpp .cu": ("tree_sitter_cpp", "language"),
    ".go": ("tree_sitter_go", "language"),
    ".rs": ("tree_sitter_rust", "language"),
    ".rb": ("tree_sitter_ruby", "language"),
    ".php": ("tree_sitter_php", "language_php"),
    ".cs": ("tree_sitter_c_sharp", "language"),
    ".sh": ("tree_sitter_bash", "language"),
}
LANGUAGES = {suffix: one for names, one in GRAMMARS.items() for suffix in names.split()}
DEFINED = re.compile(
    r"(?:abstract_)?(?:function|method|class|interface|struct|enum|trait|impl|module|namespace|"
    r"internal_module|constructor|type_alias|record|union|mod|type)"
    r"(?:_(?:declaration|definition|item|specifier))?|singleton_method"
)


def parse_code(content: bytes, suffix: str) -> Iterator[ParsedItem]:
    """Yield source code; definitions, also inside each other, begin sections.

    Python is read by its own parser, other languages by tree-sitter where the extra `code` is
    installed. Otherwise, and where a file has errors, definitions that are not indented count.
    """
    text, notes = decode_text(content)
    sections = _python(text) if suffix in (".py", ".pyi") else _tree(text, suffix)
    if not sections:
        sections = [
            Section(match.start(), match[0].strip()[:MOST_TITLE])
            for match in DEFINITION.finditer(text)
        ]
    yield ParsedDocument(text, sections=tuple(sections), warnings=notes)


def parse_settings(content: bytes) -> Iterator[ParsedItem]:
    """Yield a file of settings; a table of TOML or INI and a key of YAML begin a section."""
    text, notes = decode_text(content)
    found = SETTING.finditer(text)
    sections = tuple(Section(one.start(), one[0].strip()[:MOST_TITLE]) for one in found)
    yield ParsedDocument(text, sections=sections, warnings=notes)


def _python(text: str) -> list[Section]:
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    starts = _line_starts(text)
    found: list[Section] = []
    waiting: list[tuple[ast.AST, str]] = [(tree, "")]
    while waiting:
        parent, path = waiting.pop()
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
                found.append(Section(starts[first - 1], f"{path}{node.name}"[:MOST_TITLE]))
                waiting.append((node, f"{path}{node.name}."))
            elif isinstance(node, ast.stmt | ast.ExceptHandler):
                waiting.append((node, path))
    return sorted(found, key=lambda one: one.start)


def _line_starts(text: str) -> list[int]:
    """Return where the lines start that Python counts."""
    return [0, *(match.end() for match in re.finditer(r"\r\n|\r|\n", text))]


def _tree(text: str, suffix: str) -> list[Section]:
    if suffix not in LANGUAGES:
        return []
    package, function = LANGUAGES[suffix]
    try:
        from tree_sitter import Language, Parser

        grammar = Language(getattr(import_module(package), function)())
    except ImportError:
        return []
    raw = text.encode("utf-8", "surrogatepass")
    found: list[tuple[int, str]] = []
    waiting: list[tuple[Any, str]] = [(Parser(grammar).parse(raw).root_node, "")]
    while waiting:
        node, path = waiting.pop()
        inner = path
        if DEFINED.fullmatch(node.type) and node.is_named and (name := _name(node)):
            inner = f"{path}{name}."
            found.append((node.start_byte, f"{path}{name}"))
        waiting += [(child, inner) for child in reversed(node.children)]
    return _by_characters(raw, sorted(set(found)))


def _name(node: Any) -> str:
    """Return what a definition is called, "" if it has no name."""
    for field in ("name", "declarator", "type"):
        named = node.child_by_field_name(field)
        while named is not None and named.child_by_field_name("declarator") is not None:
            named = named.child_by_field_name("declarator")
        if named is not None and named.text:
            return str(named.text.decode("utf-8", "replace"))[:80]
    return ""


def _by_characters(raw: bytes, found: list[tuple[int, str]]) -> list[Section]:
    """Turn places in bytes into lines' starts in characters."""
    sections, at, characters = [], 0, 0
    for place, title in found:
        start = raw.rfind(b"\n", 0, place) + 1
        start = start if not raw[start:place].strip() else place
        if start < at:
            continue
        characters += len(raw[at:start].decode("utf-8", "surrogatepass"))
        at = start
        sections.append(Section(characters, title[:MOST_TITLE]))
    return sections
