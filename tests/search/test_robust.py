"""Bad input, full disks and killed processes: what was good is indexed, what was there answers."""

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from opengte.search.ingest.pipeline import IngestOptions
from opengte.search.parse.base import ParseLimits
from tests.search.parse.test_formats import docx, pdf
from tests.support import kb as helpers
from tests.support import kb_kill
from tests.support.installed import needs
from tests.support.pdf_writer import assembled

needs("lancedb")
GOOD = {"good.txt": "A red cat eats grass.", "other.md": "# Tax\n\nThe tax law of the house."}


@pytest.fixture
def base(tmp_path):
    return helpers.kb(tmp_path)


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for name, text in GOOD.items():
        (folder / name).write_text(text)
    return folder


def names(base):
    return sorted(os.path.basename(one.id) for one in base.store.scan())


def bad_files(folder: Path) -> dict[str, str]:
    """Write files that mean no good; return what is said of each."""
    with (folder / "huge.txt").open("wb") as file:
        file.truncate(2 << 30)  # 2 GiB, sparse
    bomb = docx("<w:p/>", {"word/media/zeros.bin": bytes(80 << 20)})
    (folder / "bomb.docx").write_bytes(bomb)
    (folder / "old.docx").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(4096))
    (folder / "locked.docx").write_bytes(locked(docx("<w:p><w:r><w:t>secret</w:t></w:r></w:p>")))
    looping = ["<< /Type /Catalog /Pages 2 0 R >>", "<< /Type /Pages /Kids [2 0 R] /Count 1 >>"]
    (folder / "loop.pdf").write_bytes(assembled(looping))
    secret = f"/Encrypt << /Filter /Standard /V 1 /R 2 /O <{'ab' * 32}> /U <{'cd' * 32}> /P -4 >>"
    pages = pdf("secret").replace(b"/Size 7", f"/Size 7 /ID [<00><00>] {secret}".encode())
    (folder / "locked.pdf").write_bytes(pages)
    (folder / "deep.json").write_text("[" * 100_000)
    os.mkfifo(folder / "pipe.txt")
    return {
        "huge.txt": "larger than",
        "bomb.docx": "unpacks to more than",
        "old.docx": "encrypted",
        "locked.docx": "encrypted",
        "loop.pdf": "",
        "locked.pdf": "encrypted",
        "deep.json": "not JSON",
    }


def locked(content: bytes) -> bytes:
    """Mark every part of a zip file as encrypted."""
    changed = bytearray(content)
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.find(mark)
        while place >= 0:
            changed[place + flags] |= 1
            place = content.find(mark, place + 4)
    return bytes(changed)


def test_bad_files_are_told_and_the_others_are_indexed(base, files):
    expected = bad_files(files)
    (files / "cycle").symlink_to(files)
    (files / "sub").mkdir()
    (files / "sub" / "up").symlink_to("..")
    for odd in (b"new\nline.txt", b"latin-\xe9.txt", b"per%cent.txt"):
        Path(os.fsdecode(os.path.join(os.fsencode(files), odd))).write_text("An odd name.")
    start = time.monotonic()
    report = base.index(
        [files], IngestOptions(limits=ParseLimits(seconds=20, unpacked_bytes=64 << 20))
    )
    assert time.monotonic() - start < 90
    reasons = {os.path.basename(place): reason for place, reason in report.problems}
    assert {name for name in reasons if name != "loop.pdf"} == set(expected) - {"loop.pdf"}
    for name, reason in reasons.items():
        assert expected[name] in reason
    reasons = [reason for _, reason in report.skipped]
    assert reasons.count("the same folder was reached before") == 2
    assert reasons.count("not a regular file") == 1
    odd_names = ["latin-%E9.txt", "new%0Aline.txt", "per%25cent.txt"]
    assert [name for name in names(base) if name != "loop.pdf"] == sorted([*GOOD, *odd_names])
    assert base.search("red cat", 1).hits[0].id.endswith("good.txt")


def test_a_file_that_changes_while_it_is_read_is_read_again(base, files):
    path = files / "growing.jsonl"
    path.write_text('{"text": "a row of some length"}\n' * 3000)
    stop = threading.Event()

    def grow():
        while not stop.is_set():
            with path.open("a") as file:
                file.write('{"text": "one more"}\n')
            time.sleep(0.001)

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        first = base.index([files])
    finally:
        stop.set()
        thread.join()
    assert [os.path.basename(place) for place, _ in first.problems] == ["growing.jsonl"]
    rows = len(path.read_text().splitlines())
    second = base.index([files])
    assert second.problems == []
    assert base.store.count() == rows + len(GOOD)


# --- disks ----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 24 MiB; only root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_an_error_and_the_old_index_answers(small_disk, files, tmp_path):
    base = helpers.kb(small_disk)
    base.index([files])
    for n in range(6):
        (files / f"{n}.txt").write_text(f"number {n} " * 2000)
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(bytes(4096))
    before = names(base)
    with pytest.raises(OSError, match=r"cannot write to .*No space left on device"):
        base.index([files])
    for opened in (base, kb_kill.helpers_open(small_disk / "kb")):
        assert names(opened) == before
        assert opened.search("red cat", 1).hits[0].id.endswith("good.txt")
    ballast.unlink()
    assert base.index([files]).new == 6
    assert names(base) == sorted([*before, *(f"{n}.txt" for n in range(6))])


def test_a_read_only_disk_is_an_error_and_the_index_answers(small_disk, files):
    base = helpers.kb(small_disk)
    base.index([files])
    (files / "new.txt").write_text("New words.")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        with pytest.raises(OSError, match=r"cannot write to .*Read-only file system"):
            base.index([files])
        opened = kb_kill.helpers_open(small_disk / "kb")
        assert opened.search("red cat", 1).hits[0].id.endswith("good.txt")
        assert names(opened) == sorted(GOOD)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert base.index([files]).new == 1


# --- many files, many processes, kill -9 ----------------------------------------------------------

MEMORY = """
import sys
from opengte.search.kb import KnowledgeBase
from tests.support.kb import WordEncoder
base = KnowledgeBase.open(sys.argv[1], WordEncoder.load("minilm"))
print("begin", flush=True)
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) // 1024
for folder in sys.argv[2:]:
    report = base.index([folder])
    print(report.new, peak(), flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads its memory from Linux")
def test_many_tiny_files_take_no_more_memory_than_some(base, tmp_path):
    folders = []
    for count in (1000, 4000):
        folder = tmp_path / f"files{count}"
        folder.mkdir()
        for n in range(count):
            (folder / f"{n}.txt").write_text(f"tiny {n}")
        folders.append(folder)
    said, _ = kb_kill.killed(kb_kill.start(MEMORY, tmp_path / "kb", *folders), None)
    (few, little), (many, much) = (map(int, line.split()) for line in said[1:])
    assert (few, many) == (1000, 4000)
    assert much - little < 100  # MiB


@pytest.mark.slow
def test_killed_while_indexing_nothing_is_lost_or_repeated(tmp_path):
    found = kb_kill.kill_indexing(tmp_path, 4, documents=60)
    assert found.clean, found
    assert found.slowest_open < 20


@pytest.mark.slow
def test_killed_while_compacting_nothing_is_lost_or_repeated(tmp_path):
    found = kb_kill.kill_compaction(tmp_path, 4)
    assert found.clean, found
    assert found.slowest_open < 20


@pytest.mark.slow
def test_processes_that_write_and_read_lose_nothing(tmp_path):
    found = kb_kill.many(tmp_path, documents=15)
    assert found.clean, found
    assert found.committed == 45
