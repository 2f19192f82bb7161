"""Real documentation and questions that were written without looking at results.

    python bench/search_real.py --docs /usr/share/doc --cache .cache/search-real

The pages come from the Debian packages git-doc, python3.11-doc, postgresql-doc-15, sqlite3-doc and
python-django-doc (or from folders that they were unpacked into); `questions/` has the questions,
each with the page that answers it, written beforehand. Of each collection the pages that answer
are taken and as many more as make up --pages. Everything is embedded once and kept in --cache.

Prints hit@1 and nDCG@10 of the default against words only, dense only, chunks of 1,000 characters
with the same model, and a weighted fusion that is fitted on the other half of the questions, with
a paired randomisation test; and how well calibrated confidence tells answerable from off-topic
questions and from those whose page is hidden (learned without any of these questions).
"""

import argparse
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from search_quality import ndcg, paired

from opengte import Encoder
from opengte.search.calibration.calibrate import HidingStore
from opengte.search.calibration.confidence import search_with_confidence
from opengte.search.calibration.logistic import auc
from opengte.search.index import index_exists
from opengte.search.kb import KnowledgeBase
from opengte.search.retrieval import search
from opengte.search.retrieval.fusion import Fusion, fuse

QUESTIONS = Path(__file__).parent / "questions"
COLLECTIONS = {
    "git": "git-doc",
    "python": "python3.11/html/library",
    "postgresql": "postgresql-doc-15/html",
    "sqlite": "sqlite3",
    "django": "python-django-doc/html",
}
CALIBRATED = ("git", "python", "postgresql")
LARGEST = 150_000  # bytes of a page that only makes up the number
CHUNK = 1_000  # characters
DEPTH = max(search.DEPTH.values())


@dataclass(frozen=True)
class Asked:
    """A question, and the documents that answer it."""

    text: str
    relevant: Mapping[str, int]


