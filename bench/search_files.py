"""Very many tiny files: how long, and how much memory. Prints a line of JSON.

python bench/search_files.py --files 100000
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from search_latency import resident

from opengte import Encoder
from opengte.search.kb import KnowledgeBase

FOLDER = 1000  # files of a folder


def main() -> None:
    """Write files, index them, index them again."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--files", type=int, default=100_000)
    count = parser.parse_args().files
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(count):
            folder = Path(temporary, "files", str(number // FOLDER))
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.txt").write_text(f"The tiny file number {number}.")
        kb = KnowledgeBase.create(Path(temporary, "kb"), Encoder.load("minilm"))
        start = time.perf_counter()
        report = kb.index([Path(temporary, "files")])
        middle = time.perf_counter()
        again = kb.index([Path(temporary, "files")])
        found = {
            "files": count,
            "new": report.new,
            "problems": len(report.problems),
            "seconds": round(middle - start, 1),
            "again_s": round(time.perf_counter() - middle, 1),
            "unchanged": again.unchanged,
            "memory_mib": round(resident("VmHWM")),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
