"""What a knowledge base keeps when its processes are killed, or its disk is full: a table.

    python bench/search_kill.py --kills 20

Programs that write to an index are ended by `kill -9` at random moments, and what is left is looked
at: each document that was told to be committed is there once, and the index opens and answers.
The disks are small ones in memory, which only root can mount; elsewhere these rows are left out.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support import kb as helpers  # noqa: E402 - the programs that are killed are those of the tests
from tests.support import kb_kill  # noqa: E402
from tests.support.kb_switch_kill import kill_switches  # noqa: E402

SIZE = "24m"  # of a small disk


def row(name: str, found: kb_kill.Kills, seconds: float) -> dict:
    """Return a row of the table."""
    return {
        "what": name,
        "kills": found.kills,
        "finished": found.finished,
        "lost": len(found.lost),
        "twice": len(found.twice),
        "errors": [*found.errors, *(f"mixed: {one}" for one in getattr(found, "mixed", ()))],
        "slowest_open_s": round(found.slowest_open, 2),
        "seconds": round(seconds),
    }


@contextlib.contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """Mount a small disk; OSError where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        raise OSError("a file system cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def bad_disk(folder: Path, spoil: Callable[[Path], object], reason: str) -> kb_kill.Kills:
    """Index, spoil the disk, index more: an error that says why, and the index answers."""
    found, files = kb_kill.Kills(), folder / "files"
    kb_kill.write_files(files, 20)
    with disk(folder / "disk") as place:
        base = helpers.kb(place)
        base.index([files])
        (files / "new.txt").write_text("words " * 5000)
        spoil(place)
        try:
            base.index([files])
            found.errors.append("no error")
        except OSError as error:
            if reason not in str(error):
                found.errors.append(f"the error is {error}")
        start = time.perf_counter()
        opened = kb_kill.helpers_open(place / "kb")
        if len(opened.search("document", 5).hits) != 5:
            found.errors.append("it does not answer")
        found.slowest_open = time.perf_counter() - start
        names = [one.id for one in opened.store.scan()]
        found.lost += ["some"] * (20 - len(set(names)))
        found.twice += ["some"] * (len(names) - len(set(names)))
    return found


def full(place: Path) -> None:
    """Fill a disk."""
    with (place / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def read_only(place: Path) -> None:
    """Forbid writing to a disk."""
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)


def main() -> None:
    """Kill, look, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="of each kind")
    parser.add_argument("--rows", help="only these, with commas between")
    arguments = parser.parse_args()
    kills = arguments.kills
    rows: dict[str, Callable[[Path], kb_kill.Kills]] = {
        "indexing": lambda folder: kb_kill.kill_indexing(folder, kills),
        "compaction": lambda folder: kb_kill.kill_compaction(folder, kills),
        "switch": lambda folder: kill_switches(folder, kills),
        "3 writers, 2 readers": kb_kill.many,
        "full disk": lambda folder: bad_disk(folder, full, "No space left on device"),
        "read-only disk": lambda folder: bad_disk(folder, read_only, "Read-only file system"),
    }
    chosen = arguments.rows.split(",") if arguments.rows else list(rows)
    clean = True
    for name in chosen:
        with tempfile.TemporaryDirectory() as temporary:
            start = time.perf_counter()
            try:
                found = rows[name](Path(temporary))
            except OSError as error:
                print(json.dumps({"what": name, "left_out": str(error)}), flush=True)
                continue
            line = row(name, found, time.perf_counter() - start)
        clean = clean and not (line["lost"] or line["twice"] or line["errors"])
        print(json.dumps(line), flush=True)
    raise SystemExit(0 if clean else 1)


if __name__ == "__main__":
    main()
