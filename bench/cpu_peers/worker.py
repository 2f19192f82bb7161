"""The process of one engine: loads it, then answers requests until its input ends.

    python -m cpu_peers.worker LIBRARY

A JSON object a line in, a JSON object a line out. What libraries print goes to stderr.
"""

import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np


class Worker:
    """One engine and the texts it was given."""

    def __init__(self, library: str) -> None:
        self._library = library
        self._peer: Any = None
        self._texts: list[str] = []

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a request says."""
        task = getattr(self, f"do_{request.pop('do')}")
        result: dict[str, Any] = task(**request)
        return result

    def do_load(self, options: dict[str, Any], texts: str) -> dict[str, Any]:
        """Load the engine and read the texts."""
        start = time.perf_counter()
        module = importlib.import_module(f"cpu_peers.{self._library}")
        self._peer = module.Peer(options)
        self._texts = json.loads(Path(texts).read_text())
        return {"seconds": time.perf_counter() - start}

    def do_encode(self) -> dict[str, Any]:
        """Encode all texts once."""
        start = time.perf_counter()
        self._peer.encode(self._texts)
        return {"seconds": time.perf_counter() - start}

    def do_query(self, text: str, count: int) -> dict[str, Any]:
        """Encode one short text many times, alone each time."""
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            self._peer.encode([text])
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds}

    def do_vectors(self, path: str) -> dict[str, Any]:
        """Encode all texts and leave their vectors in a file."""
        np.save(path, self._peer.encode(self._texts))
        return {}


def main() -> None:
    """Answer requests."""
    # libraries print to stdout when they like: keep it for answers alone
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker(sys.argv[1])
    for line in sys.stdin:
        try:
            answer = worker.answer(json.loads(line))
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
