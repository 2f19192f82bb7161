"""The process that measures one setting: it loads a model, then answers until its input ends.

    python -m opengte.evaluate.speed.worker

A JSON object a line in, one a line out; what libraries print goes to stderr. A setting has a
process of its own, so that its start and its memory can be told from those of the others.
"""

import json
import os
import sys
import time
from statistics import median
from typing import Any

import numpy as np

from opengte import Encoder
from opengte.errors import OpenGTEError
from opengte.evaluate.speed import texts

LARGEST_BATCH = 64  # texts
OF_A_LENGTH = 16  # texts


class Worker:
    """One encoder, and the texts of each length that it was asked for."""

    def __init__(self) -> None:
        self._encoder: Encoder
        self._texts: dict[str, list[str]] = {}

    def do_load(self, **options: Any) -> dict[str, Any]:
        """Load the model and embed a first text."""
        self._encoder = Encoder.load(**options)
        self._encoder.embed("What is a text embedding?")
        card = self._encoder.card
        return {
            "name": card.name,
            "parameters": card.parameters,
            "engine": card.engine,
            "precision": card.precision,
            "threads": card.threads,
            "max_length": card.max_length,
        }

    def do_rate(self, length: int | str, seconds: float) -> dict[str, Any]:
        """Encode texts of a length for some seconds, strings to vectors; at least two of them."""
        chosen = self._of(length)
        start = time.perf_counter()
        self._encoder.embed(chosen[0], progress=False)
        once = time.perf_counter() - start
        size = min(max(1, int(seconds / once / 2)), LARGEST_BATCH, len(chosen))
        tokens, place, counts = 0, 0, []
        start = time.perf_counter()
        while (taken := time.perf_counter() - start) < seconds or not tokens:
            batch = (chosen[place:] + chosen[:place])[:size]
            place = (place + size) % len(chosen)
            counts = self._encoder.embed(batch, progress=False).token_counts.tolist()
            tokens += sum(counts)
        return {"tokens_per_second": tokens / taken, "lengths": counts}

    def do_query(self, seconds: float) -> dict[str, Any]:
        """Encode a query of ten tokens again and again, alone each time."""
        queries = self._of(texts.QUERY_TOKENS)
        taken: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(taken) < 3:
            start = time.perf_counter()
            self._encoder.embed(queries[len(taken) % len(queries)], progress=False)
            taken.append(time.perf_counter() - start)
        return {"milliseconds": 1000 * median(taken), "queries": len(taken)}

    def do_vectors(self, path: str, count: int) -> dict[str, Any]:
        """Leave the vectors of the first mixed texts in a file."""
        vectors = self._encoder.embed(texts.mixed_texts()[:count], progress=False).dense
        assert vectors is not None
        np.save(path, vectors)
        return {}

    def do_memory(self) -> dict[str, Any]:
        """Return the peak of the memory of this process in bytes, None where nobody counts it."""
        try:
            import resource
        except ImportError:  # Windows
            return {"bytes": None}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"bytes": peak if sys.platform == "darwin" else 1024 * peak}

    def _of(self, length: int | str) -> list[str]:
        if str(length) not in self._texts:
            self._texts[str(length)] = (
                texts.mixed_texts()
                if length == texts.MIXED
                else texts.texts_of_length(int(length), OF_A_LENGTH, self._encoder.tokenizer.count)
            )
        return self._texts[str(length)]


def main() -> None:
    """Answer requests."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, f"do_{request.pop('do')}")(**request)
        except (OpenGTEError, OSError, MemoryError) as error:
            answer = {"error": str(error) or type(error).__name__}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
