"""Kill what writes to an index at random moments, or let many write, and look at what is left."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from opengte.search.kb import KnowledgeBase
from opengte.search.stores.lancedb.store import LanceStore
from tests.support import kb as helpers

ROOT = Path(__file__).parents[2]
WIDTH = 8
INDEX = """
import sys
from opengte.search.ingest import writer as commits
from opengte.search.kb import KnowledgeBase
from tests.support.kb import WordEncoder
commits.BATCH_DOCUMENTS = 4
base = KnowledgeBase.open(sys.argv[1], WordEncoder.load("minilm"))
print("begin", flush=True)
base.index([sys.argv[2]], notify=lambda *_: print(base.store.count(), flush=True))
print("done", flush=True)
"""
COMPACT = """
import sys
from opengte.search.stores.lancedb import maintenance as upkeep
from tests.support.kb_kill import churn
upkeep.INDEX_FROM = 100
churn(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
"""
READ = """
import sys
from opengte.search.kb import KnowledgeBase
from tests.support.kb import WordEncoder
base, seen = KnowledgeBase.open(sys.argv[1], WordEncoder.load("minilm")), 0
while seen < int(sys.argv[2]):
    count = base.store.count()
    assert count >= seen, (count, seen)
    seen = count
    base.search("document", 3)
"""


@dataclass
class Kills:
    """What was killed, and what was found afterwards; every list of faults should be empty."""

    kills: int = 0
    finished: int = 0  # work that was done before the kill came
    committed: int = 0  # documents that were told to be written
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    slowest_open: float = 0.0  # seconds to open and search after a kill

    @property
    def clean(self) -> bool:
        """Return whether nothing was wrong."""
        return not (self.lost or self.twice or self.errors)


def start(code: str, *arguments: object, delay: float = 0.0) -> "subprocess.Popen[str]":
    """Start a program of ours in a process."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
            "FAKE_DELAY": str(delay),
        },
        stdout=subprocess.PIPE,
        text=True,
    )


def killed(child: "subprocess.Popen[str]", moment: float | None) -> tuple[list[str], float]:
    """Kill a program so many seconds after it began; return what it said, and how long it ran."""
    with child:
        assert child.stdout is not None
        first = child.stdout.readline()
        began = time.monotonic()
        if moment is not None:
            time.sleep(moment)
            child.send_signal(signal.SIGKILL)
        said = [first, *child.stdout]
        child.wait()
        assert moment is not None or child.returncode == 0, said
    return [line.strip() for line in said], time.monotonic() - began


# --- indexing ------------------------------------------------------------------------------------


def kill_indexing(folder: Path, kills: int, *, documents: int = 160, seed: int = 0) -> Kills:
    """Start runs over a folder of files, kill each, and look whether what it wrote is there."""
    random_, found, files = random.Random(seed), Kills(), folder / "files"
    write_files(files, documents)
    helpers.kb(folder, "whole")
    whole = killed(start(INDEX, folder / "whole", files, delay=0.005), None)[1]
    place, least = folder / "kb", 0
    helpers.kb(folder)
    for _ in range(kills):
        moment = random_.uniform(0.0, 1.2 * whole / kills)  # each does some of the whole
        said, _ = killed(start(INDEX, place, files, delay=0.005), moment)
        found.kills += 1
        found.finished += said[-1] == "done"
        least = max(least, *(int(line) for line in said if line.isdigit()), 0)
        least = _look_at_files(place, least, found)
    report = helpers_open(place).index([files])
    found.committed = least
    if (report.new, report.unchanged) != (documents - least, least):
        found.errors.append(f"the last run: {report.new} new, {report.unchanged} unchanged")
    _look_at_files(place, documents, found)
    return found


def write_files(folder: Path, count: int) -> None:
    """Write small files."""
    folder.mkdir()
    for n in range(count):
        text = f"document {n} about {helpers.WORDS[n % len(helpers.WORDS)]}"
        (folder / f"{n:03}.txt").write_text(text)


def helpers_open(place: Path) -> KnowledgeBase:
    """Open an index with its encoder of words."""
    return KnowledgeBase.open(place, helpers.encoder())


