"""What is known of right answers: qrels, questions with their documents, clicks, marks.

A judgment says how good a document is for a query. Clicks are compared with those that their
positions let expect (clicks over expected clicks, COEC; Zhang and Jones 2007): a first hit is
clicked because it is first.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from opengte.delimited import BadRow, decoded_lines, read_delimited
from opengte.errors import InputError
from opengte.review.logs import LoggedQuery, QueryLog
from opengte.search.calibration.questions import read_questions
from opengte.search.index import Index
from opengte.search.names import named_documents

Origin = Literal["labels", "clicks", "none", "known item", "agreement"]
QRELS = ("query-id", "corpus-id", "score")
LEAST_CLICKS = 2  # on a document, before they say anything
PRIOR = 1.0  # expected clicks that are added, so that few clicks say little
RELEVANT_COEC = 1.0  # from here a document counts as an answer


@dataclass(frozen=True)
class JudgedQuery:
    """A query, how often it was asked, and the grades of its answers; None: not known.

    relevant that is empty says that nothing answers. absent are documents that were judged relevant
    and are not in the index. failed says that somebody marked the query as not answered.
    """

    text: str
    count: int = 1
    relevant: Mapping[str, float] | None = None
    absent: Mapping[str, float] | None = None
    origin: Origin = "none"
    failed: bool = False

    @property
    def judged(self) -> bool:
        """Whether a right answer is known."""
        return bool(self.relevant) or bool(self.absent)


@dataclass(frozen=True)
class Judgments:
    """Grades by query (its text or its id), then by document; 0 is judged and not relevant."""

    grades: Mapping[str, Mapping[str, float]]

    def of(self, query: LoggedQuery) -> Mapping[str, float] | None:
        """Return the grades of a query, None where nobody judged it."""
        found = self.grades.get(query.text)
        return self.grades.get(query.id) if found is None and query.id else found


def read_judgments(path: str | Path) -> Judgments:
    """Read qrels (with a header, or of TREC), or questions with their documents.

    Raises InputError for a file that is missing, malformed or empty.

    >>> from pathlib import Path
    >>> _ = Path("qrels.tsv").write_text("query-id\\tcorpus-id\\tscore\\nq1\\tgit.md\\t2\\n")
    >>> read_judgments("qrels.tsv").grades
    {'q1': {'git.md': 2.0}}
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"the judgments `{path}` are no file")
    if file.suffix.lower() in (".jsonl", ".ndjson", ".csv"):
        questions = read_questions(file)
        if questions[0].relevant is None:
            raise InputError(f"`{path}` does not say what answers: expected `relevant` in each row")
        return Judgments({" ".join(x.text.split()): dict(x.relevant or {}) for x in questions})
    with file.open("rb") as stream:
        first = next((line for _, line, _ in decoded_lines(stream, file.name) if line), "")
    grades = _qrels(file) if first.split("\t")[:1] == [QRELS[0]] else _trec(file)
    if not grades:
        raise InputError(
            f"`{path}` has no judgment: expected a query, a document and a grade a row"
        )
    return Judgments(grades)


def _qrels(path: Path) -> dict[str, dict[str, float]]:
    grades: dict[str, dict[str, float]] = defaultdict(dict)
    with path.open("rb") as stream:
        for row in read_delimited(stream, path.name, quoted=False, delimiter="\t"):
            if isinstance(row, BadRow) or not set(QRELS) <= row.values.keys():
                reason = row.reason if isinstance(row, BadRow) else "has not the three columns"
                raise InputError(f"`{path}`:{row.line} {reason}; expected {', '.join(QRELS)}")
            query, document, grade = (row.values[name] for name in QRELS)
            grades[query][document] = _grade(grade, f"`{path}`:{row.line}")
    return dict(grades)


def _trec(path: Path) -> dict[str, dict[str, float]]:
    grades: dict[str, dict[str, float]] = defaultdict(dict)
    with path.open("rb") as stream:
        for number, line, reason in decoded_lines(stream, path.name):
            cells = (line or "").split()
            if line is None or (cells and len(cells) != 4):
                wrong = reason or f"has {len(cells)} columns"
                raise InputError(
                    f"`{path}`:{number} {wrong}; expected query-id, corpus-id and score with a "
                    "header, or TREC's query, 0, document, grade"
                )
            if cells:
                grades[cells[0]][cells[2]] = _grade(cells[3], f"`{path}`:{number}")
    return dict(grades)


