"""Preparation: sources to a folder of shards (read, clean, filter, tokenise, write), resumable.

Windows of input rows are cut by count, shards at the ends of windows. The content of a shard
therefore depends on the input alone: a run that was killed and resumed writes the same bytes.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

from opengte.atomic_files import atomic_write
from opengte.data.cleaning import consistency, report
from opengte.data.cleaning.consistency import ConsistencyFilter
from opengte.data.cleaning.filters import FilterRules
from opengte.data.cleaning.report import Tally
from opengte.data.cleaning.text_cleaning import TextCleaner
from opengte.data.examples import Example, UnusableRow, array_to_hashes, joint_hash, text_hash
from opengte.data.preparation.source_tokenizer import SourceTokenizer
from opengte.data.preparation.window import (
    OpenShard,
    PreparationRun,
    PreparationSettings,
    SourceState,
    add_window,
)
from opengte.data.reading.sources import SourceSpec, detect_columns, list_files, read_examples
from opengte.data.shards.dataset import FORMAT, JOURNAL, MANIFEST
from opengte.data.shards.format import ShardBuilder, read_shard
from opengte.errors import InputError
from opengte.journal import Journal, check_header, open_journal

WINDOW = 1024  # rows of input
DEFAULT = PreparationSettings()
Advance = Callable[[int], None]

DROPPED = "dropped.jsonl"


@dataclass(frozen=True)
class PreparationResult:
    """The folder, the counts of each source, and the sources without any usable row."""

    folder: Path
    tallies: dict[str, Tally]
    empty: tuple[str, ...]


def prepare(
    specs: Sequence[SourceSpec],
    folder: Path,
    encoding: SourceTokenizer,
    settings: PreparationSettings = DEFAULT,
    *,
    excluded: Collection[bytes] = frozenset(),
    consistent: ConsistencyFilter | None = None,
    restart: bool = False,
    advance: Advance = lambda rows: None,
) -> PreparationResult:
    r"""Write the shards of sources to a folder, or resume a run that was killed.

    encoding tokenises; excluded are text hashes that must not be trained on (see `hash_texts`);
    consistent filters pairs by a model; advance is called with numbers of rows read. A finished
    folder is left alone unless restart is set.

    Raises InputError for sources that cannot be read or whose columns are unclear, before anything
    is written; if no row is left; and for a folder that another run made.

    >>> from opengte import checkpoint
    >>> _ = Path("faq.csv").write_text("query,answer\nhow,so\nhow,so\nwhy,because\n")
    >>> start = checkpoint.read_checkpoint(folder)
    >>> tokenizer = SourceTokenizer(start.tokenizer, start.prompts, 32, 32)
    >>> result = prepare([SourceSpec("faq", (Path("faq.csv"),))], Path("data"), tokenizer)
    >>> tally = result.tallies["faq"]
    >>> tally.read, tally.kept, dict(tally.dropped)
    (3, 2, {'duplicate row': 1})
    """
    places = [_place(spec, encoding) for spec in _named(specs)]
    header = _header(places, encoding, settings, excluded, consistent)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / MANIFEST).exists() and not restart:
        return _finished(folder, header)
    rules = FilterRules(settings.limits, excluded)
    with open_journal(folder / JOURNAL, header, restart=restart) as journal:
        if not journal.entries:
            _clear(folder)
        run = PreparationRun(folder, settings, rules, encoding, consistent, set(), advance)
        with (folder / DROPPED).open("ab") as dropped:
            for number, place in enumerate(places):
                _source(run, journal, number, place, dropped)
        result = _finish(run, journal, header, places)
    (folder / JOURNAL).unlink()
    return result


def _named(specs: Sequence[SourceSpec]) -> Sequence[SourceSpec]:
    if not specs:
        raise InputError("there are no sources; expected at least one")
    for name, count in Counter(spec.name for spec in specs).items():
        if count > 1:
            raise InputError(f"{count} sources are called `{name}`. Give each its own name.")
    return specs


def _place(spec: SourceSpec, encoding: SourceTokenizer) -> SourceState:
    try:
        columns = detect_columns(spec.paths, spec.columns)
        prefixes = encoding.prefixes(spec, columns.kind)
    except InputError as error:
        raise InputError(f"source `{spec.name}`: {error}") from error
    files = spec.origins or list_files(spec.paths)
    numbers = {str(path): number for number, path in enumerate(files)}
    return SourceState(spec, columns, prefixes, numbers, {}, None)


def _header(
    places: Sequence[SourceState],
    encoding: SourceTokenizer,
    settings: PreparationSettings,
    excluded: Collection[bytes],
    consistent: ConsistencyFilter | None,
) -> dict[str, Any]:
    """Return everything that the result depends on, for the journal."""
    filters: dict[str, Any] = {"excluded": joint_hash(sorted(excluded)).hex() if excluded else ""}
    if consistent is not None:
        names = ("model", "keep", "pool", "seed")
        filters["consistency"] = {name: getattr(consistent, name) for name in names}
    return {
        "format": FORMAT,
        "tokenizer": encoding.tokenizer.fingerprint,
        "tokens": [encoding.query_tokens, encoding.document_tokens],
        "settings": json.loads(json.dumps(settings, default=vars)),
        "filters": filters,
        "sources": [
            {
                "name": place.spec.name,
                "columns": json.loads(json.dumps(place.columns, default=vars)),
                "prompts": list(place.prefixes),
                "switches": list(_switches(place)),
                "files": {path: _identity(Path(path)) for path in place.files},
            }
            for place in places
        ],
    }


def _identity(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _switches(place: SourceState) -> tuple[Any, ...]:
    spec, kind = place.spec, place.columns.kind
    negatives = kind == "pairs" if spec.in_batch_negatives is None else spec.in_batch_negatives
    return spec.instruction, negatives, spec.temperature, spec.weight


def _finished(folder: Path, header: dict[str, Any]) -> PreparationResult:
    """Return the result of an earlier run, if this run would make the same."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    check_header(folder / MANIFEST, manifest["made_from"], header)
    tallies = {name: Tally.of(record) for name, record in manifest["report"].items()}
    return PreparationResult(folder, tallies, _empty(tallies))


