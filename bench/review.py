"""Plant known faults in small worlds, and see which stage a review names.

A world is an index of 500 short documents in memory, with a fault, two, or none, and 100
questions, labelled or not. Thresholds were fixed on SciFact; the other collections were looked at
afterwards. DIR in `make bench-review ARGS='--data DIR --medquad DIR'` is SciFact as a BEIR folder,
and the folder of medquad's `qa.jsonl.gz`.
"""

import argparse
import gzip
import hashlib
import json
import pickle
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from opengte import Encoder
from opengte.review.arms import Arm
from opengte.review.judgments import JudgedQuery
from opengte.review.pipeline import Pipeline, comparable
from opengte.review.pool import whole_pool
from opengte.review.replay import Models, Replay, top
from opengte.review.run import ReviewOptions, review
from opengte.review.sources import compare_sources
from opengte.review.vectors import PlannedEncoder, VectorMemo, VectorPlan, matrix_of
from opengte.review.words import WordIndex
from opengte.search.calibration.calibrate import calibrate
from opengte.search.filters import matches, parse_filter
from opengte.search.index import Index
from opengte.search.ingest.embedder import Embedder
from opengte.search.ingest.pipeline import documents_of_texts, index_documents
from opengte.search.model_identity import ModelIdentity
from opengte.search.retrieval.fusion import Fusion
from opengte.search.retrieval.search import SearchOptions
from opengte.search.stores.memory import MemoryStore

DOCUMENTS, ASKED, CHARACTERS = 500, 100, 800
TUNED = ("SciFact",)  # the collections that thresholds were fixed on
HARMLESS = 0.02  # nDCG: a fault that costs less is no fault to be found
QUERY_PROMPT = "Represent this sentence for searching relevant passages: "


# --- collections ---------------------------------------------------------------------------------


@dataclass
class Collection:
    """Documents, questions with their answers, and texts of neither."""

    name: str
    documents: dict[str, tuple[str, str]]  # id -> title, text
    queries: dict[str, dict[str, float]]  # text -> grades
    spare: list[str]  # texts of documents that are not there


