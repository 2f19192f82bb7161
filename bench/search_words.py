"""How well words are found in seven languages: short documents, a question about each.

    python bench/search_words.py                           an index in a temporary folder (LanceDB)
    python bench/search_words.py --to qdrant-edge:///tmp/words postgresql://localhost/test?schema=w

All documents of `questions/words.jsonl` are in one index, and only its words are asked (BM25).
`before` is without the further terms of `opengte.search.segmentation`. Prints hit@1 of 20 questions
in each language.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from opengte import Encoder
from opengte.search import segmentation
from opengte.search.kb import KnowledgeBase

QUESTIONS = Path(__file__).parent / "questions" / "words.jsonl"


def hits(place: str, encoder: Encoder) -> Mapping[str, int]:
    """Index all documents at a new place; return the questions of each language that are met."""
    rows = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    kb = KnowledgeBase.create(place, encoder, passages="none")
    kb.add([row["text"] for row in rows], [row["id"] for row in rows])
    found: dict[str, int] = {}
    for row in rows:
        best = kb.current.store.lexical(row["query"], 1, None)
        language = row["id"].split("/")[0]
        found[language] = found.get(language, 0) + (best[:1] != [] and best[0][0] == row["id"])
    return found


def main() -> None:
    """Measure every store and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--to", nargs="*", default=[], metavar="URL", help="new stores")
    arguments = parser.parse_args()
    encoder, terms = Encoder.load("minilm"), segmentation.extra_terms
    with tempfile.TemporaryDirectory() as folder:
        for place in arguments.to or [f"{folder}/kb"]:
            for name, used in (("before", lambda text: ""), ("now", terms)):
                segmentation.extra_terms = used
                found = hits(f"{place}_{name}", encoder)
                counts = "  ".join(f"{language} {count:2}" for language, count in found.items())
                print(f"{place.split(':')[0]:<14}{name:<8}{counts}", flush=True)


if __name__ == "__main__":
    main()