def _empty(tallies: dict[str, Tally]) -> tuple[str, ...]:
    return tuple(name for name, tally in tallies.items() if tally.kept == 0)


def _clear(folder: Path) -> None:
    """Remove the files of an earlier run, and no others."""
    names = [MANIFEST, DROPPED, "report.json", "report.md"]
    paths = [folder / name for name in names]
    for pattern in ("shards/*.shard", "shards/*.part", "pool-*.npy", "pool-*.part"):
        paths += folder.glob(pattern)
    for path in paths:
        path.unlink(missing_ok=True)


def _source(
    run: PreparationRun, journal: Journal, number: int, place: SourceState, dropped: IO[bytes]
) -> None:
    """Write the missing shards of one source."""
    (run.folder / "shards").mkdir(exist_ok=True)
    done = [line for line in journal.entries if line["source"] == number]
    for line in done:
        place.labels.update(line["labels"])
        run.advance(line["items"])
        if line["shard"]:
            run.seen.update(array_to_hashes(read_shard(run.folder / line["shard"]).seen))
    if done and done[-1]["last"]:
        return
    place = _with_pool(run, number, place)
    last = journal.entries[-1]["dropped"] if journal.entries else 0
    dropped.truncate(last)
    dropped.seek(last)
    read = sum(line["items"] for line in done)
    items = islice(read_examples(place.spec.paths, place.columns), read, None)
    part, count = OpenShard(), len(done)
    for window, is_last in _windows(items):
        add_window(run, place, part, window, dropped)
        run.advance(len(window))
        if is_last or _full(run.settings, part.builder):
            _close(run, journal, number, place, part, count, dropped, last=is_last)
            part, count = OpenShard(), count + 1


def _with_pool(run: PreparationRun, number: int, place: SourceState) -> SourceState:
    """Return the source with the random texts that its pairs are compared with."""
    asked = run.consistent
    if asked is None or place.columns.kind != "pairs":
        return place
    clean = TextCleaner(run.settings.cleaning, Counter())
    rows = read_examples(place.spec.paths, place.columns)
    texts = (clean(text) for row in rows if isinstance(row, Example) for text in row.positives)
    drawn = consistency.sample_texts((t for t in texts if t), asked.pool, asked.seed)
    if not drawn:
        return place
    path = run.folder / f"pool-{number:03d}.npy"
    pool = consistency.embed_pool(drawn, asked.documents, path)
    return replace(place, pool=pool)