def rows(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a packed JSON Lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def scifact(folder: Path) -> Collection:
    """Return SciFact with the questions of its test split."""
    corpus = {x["_id"]: (x["title"], x["text"]) for x in rows(folder / "corpus.jsonl.gz")}
    asked = {x["_id"]: x["text"] for x in rows(folder / "queries.jsonl.gz")}
    queries: dict[str, dict[str, float]] = defaultdict(dict)
    with gzip.open(folder / "qrels" / "test.tsv.gz", "rt") as file:
        for line in list(file)[1:]:
            query, document, score = line.split("\t")
            if float(score) > 0:
                queries[asked[query]][document] = 1.0
    return small("SciFact", corpus, dict(queries))


def medquad(folder: Path) -> Collection:
    """Return answers of medical sites, and the questions that they answer."""
    chance, corpus, queries = random.Random(5), {}, {}
    found = [x for x in rows(folder / "qa.jsonl.gz") if len(x.get("answer", "")) > 200]
    chance.shuffle(found)
    for number, one in enumerate(found[:2000]):
        corpus[f"m{number}"] = "", one["answer"][:1600]
        if number < 300:
            queries[one["question"]] = {f"m{number}": 1.0}
    return small("medquad", corpus, queries)


def manuals() -> Collection:
    """Make documentation up: settings of services, each described and asked for in other words."""
    chance, corpus, queries = random.Random(7), {}, {}
    services = "mail cache queue proxy vault ledger mirror gateway scheduler archive".split()
    things = {
        "timeout": ("waits so many seconds before it gives up", "how long until {s} gives up"),
        "retries": ("is tried again after a failure", "how often does {s} repeat what failed"),
        "log level": ("decides how much is written to the journal", "make {s} write less output"),
        "memory limit": ("is all the space it may hold", "{s} uses too much space"),
        "certificate": ("proves who it is to its clients", "clients of {s} do not trust it"),
        "backup": ("copies everything at night", "where are the nightly copies of {s}"),
        "port": ("is where it listens for connections", "{s} cannot be reached from outside"),
        "user": ("owns the process and its files", "which account runs {s}"),
        "compression": ("makes what is stored smaller", "shrink what {s} keeps"),
        "quota": ("is the most that one person may use", "one person fills {s}"),
    }
    parts = [f"{a}{b}" for a in ("", "north ", "south ") for b in services]
    fill = "This page belongs to the manual. Read the chapter on safety first. Restart afterwards."
    for service in parts:
        for thing, (does, asked) in things.items():
            for version in ("1", "2", "3"):
                name = f"{service}-{thing}-{version}".replace(" ", "-")
                head = f"{thing} of the {service} service, version {version}"
                words = fill.split()
                chance.shuffle(words)
                corpus[name] = head, f"The {thing} {does}. Default {chance.randint(1, 99)}. {fill}"
            grades = {f"{service}-{thing}-{v}".replace(" ", "-"): 1.0 for v in "123"}
            queries[asked.format(s=f"the {service} service")] = grades
    return small("manuals", corpus, queries)


def small(name: str, corpus: dict, queries: dict) -> Collection:
    """Return at most so many documents, those that answer first."""
    chance = random.Random(name)
    needed = [x for grades in queries.values() for x in grades]
    others = [x for x in corpus if x not in set(needed)]
    chance.shuffle(others)
    kept = list(dict.fromkeys([*needed, *others]))[:DOCUMENTS]
    queries = {text: grades for text, grades in queries.items() if set(grades) <= set(kept)}
    spare = [corpus[x][1] for x in corpus if x not in set(kept)] or ["Nothing is here any more."]
    held = {x: (corpus[x][0], corpus[x][1][:CHARACTERS]) for x in kept}
    return Collection(name, held, queries, [x[:CHARACTERS] for x in spare])


# --- worlds --------------------------------------------------------------------------------------


class WorldStore(MemoryStore):
    """A store in memory that is fast, and may search by vector in one cell only."""

    name = "world"

    def __init__(self, documents: dict, settings: dict, probed: bool, terms: dict) -> None:
        """Index documents."""
        super().__init__()
        self._documents, self._settings = documents, settings
        self._names = list(documents)
        self._matrix = matrix_of([documents[x].windows for x in self._names])
        texts = [(documents[x].title, documents[x].text) for x in self._names]
        self._words = WordIndex(texts, settings["language"], terms)
        self._centres = None
        if probed:
            chance = np.random.default_rng(1)
            firsts = self._matrix.vectors[self._matrix.first]
            self._centres = firsts[chance.choice(len(firsts), 40, replace=False)]
            self._cells = (firsts @ self._centres.T).argmax(1)

    def dense(self, query, k, where, *, exact=False):
        """Return the closest documents, of one cell where only that is looked at."""
        scores = self._matrix.scores(query)
        usable = self._usable(where)
        if self._centres is not None and not exact:
            usable = usable & (self._cells == int((self._centres @ query).argmax()))
        return top(self._names, scores, usable, k)

    def lexical(self, query, k, where):
        """Return the best documents by BM25."""
        scores = self._words.scores(query)
        return top(self._names, scores, self._usable(where) & (scores > 0), k)

    def _usable(self, where):
        if where is None:
            return np.ones(len(self._names), bool)
        return np.array([matches(where, self._documents[x].metadata) for x in self._names])


class Damaged:
    """A model whose vectors are mostly noise, the same noise for the same text."""

    def __init__(self, encoder: Any, amount: float) -> None:
        self.encoder, self.amount = encoder, amount
        self.tokenizer = encoder.tokenizer
        self.card = replace(encoder.card, name="damaged", fingerprint=f"damaged {amount}")

    def embed(self, texts, **options):
        """Embed texts badly."""
        found = self.encoder.embed(texts, **options)
        return replace(
            found,
            dense=np.array([self._spoil(x, v) for x, v in zip(texts, found.dense, strict=True)]),
        )

    def _spoil(self, text, vector):
        seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
        noise = np.random.default_rng(seed).standard_normal(len(vector)).astype(np.float32)
        spoiled = vector + self.amount * noise / np.linalg.norm(noise)
        return spoiled / np.linalg.norm(spoiled)


class Shuffled:
    """A reranker that knows nothing."""

    def score(self, text, passages):
        """Return scores that mean nothing."""
        return [int(hashlib.md5((text + one).encode()).hexdigest()[:6], 16) for one in passages]


@dataclass
class World:
    """What a fault may change: documents, settings, model, and the way of searching."""

    collection: Collection
    documents: dict
    settings: dict
    encoder: Any
    live: Pipeline
    chance: random.Random
    bench: "Bench"
    probed: bool = False
    models: dict = field(default_factory=dict)
    rerankers: dict = field(default_factory=dict)

    def rewrite(self, changed: dict[str, tuple[str, str]]) -> None:
        """Replace documents, embedded again."""
        self.documents |= self.bench.embedded(changed, self.encoder, self.documents)

    def relevant(self, share: float) -> list[str]:
        """Return a random share of the documents that answer."""
        names = sorted({x for g in self.collection.queries.values() for x in g})
        return self.chance.sample(names, int(share * len(names)))


def missing(world: World) -> None:
    """Remove a fifth of the documents that answer."""
    for name in world.relevant(0.2):
        del world.documents[name]


def garbled(rate: float) -> Callable[[World], None]:
    """Return a fault: so many letters of half of the documents are wrong."""

    def plant(world: World) -> None:
        chance = random.Random(f"{world.collection.name} {rate}")
        names = [x for x in world.documents if chance.random() < 0.5]
        made = {}
        for name in names:
            title, text = world.collection.documents[name]
            letters = [
                chance.choice("abcdefghijklmnopqrstuvwxyz~|") if chance.random() < rate else c
                for c in text
            ]
            made[name] = title, "".join(letters)
        world.rewrite(made)

    return plant


def cut(world: World) -> None:
    """Index the first 48 words of each document, which are about 64 tokens."""
    texts = world.collection.documents
    world.rewrite({x: (t, " ".join(y.split()[:48])) for x, (t, y) in texts.items()})


def stale(world: World) -> None:
    """Index another text for a quarter of the documents that answer."""
    chance = random.Random(world.collection.name)
    texts = world.collection.documents
    world.rewrite(
        {x: (texts[x][0], chance.choice(world.collection.spare)) for x in stale_names(world)}
    )


def stale_names(world: World) -> list[str]:
    """Return documents that were not brought up to date."""
    return world.relevant(0.25)


def exchanged(world: World) -> None:
    """Exchange the prompts of queries and documents."""
    world.encoder = world.bench.prompted(exchange=True)
    world.settings = world.bench.settings_of(world.encoder)
    world.documents = world.bench.embedded(world.collection.documents, world.encoder, {})


def damaged(world: World) -> None:
    """Index with a damaged model; the healthy one may be tried."""
    healthy = world.encoder
    world.encoder = Damaged(healthy, 2.0)
    world.settings = world.bench.settings_of(world.encoder)
    world.documents = world.bench.embedded(world.collection.documents, world.encoder, {})
    world.models["healthy"] = lambda: healthy


def scaled(world: World) -> None:
    """Scale each dimension of the stored vectors wrongly."""
    scale = np.exp(np.random.default_rng(world.chance.randrange(10**6)).normal(0, 2.0, 384))
    for name, one in world.documents.items():
        windows = []
        for window in one.windows:
            vector = (window.vector * scale).astype(np.float32)
            windows.append(replace(window, vector=vector / np.linalg.norm(vector)))
        world.documents[name] = replace(one, windows=tuple(windows))


def probe(world: World) -> None:
    """Look at one cell of an approximate index."""
    world.probed = True


def options(**values: Any) -> Callable[[World], None]:
    """Return a fault: a search with other options."""

    def plant(world: World) -> None:
        world.live = replace(world.live, options=replace(world.live.options, **values))

    return plant


def shuffled(world: World) -> None:
    """Rerank by a model that knows nothing."""
    world.rerankers["own"] = Shuffled
    world.live = replace(world.live, reranker="own")


def hidden(world: World) -> None:
    """Filter a quarter of the documents out."""
    out = set(world.chance.sample(sorted(world.documents), len(world.documents) // 4))
    for name, one in world.documents.items():
        world.documents[name] = replace(one, metadata={"public": int(name not in out)})
    options(where=parse_filter({"public": 1}))(world)


def stemmer(world: World) -> None:
    """Index English words as if they were Finnish."""
    world.settings = {**world.settings, "language": "Finnish"}


def threshold(world: World) -> None:
    """Show answers only that are surer than they can be."""
    world.settings = {**world.settings, "calibration": world.bench.calibration(world)}
    world.live = replace(world.live, threshold=0.9)


FAULTS: dict[str, tuple[frozenset[str], Callable[[World], None]]] = {
    "missing": (frozenset({"data"}), missing),
    "garbled 5 %": (frozenset({"data"}), garbled(0.05)),
    "garbled 15 %": (frozenset({"data"}), garbled(0.15)),
    "garbled 30 %": (frozenset({"data"}), garbled(0.3)),
    "cut": (frozenset({"data"}), cut),
    "stale": (frozenset({"data"}), stale),
    "prompts": (frozenset({"model"}), exchanged),
    "damaged model": (frozenset({"model"}), damaged),
    "int8 scale": (frozenset({"model"}), scaled),
    "one probe": (frozenset({"retrieval"}), probe),
    "words 0": (frozenset({"retrieval"}), options(fusion=Fusion(weights={"lexical": 0.0}))),
    "vectors 0": (frozenset({"retrieval"}), options(fusion=Fusion(weights={"dense": 0.0}))),
    "candidates 2": (frozenset({"retrieval"}), options(depth=2, k=2)),
    "reranker": (frozenset({"model"}), shuffled),
    "filter": (frozenset({"retrieval"}), hidden),
    "stemmer": (frozenset({"retrieval"}), stemmer),
    "threshold": (frozenset({"workflow"}), threshold),
}
PAIRS = (
    ("missing", "words 0"),
    ("int8 scale", "filter"),
    ("stale", "reranker"),
    ("cut", "one probe"),
    ("missing", "threshold"),
    ("words 0", "filter"),
    ("damaged model", "missing"),
    ("garbled 30 %", "vectors 0"),
)


class Bench:
    """Collections with their vectors, and what worlds share."""

    def __init__(self, cache: VectorMemo) -> None:
        self.cache, self.terms = cache, {}
        self.encoder = PlannedEncoder(Encoder.load("minilm"), VectorPlan(), cache)
        self.healthy: dict[Any, Replay] = {}
        self._calibrations: dict[str, Any] = {}
        self._whole: dict[str, dict] = {}

    def settings_of(self, encoder: Any) -> dict:
        """Return the settings of an index of a model."""
        return {
            "model": ModelIdentity.of(encoder.card, None).settings(),
            "language": "English",
            "passages": "none",
            "span_tokens": 96,
            "window_tokens": None,
            "first_pass": None,
            "format": 2,
        }

    def prompted(self, *, exchange: bool) -> Any:
        """Return the model with prompts."""
        roles = ("document", "query") if exchange else ("query", "document")
        prompts = {roles[0]: QUERY_PROMPT, roles[1]: ""}
        return Prompted(self.encoder, prompts)

    def embedded(self, texts: dict, encoder: Any, known: dict) -> dict:
        """Return stored documents by id."""
        store = MemoryStore()
        names = list(texts)
        made = documents_of_texts(
            [texts[x][1] or "empty" for x in names], names, [texts[x][0] for x in names]
        )
        planned = PlannedEncoder(encoder, VectorPlan(), self.cache)
        index_documents(store, lambda: Embedder(planned, "none"), made)
        found = {one.id: one for one in store.scan()}
        return {
            x: replace(found[x], metadata=known[x].metadata) if x in known else found[x]
            for x in names
            if x in found
        }

    def calibration(self, world: World) -> Any:
        """Return the calibration of the healthy world."""
        name = world.collection.name
        if name not in self._calibrations:
            plain = self.world(world.collection, (), 0)
            found = calibrate(self.index(plain), None, generate=150)
            self._calibrations[name] = found.settings()
        return self._calibrations[name]

    def world(self, collection: Collection, faults: tuple[str, ...], seed: int) -> World:
        """Return a world with faults."""
        if collection.name not in self._whole:
            self._whole[collection.name] = self.embedded(collection.documents, self.encoder, {})
        world = World(
            collection,
            dict(self._whole[collection.name]),
            self.settings_of(self.encoder),
            self.encoder,
            Pipeline(SearchOptions(k=10)),
            random.Random(f"{collection.name} {faults} {seed}"),
            self,
        )
        for fault in sorted(faults, key=lambda one: one in ("int8 scale", "filter")):
            FAULTS[fault][1](world)
        return world

    def index(self, world: World) -> Index:
        """Return the index of a world."""
        store = WorldStore(world.documents, world.settings, world.probed, self.terms)
        return Index("world", store, world.settings, encoder=world.encoder)


class Prompted:
    """A model with prompts."""

    def __init__(self, encoder: Any, prompts: dict[str, str]) -> None:
        self.encoder, self.prompts, self.tokenizer = encoder, prompts, encoder.tokenizer
        name = json.dumps(prompts)
        self.card = replace(encoder.card, prompts=prompts, name="prompted", fingerprint=name)

    def embed(self, texts, *, role=None, **rest):
        """Embed texts behind the prompt of their role."""
        return self.encoder.embed([self.prompts.get(role or "", "") + x for x in texts], **rest)


# --- runs ----------------------------------------------------------------------------------------


def run(bench: Bench, collection: Collection, faults: tuple, labelled: bool, seed: int) -> dict:
    """Review one world; return what was said, and what is true on all its questions."""
    world, start = bench.world(collection, faults, seed), time.perf_counter()
    index = bench.index(world)
    every = [judged(world, text, grades) for text, grades in sorted(collection.queries.items())]
    world.chance.shuffle(every)
    asked, others = every[:ASKED], every[ASKED:]
    given = (
        asked
        if labelled
        else [replace(x, relevant=None, absent=None, origin="none") for x in asked]
    )
    sources = {x: (t, y, ()) for x, (t, y) in collection.documents.items()}
    found = review(
        index,
        given,
        world.live,
        sources=sources,
        encoder=world.encoder,
        models=world.models,
        rerankers=world.rerankers,
        options=ReviewOptions(seconds=None, seed=seed, windows=()),
        cache=bench.cache,
    )
    steps = found.attribution.steps
    truth = None
    if steps:
        truth = gain(bench, world, index, sources, steps[0].alone.arm, others[:ASKED] or every)
    cost = loss(bench, world, collection, every[:ASKED])
    return {
        "collection": collection.name,
        "faults": faults,
        "labelled": labelled,
        "seed": seed,
        "stages": [one.alone.arm.stage for one in steps],
        "names": [one.alone.arm.name for one in steps],
        "gain": steps[0].alone.gain if steps else None,
        "interval": (steps[0].alone.low, steps[0].alone.high) if steps else None,
        "truth": truth,
        "loss": cost,
        "quality": found.attribution.quality,
        "seconds": time.perf_counter() - start,
        "top": [(x.arm.name, round(x.gain, 4), round(x.p, 4)) for x in found.attribution.arms[:4]],
    }


def judged(world: World, text: str, grades: dict[str, float]) -> JudgedQuery:
    """Return a labelled question."""
    there = {x: g for x, g in grades.items() if x in world.documents}
    gone = {x: g for x, g in grades.items() if x not in world.documents}
    return JudgedQuery(text, relevant=there, absent=gone, origin="labels")


def replayed(bench: Bench, world: World, index: Index, sources: dict | None) -> Replay:
    """Return what replays questions in a world."""
    pool = whole_pool(index.store)
    if sources:
        pool.differences = compare_sources(pool.documents, sources, set(pool.documents))
    models = Models(world.encoder, world.models, world.rerankers)
    return Replay(index.store, world.settings, pool, models, bench.cache)


def gain(bench, world, index, sources, arm: Arm, queries) -> float:
    """Return what a step brings on questions that the review did not see."""
    replay = replayed(bench, world, index, sources)
    before, after = comparable(world.live, arm.change(world.live))
    return float(np.mean([replay.quality(after, q) - replay.quality(before, q) for q in queries]))


def loss(bench: Bench, world: World, collection: Collection, queries) -> float:
    """Return what the faults cost on the questions, at as many results."""
    cut, key = (
        Pipeline(SearchOptions(k=world.live.options.k)),
        (collection.name, world.live.options.k),
    )
    found = [replace(q, relevant={**q.relevant, **q.absent}, absent={}) for q in queries]
    if key not in bench.healthy:
        plain = bench.world(collection, (), 0)
        healthy = replayed(bench, plain, bench.index(plain), None)
        bench.healthy[key] = healthy
    now = replayed(bench, world, bench.index(world), None)
    whole = bench.healthy[key]
    return float(np.mean([whole.quality(cut, q) - now.quality(world.live, q) for q in found]))


def summary(results: list[dict]) -> None:
    """Print the table of faults, the confusion between stages, and the bars."""
    stages = ("data", "model", "retrieval", "workflow", "nothing")
    for labelled in (True, False):
        mine = [x for x in results if x["labelled"] == labelled]
        if not mine:
            continue
        print(f"\n{'100 labelled queries' if labelled else 'no labels'}")
        print(f"{'fault':<28}{'worlds':>7}{'harmless':>9}{'right':>7}  first steps")
        single = [x for x in mine if len(x["faults"]) == 1]
        confusion: dict[str, Counter] = defaultdict(Counter)
        total = right = 0
        for fault in FAULTS:
            own = [x for x in single if x["faults"][0] == fault]
            real = [x for x in own if x["loss"] >= HARMLESS]
            good = sum(bool(x["stages"]) and x["stages"][0] in FAULTS[fault][0] for x in real)
            total, right = total + len(real), right + good
            for x in real:
                confusion["/".join(FAULTS[fault][0])][
                    x["stages"][0] if x["stages"] else "nothing"
                ] += 1
            if own:
                said = Counter(x["names"][0] if x["names"] else "nothing" for x in real)
                text = ", ".join(f"{re.sub(r' [(].*', '', n)} {c}" for n, c in said.most_common(3))
                print(
                    f"{fault:<28}{len(own):>7}{len(own) - len(real):>9}"
                    f"{good:>4}/{len(real):<3} {text}"
                )
        print(f"stage right: {right}/{total} = {right / max(1, total):.1%}")
        print(f"{'planted':<12}" + "".join(f"{x:>11}" for x in stages))
        for planted, said in confusion.items():
            print(f"{planted:<12}" + "".join(f"{said[x]:>11}" for x in stages))
        two = [x for x in mine if len(x["faults"]) == 2]
        both = sum(all(FAULTS[f][0] & set(x["stages"][:3]) for f in x["faults"]) for x in two)
        print(f"two faults: both stages in the first three {both}/{len(two)}")
        none = [x for x in mine if not x["faults"]]
        false = [x for x in none if x["stages"] and x["truth"] <= 0]
        said = sum(bool(x["stages"]) for x in none)
        print(f"no fault: {said}/{len(none)} had a step, {len(false)} of them without a true gain")
        if labelled:
            steps = [x for x in mine if x["stages"]]
            inside = sum(x["interval"][0] <= x["truth"] <= x["interval"][1] for x in steps)
            print(f"true gain within the interval: {inside}/{len(steps)}")
    spent = [x["seconds"] for x in results]
    print(f"\n{len(results)} worlds, {np.mean(spent):.1f} s each")


def main() -> None:
    """Run worlds until their number or the time is reached, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with SciFact, or its parent"
    )
    parser.add_argument("--medquad", type=Path, help="folder with qa.jsonl.gz")
    parser.add_argument("--collections", default="SciFact,manuals,medquad")
    parser.add_argument("--faults", help="comma-separated; default: all, pairs and none")
    parser.add_argument("--labels", default="100,0")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--cache", type=Path, help="file that keeps vectors by text")
    parser.add_argument("--out", type=Path, help="JSON Lines of all worlds")
    args = parser.parse_args()
    cache = VectorMemo()
    if args.cache and args.cache.exists():
        cache.update(pickle.loads(args.cache.read_bytes()))
    bench, start, results = Bench(cache), time.monotonic(), []
    made = {
        "SciFact": lambda: scifact(args.data),
        "medquad": lambda: medquad(args.medquad),
        "manuals": manuals,
    }
    collections = [made[x]() for x in args.collections.split(",")]
    kinds: list[tuple[str, ...]] = [(x,) for x in FAULTS] + list(PAIRS) + [()] * 5
    if args.faults is not None:
        kinds = [tuple(y for y in x.split("+") if y) for x in args.faults.split(",")]
    jobs = [
        (collection, faults, labels == "100", seed * 100 + number)
        for seed in range(args.rounds)
        for number, faults in enumerate(kinds)
        for collection in collections
        for labels in args.labels.split(",")
    ]
    random.Random(0).shuffle(jobs)  # so that a part of them has all kinds
    for job in jobs:
        if time.monotonic() - start > args.seconds:
            print(
                f"stopped after {len(results)} of {len(jobs)} worlds: {args.seconds:.0f} s are over"
            )
            break
        held = len(cache)
        results.append(run(bench, *job))
        if args.cache and len(cache) > held + 500:
            args.cache.write_bytes(pickle.dumps(dict(cache)))
        line = json.dumps(results[-1])
        print(line, flush=True)
        if args.out:
            with args.out.open("a") as file:
                file.write(line + "\n")
    summary(results)


if __name__ == "__main__":
    main()
