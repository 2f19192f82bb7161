"""Files inside files: archives, compressed files, attachments; each has its place or its reason."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from email.message import EmailMessage

import pytest

from opengte.search.parse import archives, formats
from opengte.search.parse.base import ParsedDocument, ParseLimits, ParseProblem, UnreadableFileError
from tests.support.parsing import packed, parse

INSIDE: dict[str, str | bytes] = {
    "docs/a.md": "# Head\n\nwords",
    "rows.csv": "id,text\nx,one\ny,two\n",
    "photo.jpg": b"\xff\xd8",
    "bad.json": "{",
    ".git/config": "hidden",
    "empty/": "",
}


def tarred(files):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in files.items():
            content = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.zip", packed),
        ("a.tar", tarred),
        ("a.tar.gz", lambda files: gzip.compress(tarred(files))),
        ("a.tbz2", lambda files: bz2.compress(tarred(files))),
        ("a.tar.xz", lambda files: lzma.compress(tarred(files))),
    ],
)
def test_every_member_is_a_document_or_has_a_reason(tmp_path, name, pack):
    found = parse(tmp_path / name, pack(INSIDE))
    documents = {one.row: one for one in found if isinstance(one, ParsedDocument)}
    problems = {one.part: one for one in found if isinstance(one, ParseProblem)}
    assert {row: one.format for row, one in documents.items()} == {
        "docs/a.md": "markdown",
        "rows.csv/x": "csv",
        "rows.csv/y": "csv",
    }
    assert documents["docs/a.md"].title == "Head"
    assert {part: one.reason for part, one in problems.items() if not one.failed} == {
        "photo.jpg": "unknown format (.jpg)",
        ".git/config": "hidden",
    }
    assert problems["bad.json"].failed and problems["bad.json"].reason.startswith("not JSON")


@pytest.mark.parametrize(
    ("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_a_compressed_file_is_the_file(tmp_path, suffix, pack):
    (found,) = parse(tmp_path / f"a.md{suffix}", pack(b"# Head\n\nwords"))
    assert (found.row, found.format, found.title) == ("", "markdown", "Head")


def test_archives_inside_archives_end_somewhere(tmp_path):
    content: bytes = packed({"a.txt": "words"})
    for _ in range(formats.MOST_DEPTH):
        content = packed({"b.zip": content})
    (found,) = parse(tmp_path / "a.zip", content)
    assert not found.failed and found.reason == "more than 4 files deep inside each other"


@pytest.mark.parametrize("pack", [packed, tarred, lambda files: gzip.compress(tarred(files))])
def test_a_bomb_unpacks_to_no_more_than_the_limit(tmp_path, pack, monkeypatch):
    limits = ParseLimits(unpacked_bytes=100_000)
    files = {f"{n}.txt": "x" * 30_000 for n in range(9)}
    name = "a.zip" if pack is packed else "a.tar"
    with pytest.raises(UnreadableFileError, match="more than 100,000 bytes"):
        parse(tmp_path / name, pack(files), limits=limits)
    deep = packed({f"{n}.zip": packed({"a.txt": "x" * 45_000}) for n in range(9)})
    with pytest.raises(UnreadableFileError, match="more than .*100,000 bytes"):
        parse(tmp_path / "b.zip", deep, limits=limits)
    with pytest.raises(UnreadableFileError, match="more than 100,000 bytes"):
        parse(tmp_path / "c.txt.gz", gzip.compress(bytes(200_000)), limits=limits)
    monkeypatch.setattr(archives, "MEMBERS", 3)
    found = parse(tmp_path / name, pack({f"{n}.txt": "x" for n in range(9)}))
    assert [getattr(item, "reason", "") for item in found] == [
        *[""] * 3,
        "has more than 3 members; the others were not read",
    ]


def test_a_member_that_is_too_large_or_locked_loses_itself_only(tmp_path):
    limits = ParseLimits(file_bytes=100)
    found = parse(tmp_path / "a.zip", packed({"a.txt": "x" * 101, "b.txt": "words"}), limits=limits)
    assert [getattr(item, "reason", "") for item in found] == ["larger than 100 bytes", ""]
    locked = bytearray(packed({"a.txt": "secret"}))
    locked[6] |= 1
    locked[locked.find(b"PK\x01\x02") + 8] |= 1
    (problem,) = parse(tmp_path / "b.zip", bytes(locked))
    assert problem.reason.startswith("encrypted")


def test_links_out_of_an_archive_are_not_followed(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        member = tarfile.TarInfo("a.txt")
        member.type, member.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.txt")
        archive.addfile(member)
    (found,) = parse(tmp_path / "a.tar", made.getvalue())
    assert (found.part, found.reason, found.failed) == ("a.txt", "not a regular file", False)


CUT = gzip.compress(b"x" * 2000, mtime=0)[:30]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.txt.gz", "a.txt.xz"])
@pytest.mark.parametrize("content", [b"x", b"PK\x03\x04", CUT], ids=["x", "zip", "gzip"])
def test_what_is_no_archive_is_unreadable(tmp_path, name, content):
    if name == "a.txt.gz" and not content.startswith(b"\x1f"):
        return  # is read as it is
    if name == "a.txt.xz":
        content = lzma.compress(b"x" * 2000)[:30]
    with pytest.raises(UnreadableFileError, match="not an archive"):
        parse(tmp_path / name, content)


def letter(subject, text, *attached):
    made = EmailMessage()
    made["Subject"], made["From"], made["Message-ID"] = subject, "ann@x", f"<{subject}@x>"
    made.set_content(text)
    for name, content in attached:
        if isinstance(content, EmailMessage):
            made.add_attachment(content)
        else:
            made.add_attachment(
                content, maintype="application", subtype="octet-stream", filename=name
            )
    return made


def test_attachments_and_forwarded_messages_are_documents_with_a_parent(tmp_path):
    forwarded = letter("inner", "inner words", ("notes.md", b"# Notes"))
    whole = letter(
        "outer",
        "outer words",
        ("a.txt", b"one"),
        ("a.txt", b"two"),
        ("p.jpg", b"x"),
        ("", forwarded),
    )
    found = parse(tmp_path / "a.eml", whole.as_bytes())
    documents = {
        one.row: (one.text.strip(), one.parent) for one in found if isinstance(one, ParsedDocument)
    }
    assert documents == {
        "": ("outer words", None),
        "a.txt": ("one", ""),
        "2 a.txt": ("two", ""),
        "attachment 4.eml": ("inner words", ""),
        "attachment 4.eml/notes.md": ("# Notes", "attachment 4.eml"),
    }
    skipped = [(one.part, one.reason) for one in found if isinstance(one, ParseProblem)]
    assert skipped == [("p.jpg", "unknown format (.jpg)")]
    box = b"".join(b"From x\n" + one.as_bytes() + b"\n" for one in (whole, letter("b", "x")))
    rows = [one.row for one in parse(tmp_path / "a.mbox", box) if isinstance(one, ParsedDocument)]
    assert rows[:2] == ["<outer@x>", "<outer@x>/a.txt"] and rows[-1] == "<b@x>"


def test_a_zip_may_hold_a_name_twice(tmp_path):
    made = io.BytesIO()
    with pytest.warns(UserWarning), zipfile.ZipFile(made, "w") as archive:
        archive.writestr("a.txt", "one")
        archive.writestr("a.txt", "two")
    assert len(parse(tmp_path / "a.zip", made.getvalue())) == 2
