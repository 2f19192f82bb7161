"""The measurements. Each returns plain dictionaries, which `report.py` prints and --json keeps."""

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import texts as textsets
from tokenizers import Tokenizer

from cpu_peers import prepare
from cpu_peers.catalog import ENGINES, Engine, Shape, cannot_run
from cpu_peers.child_processes import BENCH, Child, ChildError, environment
from cpu_peers.environment import Environment
from cpu_peers.models import Model, make
from opengte import checkpoint, hub
from opengte.evaluate.speed.operations import operations

MAX_LENGTH = 512
QUERY = "how do i sort a list in python"  # 10 tokens with the special ones
QUERIES = 20  # a round
SETTLE = 0.3  # seconds between turns: threads of the one before may still spin
LOAD_SECONDS, WARM_SECONDS, TURN_SECONDS, PREPARE_SECONDS = 900, 1800, 1800, 3600
REFERENCE = next(engine for engine in ENGINES if engine.id == "torch-fp32")
LONG_PEERS = ("sbert", "onnx-int8", "openvino-bf16", "openvino-int8", "zentorch-bf16")
LONG_PEERS_UP_TO = 8192  # tokens: several peers hold a matrix of length x length
Figures = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Bench:
    """What to run, on what, and where."""

    engines: tuple[Engine, ...]
    peers: Environment
    cache: Path
    threads: int
    rounds: int
    quick: bool

    def python(self, engine: Engine) -> Path:
        """Return the interpreter that has an engine."""
        return self.peers.python if engine.peer else Path(sys.executable)

    def child(self, engine: Engine, module: str, arguments: list[str], log: str) -> Child:
        """Start a process of an engine."""
        logs = self.cache / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        env = environment(self.threads, own=not engine.peer)
        return Child(self.python(engine), module, arguments, env, logs / f"{log}.log")

    def options(self, engine: Engine, model: Model, max_length: int) -> dict[str, Any]:
        """Return what a worker loads with."""
        file = prepare.file_of(engine.artifact, self.quick)
        return {
            "folder": str(model.folder.absolute()),
            "peer_folder": str(model.peer_folder.absolute()),
            "precision": engine.precision,
            "threads": self.threads,
            "max_length": max_length,
            "pooling": model.shape.pooling,
            "artifact": str((model.artifacts / file).absolute()) if file else "",
        }

    def run(self, python: Path, module: str, arguments: Sequence[str], seconds: float) -> str:
        """Run a module to its end; return what it printed, or raise ChildError."""
        command = [str(python), "-m", module, *arguments]
        env = environment(self.threads, own=python != self.peers.python)
        try:
            done = subprocess.run(
                command, env=env, cwd=BENCH, capture_output=True, text=True, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            raise ChildError(f"not done within {seconds:.0f} s") from None
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise ChildError(f"ended with status {done.returncode}: {last[:300]}")
        return done.stdout


def say(text: str) -> None:
    """Tell what goes on."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def text_file(bench: Bench, count: int) -> Path:
    """Make or reuse the set of texts, from the peers' pinned packages."""
    path = (bench.cache / f"texts-{count}.json").absolute()
    if not path.is_file():
        say(f"choosing {count} texts")
        python = Path(sys.executable) if "sentence-transformers" in bench.peers.missing else None
        tokenizer = hub.fetch_model("minilm").folder / "tokenizer.json"
        arguments = ["--tokenizer", str(tokenizer), "--count", str(count)]
        path.write_text(bench.run(python or bench.peers.python, "texts", arguments, 600))
    return path


def gemm(bench: Bench) -> dict[str, Any]:
    """Return the operations a second of matrix products, by who computes them and precision."""
    say("matrix products")
    found: dict[str, Any] = {}
    for who, python in (("native", Path(sys.executable)), ("torch", bench.peers.python)):
        try:
            answer = bench.run(python, "cpu_peers.rates", [who, str(bench.threads)], 300)
            found[who] = json.loads(answer)
        except ChildError as error:
            found[who] = {"error": str(error)}
    return found


def throughput(bench: Bench, shape: Shape, everything: Path) -> dict[str, Any]:
    """Run all engines in turn on the same texts; return the figures of each."""
    say(f"{shape.id}: preparing")
    model = make(shape, bench.cache)
    tokenizer = Tokenizer.from_file(str(model.folder / "tokenizer.json"))
    chosen = _subset(bench, shape, everything, tokenizer)
    path = (bench.cache / shape.id / "texts.json").absolute()
    path.write_text(json.dumps(chosen))
    lengths = textsets.token_counts(chosen, tokenizer)
    figures: Figures = {engine.id: {} for engine in bench.engines}
    with ExitStack() as stack:
        running = dict(_started(bench, model, path, everything, figures, stack))
        _fidelity(bench, model, path, running, figures)
        for number in range(bench.rounds):
            for engine_id, child in list(running.items()):
                say(f"{shape.id}: round {number + 1} of {bench.rounds}, {engine_id}")
                with _failing(engine_id, running, figures):
                    _turn(child, figures[engine_id])
        for engine_id, child in running.items():
            figures[engine_id]["peak_mb"] = child.peak_mb()
    return {
        "title": shape.title,
        "texts": len(chosen),
        "tokens": sum(lengths),
        "operations": operations(model.plan, lengths),
        "engines": {name: _summary(row, sum(lengths)) for name, row in figures.items()},
    }


def _subset(bench: Bench, shape: Shape, everything: Path, tokenizer: Tokenizer) -> list[str]:
    whole: list[str] = json.loads(everything.read_text())
    size = max(4, len(whole) * shape.texts // 1000)
    return textsets.subset(whole, textsets.token_counts(whole, tokenizer), size)


def _started(
    bench: Bench, model: Model, path: Path, everything: Path, figures: Figures, stack: ExitStack
) -> Iterator[tuple[str, Child]]:
    for engine in bench.engines:
        reason = cannot_run(engine, model.shape) or bench.peers.missing.get(engine.package, "")
        reason = reason or _artifact(bench, engine, model, everything)
        if reason:
            figures[engine.id]["not_run"] = reason
            continue
        say(f"{model.shape.id}: loading {engine.id}")
        child = bench.child(engine, "cpu_peers.worker", [engine.library], _log(model, engine))
        stack.callback(child.end)
        try:
            options = bench.options(engine, model, MAX_LENGTH)
            loaded = child.ask(LOAD_SECONDS, do="load", options=options, texts=str(path))
        except ChildError as error:
            child.end()
            figures[engine.id]["not_run"] = str(error)
        else:
            figures[engine.id] |= {"load_seconds": loaded["seconds"], "seconds": [], "query": []}
            yield engine.id, child


def _log(model: Model, engine: Engine) -> str:
    return f"{model.shape.id}-{engine.id}"


def _artifact(bench: Bench, engine: Engine, model: Model, everything: Path) -> str:
    """Make what a peer loads, and what that is made from; return why it could not be made."""
    needed = [prepare.NEEDS.get(engine.artifact, ""), engine.artifact]
    for artifact in filter(None, needed):
        out = (model.artifacts / prepare.file_of(artifact, bench.quick)).absolute()
        failed = out.with_name(out.name + ".failed")
        if out.exists() and not failed.exists():
            continue
        say(f"{model.shape.id}: making {artifact}")
        arguments = [artifact, str(model.peer_folder.absolute()), model.shape.pooling]
        failed.write_text("begun")  # stays when this is interrupted
        try:
            bench.run(
                bench.peers.python,
                "cpu_peers.prepare",
                [*arguments, str(_calibration(bench, everything)), str(out)],
                PREPARE_SECONDS,
            )
        except ChildError as error:
            return f"{artifact} could not be made: {error}"
        failed.unlink()
    return ""


def _calibration(bench: Bench, everything: Path) -> Path:
    """Write the texts that int8 is calibrated on: of all lengths, out of the whole set."""
    path = everything.with_name(everything.stem + "-calibration.json")
    if not path.is_file():
        whole = json.loads(everything.read_text())
        size = prepare.QUICK_CALIBRATION if bench.quick else prepare.CALIBRATION
        path.write_text(json.dumps(textsets.subset(whole, [len(t) for t in whole], size)))
    return path


@contextlib.contextmanager
def _failing(engine_id: str, running: dict[str, Child], figures: Figures) -> Iterator[None]:
    """Take an engine that fails out of the race, with its reason."""
    try:
        yield
    except ChildError as error:
        say(f"{engine_id}: {error}")
        figures[engine_id]["not_run"] = str(error)
        running.pop(engine_id).end()


def _fidelity(
    bench: Bench, model: Model, path: Path, running: dict[str, Child], figures: Figures
) -> None:
    """Compare every engine's vectors with the fp32 reference; this warms the engines up too."""
    folder = path.parent / "vectors"
    folder.mkdir(exist_ok=True)
    reference = _vectors_of_reference(bench, model, path, folder, running)
    for engine_id, child in list(running.items()):
        say(f"{model.shape.id}: warming {engine_id}")
        with _failing(engine_id, running, figures):
            vectors = _vectors(child, folder / f"{engine_id}.npy")
            child.ask(WARM_SECONDS, do="query", text=QUERY, count=3)
            if reference is not None:
                cosines = np.einsum("nd,nd->n", vectors, reference)
                figures[engine_id]["cosine_lowest"] = float(cosines.min())
                figures[engine_id]["cosine_mean"] = float(cosines.mean())


def _vectors_of_reference(
    bench: Bench, model: Model, path: Path, folder: Path, running: dict[str, Child]
) -> Any:
    file = folder / "reference.npy"
    with ExitStack() as stack:
        child = running.get(REFERENCE.id)
        try:
            if child is None:
                arguments = [REFERENCE.library]
                child = bench.child(REFERENCE, "cpu_peers.worker", arguments, "reference")
                stack.callback(child.end)
                options = bench.options(REFERENCE, model, MAX_LENGTH)
                child.ask(LOAD_SECONDS, do="load", options=options, texts=str(path))
            return _vectors(child, file)
        except ChildError as error:
            say(f"no fp32 reference: {error}")
            return None


def _vectors(child: Child, file: Path) -> Any:
    child.ask(WARM_SECONDS, do="vectors", path=str(file))
    vectors = np.load(file).astype(np.float64)
    # a peer in bf16 rounds even the norm: only directions are compared
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _turn(child: Child, row: dict[str, Any]) -> None:
    time.sleep(SETTLE)
    row["seconds"].append(child.ask(TURN_SECONDS, do="encode")["seconds"])
    row["query"] += child.ask(TURN_SECONDS, do="query", text=QUERY, count=QUERIES)["seconds"]


def _summary(row: dict[str, Any], tokens: int) -> dict[str, Any]:
    if "not_run" in row:
        return row
    median = statistics.median(row["seconds"])
    rates = [tokens / seconds for seconds in row["seconds"]]
    return {
        **row,
        "tokens_per_second": tokens / median,
        "slowest": min(rates),
        "fastest": max(rates),
        "query_p50_ms": 1000 * statistics.median(row["query"]),
    }


def start(bench: Bench, shape: Shape) -> Figures:
    """Time fresh processes to their first vector, in turn, everything on disk already warm."""
    model = make(shape, bench.cache)
    wanted = ("native-int8", "torch-fp32", "sbert-fp32")
    figures: Figures = {e.id: {"seconds": []} for e in bench.engines if e.id in wanted}
    for number in range(bench.rounds + 1):
        for engine in bench.engines:
            row = figures.get(engine.id, {"not_run": ""})
            if "not_run" in row:
                continue
            say(f"start: {engine.id}")
            options = json.dumps(bench.options(engine, model, MAX_LENGTH))
            arguments = [engine.library, options]
            begun = time.perf_counter()
            with bench.child(engine, "cpu_peers.first_vector", arguments, "start") as child:
                try:
                    child.line(LOAD_SECONDS)
                except ChildError as error:
                    row["not_run"] = str(error)
                    continue
                if number:  # the first prepares weights and reads files
                    row["seconds"].append(time.perf_counter() - begun)
                    row["peak_mb"] = child.peak_mb()
    return {
        name: row if "not_run" in row else row | {"median": statistics.median(row["seconds"])}
        for name, row in figures.items()
    }


def long(bench: Bench, shape: Shape, everything: Path) -> dict[str, Any]:
    """Encode one long document, every engine in a process of its own, one after the other."""
    model = make(shape, bench.cache)
    tokens = shape.long_tokens
    tokenizer = Tokenizer.from_file(str(model.folder / "tokenizer.json"))
    text = textsets.long_text(json.loads(everything.read_text()), tokenizer, tokens)
    path = (bench.cache / shape.id / "long.json").absolute()
    path.write_text(json.dumps([text]))
    figures: Figures = {}
    for engine in bench.engines:
        if engine.peer and (not engine.id.startswith(LONG_PEERS) or tokens > LONG_PEERS_UP_TO):
            continue
        reason = bench.peers.missing.get(engine.package) or _artifact(
            bench, engine, model, everything
        )
        figures[engine.id] = {"not_run": reason} if reason else _long(bench, engine, model, path)
    return {"title": shape.title, "tokens": tokens, "engines": figures}


def _long(bench: Bench, engine: Engine, model: Model, path: Path) -> dict[str, Any]:
    say(f"{model.shape.id}: {model.shape.long_tokens} tokens, {engine.id}")
    rounds = 1 if bench.quick or model.shape.long_tokens > LONG_PEERS_UP_TO else 3
    arguments = [engine.library]
    with bench.child(engine, "cpu_peers.worker", arguments, "long-" + _log(model, engine)) as child:
        try:
            options = bench.options(engine, model, model.shape.long_tokens)
            child.ask(LOAD_SECONDS, do="load", options=options, texts=str(path))
            if engine.library == "zentorch":  # compiles when it first sees a shape
                child.ask(WARM_SECONDS, do="encode")
            seconds = [child.ask(TURN_SECONDS, do="encode")["seconds"] for _ in range(rounds)]
        except ChildError as error:
            return {"not_run": str(error)}
        return {
            "seconds": statistics.median(seconds),
            "peak_mb": child.peak_mb(),
            "weights_mb": weights_mb(engine, model),
        }


def weights_mb(engine: Engine, model: Model) -> float:
    """Return the size of an engine's weights: of its prepared file, or parameters x bytes."""
    if engine.ours:
        read = checkpoint.read_checkpoint(model.folder, max_length=model.shape.long_tokens)
        name = f"{read.fingerprint()}-{engine.precision}-*.weights"
        files = list((hub.cache_root() / "prepared").glob(name))
        if files:
            newest = max(files, key=lambda file: file.stat().st_mtime)
            return newest.stat().st_size / 2**20
    size = {"fp32": 4, "bf16": 2, "int8": 1}[engine.precision]
    return model.plan.parameters * size / 2**20


def quality(bench: Bench, data: Path) -> dict[str, Any]:
    """Score fp32 and int8 of OpenGTE on MTEB's data; fp32 alone where there is no int8."""
    limits = ("300", "200") if bench.quick else ("0", "0")
    found: dict[str, Any] = {"limited": bench.quick}
    wanted = {e.id: e for e in bench.engines if e.id in ("native-fp32", "native-int8")}
    for name, engine in (wanted or {REFERENCE.id: REFERENCE}).items():
        say(f"quality: {name}")
        arguments = [str(data.absolute()), engine.library, engine.precision, str(bench.threads)]
        try:
            answer = bench.run(
                bench.python(engine), "cpu_peers.quality", [*arguments, *limits], TURN_SECONDS * 4
            )
            found[name] = json.loads(answer)
        except ChildError as error:
            found[name] = {"error": str(error)}
    return found


def quickly(shape: Shape) -> Shape:
    """Return a shape with a shorter long document, for a run that only shows that all works."""
    return replace(shape, long_tokens=min(shape.long_tokens, 2048))
