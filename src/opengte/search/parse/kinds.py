"""What kind of file a name, or the beginning of a file, stands for."""

import os
import re

from opengte.search.parse.base import UnreadableFileError
from opengte.search.parse.encodings import find_encoding

SNIFFED = 8192  # bytes by which a kind is guessed

_CODE = (
    ".c .cc .cjs .clj .cmake .cpp .cs .css .cu .dart .el .ex .exs .f90 .go .gradle .groovy .h .hpp "
    ".hs .ipp .java .jl .js .jsx .kt .lua .m .mjs .ml .nix .pas .php .pl .pm .proto .ps1 .py .pyi "
    ".pyx .r .rb .rs .scala .scss .sh .sql .svelte .swift .tf .ts .tsx .vb .vim .vue .zig"
)
_XML = ".xml .dbk .docbook .dita .ditamap .tei .page .xlf .rss .atom .opml .wsdl .xsd .xsl"
_TAR = ".tar .tgz .tbz2 .txz .tar.gz .tar.bz2 .tar.xz"
_NAMES = (
    "authors build changelog changes codeowners containerfile contributing contributors copying "
    "copyright credits dockerfile faq gemfile gnumakefile history hacking install jenkinsfile "
    "license licence maintainers makefile manifest news notice procfile rakefile readme thanks "
    "todo vagrantfile"
)
_KINDS = {
    "text": ".txt .text .rst .adoc .org .tex .log",
    "subtitles": ".srt .vtt",
    "markdown": ".md .markdown .mdx",
    "html": ".html .htm .xhtml",
    "xml": _XML,
    "pdf": ".pdf",
    "docx": ".docx .docm .dotx",
    "pptx": ".pptx .pptm .ppsx .potx",
    "sheets": ".xlsx .xlsm .xlsb .xls",
    "odf": ".odt .odp .ods .ott .otp .ots",
    "rtf": ".rtf",
    "epub": ".epub",
    "notebook": ".ipynb",
    "mail": ".eml",
    "outlook": ".msg",
    "mbox": ".mbox",
    "jsonl": ".jsonl .ndjson",
    "json": ".json",
    "csv": ".csv .tsv",
    "parquet": ".parquet",
    "settings": ".toml .ini .cfg .conf .yaml .yml .properties .desktop .service",
    "code": _CODE,
    "man": ".man .mdoc",
    "zip": ".zip",
    "tar": _TAR,
    "compressed": ".gz .bz2 .xz",
}
SUFFIXES = {suffix: kind for kind, names in _KINDS.items() for suffix in names.split()}
STREAMED = ("jsonl", "csv", "parquet", "mbox", "zip", "tar", "compressed")  # however large
TEXTUAL = tuple("text subtitles markdown html settings code man notebook json".split())
DECLARING = ("html", "code")  # can name their encoding
GUESSED = "guess"  # the kind of a file whose name does not tell: its beginning does
SECTION = re.compile(r"\.[1-9n][a-z]{0,4}$")  # of a manual page: ls.1, perlfunc.3pm
MAN = re.compile(rb"^[.'](?:TH|Dd|so) ", re.MULTILINE)


def format_of(name: str) -> str | None:
    """Return the kind of a file by its name; "guess" where only its beginning can tell.

    >>> format_of("a.tar.gz"), format_of("README"), format_of("a.jpg")
    ('tar', 'guess', None)
    """
    base = os.path.basename(name).lower()
    stem, suffix = os.path.splitext(base)
    if os.path.splitext(stem)[1] == ".tar" and suffix in (".gz", ".bz2", ".xz"):
        return "tar"
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    known = base.split(".")[0].split("-")[0] in _NAMES.split()
    return GUESSED if not suffix or known or SECTION.search(base) else None


def guess_kind(head: bytes) -> str | None:
    """Return the kind of a file by its first bytes, None if they are no text."""
    start = head.lstrip()[:64].lower()
    if start.startswith(b"%pdf-"):
        return "pdf"
    try:
        find_encoding(head)
    except UnreadableFileError:
        return None
    if start.startswith((b"<!doctype html", b"<html")):
        return "html"
    if start.startswith(b"<?xml"):
        return "xml"
    return "man" if MAN.search(head) else "text"
