"""Kill a model switch at random moments, with somebody writing, and look at what is left."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from opengte.search.ingest.embedder import Embedder
from opengte.search.kb import KnowledgeBase
from tests.support import kb as helpers
from tests.support.kb import WordEncoder

ROOT = Path(__file__).parents[2]
SWITCH = """
import sys
from opengte.search.maintenance import migrate
from opengte.search.kb import KnowledgeBase
from tests.support.kb import WordEncoder
from tests.support.kb_switch_kill import load
migrate.BATCH_DOCUMENTS = 16
base = KnowledgeBase.open(sys.argv[1], load=load)
print("begin", flush=True)
change = base.migrate(WordEncoder.load(sys.argv[2]))
change.build()
change.commit(keep_old=sys.argv[3] == "keep")
print("done", flush=True)
"""


@dataclass
class Kills:
    """What was killed, and what was found afterwards; every list of faults should be empty."""

    kills: int = 0
    finished: int = 0  # switches that were done before the kill came
    switched: int = 0  # kills after which the new model answered
    written: int = 0  # documents that were written meanwhile
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)  # vectors of another model than the index says
    errors: list[str] = field(default_factory=list)
    slowest_open: float = 0.0  # seconds to open and search after a kill

    @property
    def clean(self) -> bool:
        """Return whether nothing was wrong."""
        return not (self.lost or self.twice or self.mixed or self.errors)


def load(identity):
    """Load the model of an index."""
    return WordEncoder.load(
        identity.model, precision=identity.precision, max_length=identity.max_length
    )


def kill_switches(
    folder: Path, kills: int, *, documents: int = 200, seed: int = 0, delay: float = 0.002
) -> Kills:
    """Start switches of an index between two models, kill each, and look whether all is there.

    A thread writes and removes documents all the time; what it was told is written must be there.
    """
    random_ = random.Random(seed)
    place, found, expected = folder / "kb", Kills(), dict[str, str]()
    base = KnowledgeBase.create(place, WordEncoder.load("fake"))
    texts = {f"d{n}": f"document {n} of {helpers.WORDS[n % 14]}" for n in range(documents)}
    base.add(list(texts.values()), list(texts))
    expected |= texts
    duration = _switch(place, "other", None, delay)[1]
    stop, lock = threading.Event(), threading.Lock()
    writer = threading.Thread(target=_write, args=(place, expected, stop, lock, found))
    writer.start()
    try:
        for number in range(kills):
            now = KnowledgeBase.open(place, load=load).identity.model
            target = "fake" if now == "other" else "other"
            keep = "keep" if number % 2 else "drop"
            moment = random_.uniform(0.0, 1.3 * duration)
            found.finished += _switch(place, target, moment, delay, keep)[0]
            found.kills += 1
            with lock:
                _look(place, expected, found, target)
    finally:
        stop.set()
        writer.join()
    _look(place, expected, found, "")
    return found


def _switch(
    place: Path, model: str, moment: float | None, delay: float, keep: str = "keep"
) -> tuple[bool, float]:
    """Switch in a process, killed after so many seconds; return if done, and the time."""
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    child = subprocess.Popen(
        [sys.executable, "-c", SWITCH, str(place), model, keep],
        env={**os.environ, "PYTHONPATH": paths, "FAKE_DELAY": str(delay)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "begin\n"
        start = time.monotonic()
        if moment is not None:
            time.sleep(moment)
            child.send_signal(signal.SIGKILL)
        rest = child.stdout.read()
        child.wait()
    return "done" in rest, time.monotonic() - start


def _write(place, expected, stop, lock, found) -> None:
    """Write documents, and take some away again, one commit after the other."""
    base, number = KnowledgeBase.open(place, load=load), 0
    while not stop.is_set():
        with lock:
            try:
                base.add([f"written {number} of tax"], [f"w{number}"])
                expected[f"w{number}"] = f"written {number} of tax"
                if number % 3 == 2:
                    base.delete([f"w{number - 1}"])
                    del expected[f"w{number - 1}"]
            except Exception as error:
                found.errors.append(f"writer: {error!r}")
                return
            number, found.written = number + 1, found.written + 1
        time.sleep(0.02)


def _look(place: Path, expected: dict[str, str], found: Kills, target: str) -> None:
    start = time.perf_counter()
    try:
        base = KnowledgeBase.open(place, load=load)
        base.search("document 7 of tax", 3)
        found.slowest_open = max(found.slowest_open, time.perf_counter() - start)
        found.switched += base.identity.model == target
        seen: dict[str, str] = {}
        embedder = Embedder(load(base.identity), "none")
        for one in base.store.scan():
            if one.id in seen:
                found.twice.append(one.id)
            seen[one.id] = one.text
            (true,) = embedder.embed([(one.title, one.text, one.sections)])
            if not np.allclose(one.windows[0].vector, true.windows[0].vector, atol=1e-5):
                found.mixed.append(one.id)
        found.lost += [name for name, text in expected.items() if seen.get(name) != text]
        found.twice += [name for name in seen if name not in expected]
    except Exception as error:
        found.errors.append(f"reader: {error!r}")