def _windows(
    items: Iterator[Example | UnusableRow],
) -> Iterator[tuple[list[Example | UnusableRow], bool]]:
    """Yield windows of items, and whether each is the last; at least one."""
    window = list(islice(items, WINDOW))
    while True:
        following = list(islice(items, WINDOW))
        yield window, not following
        if not following:
            return
        window = following


def _full(settings: PreparationSettings, builder: ShardBuilder) -> bool:
    return len(builder) >= settings.shard_rows or builder.tokens >= settings.shard_tokens


def _close(
    run: PreparationRun,
    journal: Journal,
    number: int,
    place: SourceState,
    part: OpenShard,
    count: int,
    dropped: IO[bytes],
    last: bool,
) -> None:
    """Write a shard and record it."""
    dropped.flush()
    os.fsync(dropped.fileno())
    shard, builder = "", part.builder
    line: dict[str, Any] = {"source": number, "items": part.items, "last": last}
    if len(builder) or builder.seen:
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", place.spec.name)[:64]
        shard = f"shards/{number:03d}-{slug}-{count:05d}.shard"
        line["sha256"] = builder.write(run.folder / shard, run.encoding.tokenizer.vocabulary_size)
        line["bytes"] = (run.folder / shard).stat().st_size
    line |= {
        "shard": shard,
        "rows": len(builder),
        "texts": len(builder.hashes),
        "tokens": builder.tokens,
        "pool_from": dict(part.pool_from),
        "labels": place.labels,
        "dropped": dropped.tell(),
        "tally": part.tally.record(),
    }
    journal.record(line)


def _finish(
    run: PreparationRun, journal: Journal, header: dict[str, Any], places: Sequence[SourceState]
) -> PreparationResult:
    """Write the report and, last, the manifest."""
    tallies = {place.spec.name: Tally() for place in places}
    sources = []
    for number, place in enumerate(places):
        lines = [line for line in journal.entries if line["source"] == number]
        for line in lines:
            tallies[place.spec.name].add(Tally.of(line["tally"]))
        if any(line["rows"] for line in lines):
            sources.append(_about(place, lines))
    records = {name: tally.record() for name, tally in tallies.items()}
    _write(run.folder / "report.json", _json(records))
    _write(run.folder / "report.md", report.markdown_report(tallies).encode())
    if not sources:
        (run.folder / JOURNAL).unlink()  # nothing that another run could continue
        raise InputError(f"no row is left of any source; `{run.folder / 'report.md'}` says why")
    for path in run.folder.glob("pool-*.npy"):
        path.unlink()
    manifest = {
        "format": FORMAT,
        "tokenizer": _tokenizer(run.encoding),
        "sources": sources,
        "made_from": header,
        "report": records,
    }
    _write(run.folder / MANIFEST, _json(manifest))
    return PreparationResult(run.folder, tallies, _empty(tallies))


def _about(place: SourceState, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a source's entry in the manifest."""
    instruction, in_batch_negatives, temperature, weight = _switches(place)
    pool_from: Counter[str] = Counter()
    for line in lines:
        pool_from |= Counter(line["pool_from"])
    names = ("shard", "rows", "texts", "tokens", "bytes", "sha256")
    written = [{name: line[name] for name in names} for line in lines if line["rows"]]
    return {
        "name": place.spec.name,
        "kind": place.columns.kind,
        "rows": sum(line["rows"] for line in lines),
        "in_batch_negatives": in_batch_negatives,
        "instruction": instruction,
        "temperature": temperature,
        "weight": weight,
        "prompts": list(place.prefixes),
        "pool_from": {"query": pool_from["query"], "document": pool_from["document"]},
        "labels": list(place.labels),
        "files": list(place.files),
        "shards": written,
    }


def _tokenizer(encoding: SourceTokenizer) -> dict[str, Any]:
    template = encoding.tokenizer.single
    return {
        "fingerprint": encoding.tokenizer.fingerprint,
        "vocabulary": encoding.tokenizer.vocabulary_size,
        "head": [list(item) for item in template.specials[0]],
        "tail": [list(item) for item in template.specials[-1]],
        "type": template.types[0],
    }


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as part:
        part.write_bytes(content)


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def hash_texts(texts: Iterable[str]) -> frozenset[bytes]:
    """Return the hashes of texts that must not be trained on."""
    return frozenset(map(text_hash, texts))