def _look_at_files(place: Path, least: int, found: Kills) -> int:
    begin = time.perf_counter()
    base = helpers_open(place)
    base.search("document", 3)
    found.slowest_open = max(found.slowest_open, time.perf_counter() - begin)
    names = [one.id for one in base.store.scan()]
    found.twice += sorted({name for name in names if names.count(name) > 1})
    if len(set(names)) < least:
        found.lost.append(f"{least - len(set(names))} of {least}")
    if base.store.health().windows != len(names):
        found.errors.append(f"{base.store.health().windows} windows of {len(names)} documents")
    return len(set(names))


# --- compaction ----------------------------------------------------------------------------------


def kill_compaction(folder: Path, kills: int, *, documents: int = 240, seed: int = 0) -> Kills:
    """Start programs that rewrite documents and compact, kill each while it compacts, and look."""
    random_, found, place = random.Random(seed), Kills(), folder / "kb"
    place.mkdir()
    store = LanceStore(str(place / "lance"))
    store.save_settings({"dimension": WIDTH, "first_pass": None, "language": "English"})
    texts: dict[str, int] = {}  # document -> round that wrote it
    said, whole = killed(start(COMPACT, place, documents, 0), None)
    _told(said, texts)
    for number in range(1, kills + 1):
        said, _ = killed(start(COMPACT, place, documents, number), random_.uniform(0.0, whole))
        found.kills += 1
        found.finished += said[-1] == "done"
        _told(said, texts)
        _look_at_rounds(place, texts, number, found)
    found.committed = len(texts)
    return found


def churn(place: str, documents: int, number: int) -> None:
    """Write documents in small commits, in place of those of the round before, and compact."""
    store, random_ = LanceStore(f"{place}/lance"), np.random.default_rng(number)
    parts = np.array_split(random_.permutation(documents), 8)
    _say("begin")
    for step, part in enumerate(parts):
        made = [helpers.document(f"d{n}", random_, text=f"round {number}") for n in part]
        store.put(made)
        _say(" ".join(map(str, [*part, number])))
        if step % 2:
            failed = store.optimize()
            assert not failed, failed
    _say("done")


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def _told(said: list[str], texts: dict[str, int]) -> None:
    for line in said:
        if line and line not in ("begin", "done") and line.replace(" ", "").isdigit():
            *numbers, round_ = line.split()
            texts |= {f"d{n}": int(round_) for n in numbers}


def _look_at_rounds(place: Path, texts: dict[str, int], now: int, found: Kills) -> None:
    begin = time.perf_counter()
    store = LanceStore(str(place / "lance"))
    store.dense(np.ones(WIDTH, np.float32) / WIDTH**0.5, 3, None)
    words = {name for name, _ in store.lexical("round", 10 * len(texts), None)}
    found.slowest_open = max(found.slowest_open, time.perf_counter() - begin)
    seen: dict[str, int] = {}
    for one in store.scan():
        if one.id in seen:
            found.twice.append(one.id)
        seen[one.id] = int(one.text.split()[1])
    for name, told in texts.items():
        # a commit that was made, but not told before the kill, is of the round that was killed
        if seen.get(name) not in (told, now) or seen[name] < told:
            found.lost.append(f"{name}: {seen.get(name)}, expected {told}")
    texts |= seen  # what is there now must be there after the next kill, told or not
    if words != set(seen):
        found.errors.append(f"words find {len(words)} of {len(seen)} documents")


# --- many at once --------------------------------------------------------------------------------


def many(folder: Path, *, writers: int = 3, readers: int = 2, documents: int = 40) -> Kills:
    """Let processes write and others read at the same time, and look whether all is there."""
    found, place = Kills(), folder / "kb"
    helpers.kb(folder)
    for part in range(writers):
        write_files(folder / f"files{part}", documents)
    total = writers * documents
    begin = time.monotonic()
    children = [
        *(start(INDEX, place, folder / f"files{part}", delay=0.005) for part in range(writers)),
        *(start(READ, place, total) for _ in range(readers)),
    ]
    for child in children:
        child.communicate(timeout=max(1.0, 240 - (time.monotonic() - begin)))
        if child.returncode:
            found.errors.append(f"a process ended with {child.returncode}")
    found.committed = _look_at_files(place, total, found)
    return found