def questions(name: str) -> list[Asked]:
    """Return the questions of a collection, with the names of pages."""
    rows = map(json.loads, (QUESTIONS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines())
    return [Asked(row["query"], dict.fromkeys(row["relevant"], 1)) for row in rows]


def named(asked: Sequence[Asked], ids: Iterable[str]) -> list[Asked]:
    """Return questions with ids of documents for names of pages."""
    every = list(ids)

    def found(page: str) -> str:
        return next(name for name in every if name == page or name.endswith("/" + page))

    return [replace(one, relevant={found(page): 1 for page in one.relevant}) for one in asked]


def pages(root: Path, asked: Sequence[Asked], count: int) -> list[Path]:
    """Return the pages that answer, and others in an order that depends on their names only."""
    judged = sorted({root / page for one in asked for page in one.relevant})
    others = [p for p in root.rglob("*.html") if p.stat().st_size < LARGEST and p not in judged]
    others.sort(key=lambda path: zlib.crc32(str(path.relative_to(root)).encode()))
    return judged + others[: max(0, count - len(judged))]


def indexed(place: Path, encoder: Encoder, files: Sequence[Path]) -> KnowledgeBase:
    """Open the index of a collection, or make it."""
    if index_exists(place):
        return KnowledgeBase.open(place, encoder)
    kb = KnowledgeBase.create(place, encoder)
    report = kb.index(files)
    print(f"  {report.new} pages in {kb.store.health().windows} windows", flush=True)
    return kb


def chunks(place: Path, encoder: Encoder, kb: KnowledgeBase) -> tuple[list[str], np.ndarray]:
    """Return the pages of chunks of 1,000 characters, and their vectors (n, d)."""
    names, texts = [], []
    for one in kb.store.scan():
        for start in range(0, len(one.text), CHUNK):
            names.append(one.id)
            texts.append(one.text[start : start + CHUNK])
    file = place.with_suffix(".npy")
    if not file.exists():
        np.save(file, encoder.embed(texts, role="document", progress=False).dense)
    return names, np.load(file)


@dataclass(frozen=True, eq=False)
class Collection:
    """Questions, the rankings of each leg for each of them, and the ranking of plain chunks."""

    name: str
    asked: Sequence[Asked]
    legs: Sequence[Mapping[str, list[tuple[str, float]]]]
    chunked: Sequence[Sequence[str]]

    def values(self, rank: Callable[[int], Sequence[str]]) -> np.ndarray:
        """Return hit@1 and nDCG@10 (2, n) of the rankings of all questions."""
        ranked = [rank(i) for i in range(len(self.asked))]
        judged = [one.relevant for one in self.asked]
        first = [r[:1] != [] and r[0] in good for r, good in zip(ranked, judged, strict=True)]
        gains = [ndcg(r, good) for r, good in zip(ranked, judged, strict=True)]
        return np.array([first, gains], dtype=np.float64)

    def fused(self, fusion: Fusion) -> np.ndarray:
        """Return the values of a fusion."""
        depth = search.DEPTH[fusion.method]

        def rank(i: int) -> list[str]:
            cut = {leg: found[:depth] for leg, found in self.legs[i].items()}
            return [name for name, _ in fuse(cut, fusion)]

        return self.values(rank)


def collected(name: str, root: Path, cache: Path, encoder: Encoder, count: int) -> Collection:
    """Index a collection and ask its questions of every system."""
    asked = questions(name)
    kb = indexed(cache / name, encoder, pages(root, asked, count))
    asked = named(asked, (one for one, _ in kb.store.entries()))
    owners, vectors = chunks(cache / name, encoder, kb)
    legs, chunked = [], []
    for one in asked:
        query = kb.current.encode_query(one.text)
        options = search.SearchOptions(depth=DEPTH)
        legs.append(search.run_legs(kb.store, query, options, search.StepTimer())[0])
        order = np.argsort(-(vectors @ query.vector))
        chunked.append(list(dict.fromkeys(owners[i] for i in order)))
    return Collection(name, asked, legs, chunked)


def halves(found: Sequence[Collection]) -> Mapping[str, np.ndarray]:
    """Return the values (2, n) of each system: the fitted one on questions it was not fitted on."""
    weights = [Fusion("weighted", {"dense": w, "lexical": 1 - w}) for w in np.arange(0.1, 1, 0.1)]
    every = [np.stack([one.fused(f) for f in weights]) for one in found]  # (w, 2, n) of each
    fitted = []
    for values in every:
        own = np.empty_like(values[0])
        for half in (0, 1):
            best = int(np.argmax(values[:, 1, 1 - half :: 2].mean(axis=1)))
            own[:, half::2] = values[best, :, half::2]
        fitted.append(own)
    return {
        "default": np.hstack([one.fused(Fusion()) for one in found]),
        "words only": np.hstack(
            [one.values(lambda i, c=one: [n for n, _ in c.legs[i]["lexical"]]) for one in found]
        ),
        "dense only": np.hstack(
            [one.values(lambda i, c=one: [n for n, _ in c.legs[i]["dense"]]) for one in found]
        ),
        "chunks of 1,000": np.hstack([one.values(lambda i, c=one: c.chunked[i]) for one in found]),
        "reciprocal ranks": np.hstack([one.fused(Fusion("rrf")) for one in found]),
        "fitted": np.hstack(fitted),
    }


def table(title: str, found: Sequence[Collection]) -> None:
    """Print the means of each system, and the p-value of its difference from the default."""
    values = halves(found)
    print(f"{title} ({values['default'].shape[1]} questions)")
    for name, (first, gain) in values.items():
        p = "" if name == "default" else f"  p={paired(values['default'][1], gain):.4f}"
        print(f"  {name:<18} hit@1 {100 * first.mean():5.1f}  nDCG@10 {100 * gain.mean():5.1f}{p}")


def confidence(name: str, cache: Path, encoder: Encoder) -> None:
    """Print how well calibrated confidence tells questions apart; none of them is learned from."""
    kb = KnowledgeBase.open(cache / name, encoder)
    made = kb.calibration or kb.calibrate()
    asked = named(questions(name), (one for one, _ in kb.store.entries()))

    def sure(one: Asked, *, hide: bool = False) -> tuple[float, float]:
        """Return the confidence in an answer, and the best cosine."""
        index = kb.current
        store = HidingStore(index.store, frozenset(one.relevant)) if hide else index.store
        query = index.encode_query(one.text)
        answer = search_with_confidence(store, query, search.SearchOptions(), None, made)
        return answer.confidence, max(hit.legs["dense"].score for hit in answer.hits[:1])

    good = np.array([sure(one) for one in asked])
    kinds = {
        "off topic": np.array([sure(one) for one in questions("off_topic")]),
        "page hidden": np.array([sure(one, hide=True) for one in asked]),
    }
    limit = made.accuracy.threshold
    print(f"{name}: {100 * (good[:, 0] < limit).mean():.0f} % of the answerable turned away")
    for kind, bad in kinds.items():
        right = np.repeat([1.0, 0.0], [len(good), len(bad)])
        ours, cosine = (auc(np.hstack([good[:, i], bad[:, i]]), right) for i in (0, 1))
        through = 100 * (bad[:, 0] >= limit).mean()
        print(f"  {kind:<12} AUC {ours:.3f} (cosine {cosine:.3f}), {through:.0f} % let through")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--docs", type=Path, default=Path("/usr/share/doc"))
    parser.add_argument("--cache", type=Path, default=Path(".cache/search-real"))
    parser.add_argument("--pages", type=int, default=150, help="of each collection")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--part", choices=["ranking", "confidence"], help="only this one")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    encoder = Encoder.load(arguments.model)
    if arguments.part != "confidence":
        found = [
            collected(name, arguments.docs / place, arguments.cache, encoder, arguments.pages)
            for name, place in COLLECTIONS.items()
        ]
        for one in found:
            table(one.name, [one])
        table("all", found)
    for name in CALIBRATED if arguments.part != "ranking" else ():
        confidence(name, arguments.cache, encoder)


if __name__ == "__main__":
    main()
