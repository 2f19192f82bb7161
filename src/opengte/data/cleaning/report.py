"""Report of what was dropped, repaired and truncated: counts and examples, JSON and Markdown."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opengte.data.examples import Example, UnusableRow

SHOWN = 3  # examples of each rule
PLACES = 50  # rows that could not be read, of which the text is not shown
WIDTH = 100  # characters of a text that are shown

Record = dict[str, Any]


@dataclass
class Tally:
    """Counts of the rows and texts of one source, by outcome."""

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)  # rule -> rows
    texts: Counter[str] = field(default_factory=Counter)  # rule -> positives, negatives taken away
    repaired: Counter[str] = field(default_factory=Counter)  # step -> texts
    truncated: Counter[str] = field(default_factory=Counter)  # side -> texts that lost tokens
    shown: dict[str, list[Record]] = field(default_factory=dict)  # rule -> some rows

    def drop(self, rule: str, row: Example | UnusableRow) -> Record:
        """Count a dropped row, and return its record."""
        self.dropped[rule] += 1
        record = dropped_row_record(rule, row)
        shown = self.shown.setdefault(rule, [])
        if len(shown) < _most(record):
            shown.append(record)
        return record

    def add(self, other: "Tally") -> None:
        """Add the counts of another part of the same source."""
        self.read += other.read
        self.kept += other.kept
        self.dropped.update(other.dropped)
        self.texts.update(other.texts)
        self.repaired.update(other.repaired)
        self.truncated.update(other.truncated)
        for rule, records in other.shown.items():
            shown = self.shown.setdefault(rule, [])
            shown += records[: _most(*records[:1]) - len(shown)]

    def record(self) -> Record:
        """Return the counts as JSON values."""
        counters = {n: _plain(getattr(self, n)) for n in ("dropped", "texts", "repaired")}
        truncated = _plain(self.truncated)
        rest = {"truncated": truncated, "examples": self.shown}
        return {"read": self.read, "kept": self.kept, **counters, **rest}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Tally":
        """Return the tally that `record` returned."""
        names = ("dropped", "texts", "repaired", "truncated")
        counters = {name: Counter(record[name]) for name in names}
        return cls(record["read"], record["kept"], **counters, shown=record["examples"])


def _most(record: Record | None = None) -> int:
    """Return how many rows like this one are shown."""
    return PLACES if record is not None and "reason" in record else SHOWN


def dropped_summary(tallies: Sequence["Tally"]) -> str:
    """Say how many rows were dropped, why, and where the first of them are; "" if none were."""
    total = Tally()
    for tally in tallies:
        total.add(tally)
    dropped = sum(total.dropped.values())
    if not dropped:
        return ""
    rules = [
        f"{rule} {count:,} ({_places(total.shown.get(rule, []), count)})"
        for rule, count in total.dropped.most_common()
    ]
    return f"{dropped:,} of {total.read:,} rows dropped: {'; '.join(rules)}"


def _places(records: Sequence[Record], count: int) -> str:
    places = [f"{record['file']}:{record['row']}" for record in records[:SHOWN]]
    if records and "reason" in records[0]:
        places[0] += f" {records[0]['reason']}"
    return ", ".join([*places, *(["..."] if count > len(places) else [])])


def dropped_row_record(rule: str, row: Example | UnusableRow) -> Record:
    """Return the place of a dropped row, the rule, and the beginning of its texts."""
    record: Record = {"file": row.origin.file, "row": row.origin.row, "rule": rule}
    if isinstance(row, UnusableRow):
        return {**record, "reason": row.reason}
    record["query"] = _short(row.query)
    if row.positives and row.label is None:
        record["positive"] = _short(row.positives[0])
    return record


def markdown_report(tallies: Mapping[str, Tally]) -> str:
    """Return the report as Markdown: sources, rules, and examples of dropped rows."""
    lines = ["# What became of the data", ""]
    header = ("source", "rows read", "kept", "dropped", "queries cut", "documents cut")
    lines += _table(header, list(_rows(tallies)))
    for name, tally in tallies.items():
        lines += ["", f"## {name}", ""]
        rules: list[tuple[object, ...]] = [
            *(("row", rule, count) for rule, count in tally.dropped.most_common()),
            *(("text", rule, count) for rule, count in tally.texts.most_common() if count),
            *(("repaired text", step, count) for step, count in tally.repaired.most_common()),
        ]
        lines += _table(("what", "why", "count"), rules) if rules else ["Nothing was dropped."]
        for rule, records in tally.shown.items():
            more = tally.dropped[rule] > len(records)
            lines += ["", f"{rule}{', the first; all are in `dropped.jsonl`' if more else ''}:", ""]
            lines += [f"- {_line(record)}" for record in records]
    return "\n".join(lines) + "\n"


def _rows(tallies: Mapping[str, Tally]) -> Iterator[tuple[object, ...]]:
    for name, tally in tallies.items():
        cut = tally.truncated
        dropped = sum(tally.dropped.values())
        yield name, tally.read, tally.kept, dropped, cut["query"], cut["document"]


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    marks = ["---:" if isinstance(v, int) else "---" for v in (rows[0] if rows else header)]
    cells = [[f"{v:,}" if isinstance(v, int) else str(v) for v in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (list(header), marks, *cells)]


def _line(record: Record) -> str:
    said = record.get("reason") or f"“{record['query']}”"
    positive = f" → “{record['positive']}”" if "positive" in record else ""
    return f"{record['file']}:{record['row']}: {said}{positive}"


def _short(text: str) -> str:
    folded = " ".join(text[: 4 * WIDTH].split())
    return folded if len(folded) <= WIDTH else folded[: WIDTH - 1] + "…"


def _plain(counter: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in sorted(counter.items()) if count}
