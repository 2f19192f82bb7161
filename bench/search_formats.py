"""Make a folder with three files of every format that `gte index` reads, and index it.

    python bench/search_formats.py FOLDER [--sources DIR] [--kb KB]

Real files come from the source distributions of parsers (pip) and from Debian packages (apt-get,
dpkg-deb), which are fetched into DIR; what cannot be had is made from known text, or broken, to see
the reason. Prints of each file its documents, characters and sections, and what was skipped.
"""

import argparse
import gzip
import io
import random
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import EmailMessage
from pathlib import Path

from opengte.search.parse import kinds
from opengte.search.parse.base import ParsedDocument, ParseProblem
from opengte.search.parse.process import ParserProcess

SDISTS = (
    "python-docx python-pptx openpyxl odfpy msg-parser webvtt-py pysrt nbconvert striprtf".split()
)
DEBS = (
    "debian-policy developers-reference gnome-user-docs r-cran-readxl r-cran-openxlsx "
    "docbook-xsl-doc-html libreoffice-help-common debian-faq"
).split()
SUFFIXES = (
    ".docx .pptx .xlsx .xls .odt .odp .ods .rtf .epub .ipynb .msg .eml .mbox .xml .page .srt .vtt "
    ".md .rst .txt .html .pdf .py .js .c .java .toml .ini .yaml .json .csv .1.gz .3.gz .zip .tar.gz"
).split()
PACKED = ".docx .pptx .xlsx .xls .odt .odp .ods .epub .msg .pdf .1.gz .3.gz".split()
NAMES = ("README", "Makefile", "LICENSE")
WORDS = "The gardener plants tomatoes in April and harvests them in August, number {}."


def fetch(folder: Path) -> None:
    """Fetch and unpack what has real files; what fails is told and left out."""
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
    for name in SDISTS:
        if not list(folder.glob(name.replace("-", "?") + "-*")):
            _run([*pip, "-d", ".", name], folder)
    for name in DEBS:
        if not list(folder.glob(f"{name}_*.deb")):
            _run(["apt-get", "download", "-q", name], folder)
    for path in folder.glob("*.tar.gz"):
        if not (folder / path.name.removesuffix(".tar.gz")).exists():
            _run(["tar", "xzf", path.name], folder)
    for path in folder.glob("*.deb"):
        target = folder / path.stem
        if not target.exists():
            _run(["dpkg-deb", "-x", path.name, str(target)], folder)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        print(f"left out: {' '.join(command)}: {done.stderr.strip()[-200:]}", file=sys.stderr)


def collect(folder: Path, sources: Path) -> None:
    """Copy three files of every format, the same ones each time; make what there is not."""
    folder.mkdir(parents=True, exist_ok=True)
    there = sorted(path for path in sources.rglob("*") if path.is_file() and not path.is_symlink())
    there += sorted(Path("/usr/share/man").glob("man[13]/*.gz"))
    for suffix in SUFFIXES:
        fitting = [
            path for path in there if path.name.endswith(suffix) and 500 < path.stat().st_size < 3e6
        ]
        chosen = random.Random(0).sample(fitting, min(3, len(fitting)))
        for number, path in enumerate(chosen):
            shutil.copyfile(path, folder / f"{number}-{path.name}")
        for number in range(len(chosen), 3):
            name = "broken" if suffix in PACKED else "made"
            (folder / f"{number}-{name}{suffix}").write_bytes(made(suffix, number))
    for name in NAMES:
        for number in range(3):
            (folder / str(number)).mkdir(exist_ok=True)
            (folder / str(number) / name).write_text(f"{name}\n\n{WORDS.format(number)}\n")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "program").write_bytes(b"\x7fELF\0\0")


def made(suffix: str, number: int) -> bytes:
    """Return a file of a format whose text is known."""
    text = WORDS.format(number)
    letter = EmailMessage()
    letter["Subject"], letter["From"], letter["Message-ID"] = (
        "Garden",
        "ann@example.org",
        f"<{number}>",
    )
    letter.set_content(text)
    letter.add_attachment(f"# Notes\n\n{text}".encode(), "text", "markdown", filename="notes.md")
    simple: dict[str, bytes] = {
        ".rtf": rb"{\rtf1\ansi " + text.encode() + rb"\par}",
        ".eml": letter.as_bytes(),
        ".mbox": b"From ann\n" + letter.as_bytes() + b"\nFrom bob\n" + letter.as_bytes(),
        ".json": f'{{"text": "{text}"}}'.encode(),
        ".csv": f'id,text\na,"{text}"\nb,more\n'.encode(),
        ".ini": f"[garden]\nabout = {text}\n".encode(),
        ".toml": f'[garden]\nabout = "{text}"\n'.encode(),
        ".yaml": f"garden:\n  about: {text!r}\n".encode(),
        ".java": f"class A {{\n  // {text}\n  void plant() {{}}\n}}\n".encode(),
        ".xml": f"<article><title>Garden</title><para>{text}</para></article>".encode(),
    }
    if suffix in (".zip", ".tar.gz"):
        return packed(suffix, {"docs/a.md": f"# Garden\n\n{text}".encode(), "b.jpg": b"\xff\xd8"})
    return simple.get(suffix, text.encode())


def packed(suffix: str, files: dict[str, bytes]) -> bytes:
    """Return an archive."""
    out = io.BytesIO()
    if suffix == ".zip":
        with zipfile.ZipFile(out, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return out.getvalue()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(out.getvalue())


def report(folder: Path) -> None:
    """Print what becomes of every file."""
    with ParserProcess() as parser:
        for path in sorted(one for one in folder.rglob("*") if one.is_file()):
            kind = kinds.format_of(path.name)
            items = [] if kind is None else list(parser.parse(str(path), kind))
            texts = [one for one in items if isinstance(one, ParsedDocument)]
            problems = [one for one in items if isinstance(one, ParseProblem)]
            reasons = [f"{one.part or 'file'}: {one.reason}"[:70] for one in problems]
            reasons += [warning[:70] for one in texts for warning in one.warnings]
            said = "; ".join(dict.fromkeys(reasons)) or ("unknown format" if kind is None else "")
            sections = sum(len(one.sections) for one in texts)
            size = sum(len(one.text) for one in texts)
            name, own = str(path.relative_to(folder)), texts[0].format if texts else kind or "-"
            print(f"{name:<52}{own:<11}{len(texts):>5}{size:>9,}{sections:>6}  {said[:120]}")


def main() -> None:
    """Make the folder, report on it, and index it where a KB is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sources", type=Path, default=Path(".cache/bench-formats"))
    parser.add_argument("--kb")
    given = parser.parse_args()
    fetch(given.sources)
    collect(given.folder, given.sources)
    report(given.folder)
    if given.kb:
        command = "from opengte.cli import main; main()"
        subprocess.run(
            [sys.executable, "-c", command, "index", str(given.folder), "--to", given.kb]
        )


if __name__ == "__main__":
    main()