def _grade(text: str, place: str) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        raise InputError(f"{place} has the grade {text!r}, expected a number") from None


def click_judgments(queries: Iterable[LoggedQuery]) -> Judgments:
    """Return the documents that were clicked more than their positions let expect.

    Position bias is taken from the whole log: the share of answers whose n-th document was
    clicked. A click on a document of an unknown position counts as if it had been the first.
    """
    held = [one for one in queries if one.shown or one.clicked]
    shown: Counter[int] = Counter()
    clicked: Counter[int] = Counter()
    for one in held:
        for place, name in enumerate(one.shown):
            shown[place] += 1
            clicked[place] += name in one.clicked
    rate = {place: clicked[place] / shown[place] for place in shown}
    clicks: dict[str, Counter[str]] = defaultdict(Counter)
    expected: dict[tuple[str, str], float] = defaultdict(float)
    for one in held:
        for place, name in enumerate(one.shown):
            expected[one.text, name] += rate[place]
        for name in set(one.clicked):
            clicks[one.text][name] += 1
            if name not in one.shown:
                expected[one.text, name] += rate.get(0, 1.0)
    grades = {
        text: {
            name: coec
            for name, count in found.items()
            if count >= LEAST_CLICKS
            and (coec := (count + PRIOR) / (expected[text, name] + PRIOR)) >= RELEVANT_COEC
        }
        for text, found in clicks.items()
    }
    return Judgments({text: found for text, found in grades.items() if found})


def judge(
    log: QueryLog, index: Index, given: Judgments | None = None
) -> tuple[list[JudgedQuery], list[tuple[str, str]]]:
    """Return each query of a log once, with what is known of it, and documents that are not there.

    Labels come before clicks. The second value is (query, document) of every document that was
    judged relevant and is not in the index: data may be missing, or the judgments are of another
    collection. Raises InputError if no judgment is of a query of the log.
    """
    counts = Counter(one.text for one in log.queries)
    failed = {one.text for one in log.queries if one.answered is False}
    clicks, found = click_judgments(log.queries), dict[str, JudgedQuery]()
    missing: list[tuple[str, str]] = []
    known: dict[str, list[str]] = {}
    for one in log.queries:
        if one.text in found and found[one.text].origin != "none":
            continue
        grades, origin = _grades(one, given, clicks)
        made = JudgedQuery(one.text, counts[one.text], failed=one.text in failed)
        if grades is not None:
            there, gone = _there(grades, index, known)
            missing += ((one.text, name) for name in gone)
            made = replace(made, relevant=there, absent=gone, origin=origin)
        found[one.text] = made
    if given is not None and not any(one.origin == "labels" for one in found.values()):
        few = ", ".join(repr(name) for name in list(given.grades)[:2])
        raise InputError(
            f"no judgment is of a query of the log: the judgments are of {few}, the log has "
            f"{log.queries[0].text!r:.60}; expected the same texts, or ids in both"
        )
    if given is not None and missing and not any(one.relevant for one in found.values()):
        raise InputError(
            f"none of the {len(missing):,} documents that the judgments name is in the index, "
            f"such as `{missing[0][1]}`: they are of another collection"
        )
    return list(found.values()), missing


def _grades(
    query: LoggedQuery, given: Judgments | None, clicks: Judgments
) -> tuple[Mapping[str, float] | None, Origin]:
    labels = given.of(query) if given is not None else None
    if labels is not None:
        return labels, "labels"
    found = clicks.of(query)
    return found, "clicks" if found is not None else "none"


def _there(
    grades: Mapping[str, float], index: Index, known: dict[str, list[str]]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the grades of documents of the index, and of those that are not in it."""
    there: dict[str, float] = {}
    gone: dict[str, float] = {}
    for name, grade in grades.items():
        if grade <= 0:
            continue
        if name not in known:
            known[name] = named_documents(index.store, index.roots, name)
        there |= dict.fromkeys(known[name], grade)
        if not known[name]:
            gone[name] = grade
    return there, gone


def label_counts(queries: Sequence[JudgedQuery]) -> dict[Origin, int]:
    """Return how many queries have judgments of each origin."""
    return dict(Counter(one.origin for one in queries if one.origin != "none"))
