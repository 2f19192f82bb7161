"""Own data: reading it, answering its queries, comparing, sweeping, checking."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opengte.errors import InputError
from opengte.evaluate import compare, regression, report, sweep, systems
from opengte.evaluate.dataset import RetrievalDataset, load_dataset
from opengte.evaluate.systems import (
    ModelLoaders,
    RetrievalSystem,
    SystemResult,
    evaluate_systems,
    parse_system,
)
from tests.support.evaluation import HashEncoder, OverlapReranker, beir, jsonl
from tests.support.installed import needs

needs("ir_measures", "scipy")

GOOD, BAD = RetrievalSystem("good"), RetrievalSystem("bad")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return beir(tmp_path / "beir")


@pytest.fixture
def data(folder: Path) -> RetrievalDataset:
    return load_dataset(folder, segment="kind")


def loaders(made: list[HashEncoder] | None = None) -> ModelLoaders:
    def encoder(system: RetrievalSystem) -> HashEncoder:
        loaded = HashEncoder(6.0 if system.model == "bad" else 0.0, name=system.model)
        if made is not None:
            made.append(loaded)
        return loaded

    return ModelLoaders(encoder, lambda system: OverlapReranker())


def two(
    data: RetrievalDataset, a: RetrievalSystem = GOOD, b: RetrievalSystem = BAD
) -> tuple[SystemResult, SystemResult]:
    first, second = evaluate_systems([a, b], data, loaders())
    return first, second


def test_reads_a_beir_folder(data: RetrievalDataset) -> None:
    assert len(data.documents) == 60 and len(data.queries) == 30
    assert data.documents["d0"].count(" ") == 9  # title and text
    assert data.qrels["q3"] == {"d3": 1}
    assert data.segments["q3"] == "odd" and data.notes == ()


def test_reads_gzip(folder: Path) -> None:
    corpus = folder / "corpus.jsonl"
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(corpus.read_bytes()))
    corpus.unlink()
    assert len(load_dataset(folder).documents) == 60


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_missing_files_are_named(folder: Path, name: str) -> None:
    (folder / name).rename(folder / "elsewhere")
    with pytest.raises(InputError, match=f"has no {name}"):
        load_dataset(folder)


def test_a_split_that_is_not_there_lists_those_that_are(folder: Path) -> None:
    with pytest.raises(InputError, match="qrels/ for test: choose one by --split"):
        load_dataset(folder, split="dev")


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
def test_empty_files_are_named(folder: Path, name: str) -> None:
    (folder / name).write_text("")
    with pytest.raises(InputError, match=rf"{name}` is empty"):
        load_dataset(folder)


def append(path: Path, text: str | bytes) -> None:
    with path.open("ab") as file:
        file.write(text if isinstance(text, bytes) else text.encode())


def test_bad_rows_are_errors_with_their_place(folder: Path) -> None:
    append(folder / "corpus.jsonl", "{not json\n")
    with pytest.raises(InputError, match=r"corpus.jsonl`:61 is not JSON"):
        load_dataset(folder)


def test_broken_utf8_is_named(folder: Path) -> None:
    append(folder / "queries.jsonl", b'{"_id": "q", "text": "caf\xe9"}\n')
    with pytest.raises(InputError, match=r"queries.jsonl`:31 is not UTF-8 \(byte 26 of the line"):
        load_dataset(folder)


def test_an_id_with_two_texts_is_an_error(folder: Path) -> None:
    append(folder / "corpus.jsonl", '{"_id": "d1", "text": "another"}\n')
    with pytest.raises(InputError, match=r"`corpus.jsonl`:61 gives the id 'd1' a second time"):
        load_dataset(folder)


def test_unknown_ids_and_queries_without_answers_are_counted(folder: Path) -> None:
    append(folder / "queries.jsonl", '{"_id": "lonely", "text": "no answer"}\n')
    append(folder / "qrels/test.tsv", "nobody\td1\t1\nq1\tnowhere\t1\nlonely\td1\t0\n")
    found = load_dataset(folder)
    assert len(found.queries) == 30
    assert [note.split(", ")[0] for note in found.notes] == [
        "judgements of unknown queries left out: 1",
        "judgements of unknown documents left out: 1",
        "queries without a relevant document left out: 1",
    ]


def test_qrels_without_a_header_are_an_error(folder: Path) -> None:
    (folder / "qrels/test.tsv").write_text("q1\td1\t1\nq2\td2\t1\n")
    with pytest.raises(InputError, match="expected a first line with query-id"):
        load_dataset(folder)


def test_nothing_left_is_an_error(folder: Path) -> None:
    (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nx\ty\t1\n")
    with pytest.raises(InputError, match="no query with a relevant document"):
        load_dataset(folder)


def test_reads_two_columns(tmp_path: Path) -> None:
    path = tmp_path / "faq.csv"
    path.write_text(
        'question,answer,area\n"How, please?",So.,x\nWhen?,Now.,y\nWhere?,So.,x\n,a,x\n'
    )
    found = load_dataset(path, segment="area")
    assert len(found.documents) == 2 and len(found.queries) == 3
    assert found.documents == {"d1": "So.", "d2": "Now."}
    assert found.qrels["q:How, please?"] == {"d1": 1}
    assert found.segments["q:When?"] == "y"
    assert found.notes == (
        "rows with an empty question or document left out: 1, the first: `faq.csv`:5",
    )


def test_reads_named_columns_of_json_lines(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "faq.jsonl", [{"id": 7, "doc": "So.", "ask": "How?"}])
    assert load_dataset(path, columns=("ask", "doc")).documents == {"d1": "So."}
    with pytest.raises(InputError, match="Name them by --columns"):
        load_dataset(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "faq.xls").write_text("x")
    with pytest.raises(InputError, match="ends in .csv, .tsv or .jsonl"):
        load_dataset(tmp_path / "faq.xls")
    with pytest.raises(InputError, match="does not exist"):
        load_dataset(tmp_path / "nothing")


def test_settings_are_parsed() -> None:
    system = parse_system(
        "org/name,instruction=Find facts, and more,dimensions=64", precision="fp32"
    )
    assert system.instruction == "Find facts, and more"
    assert (system.dimensions, system.precision) == (64, "fp32")
    assert "dimensions=64" in system.label and "engine" not in system.label


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("m,dimension=3", "sets 'dimension', expected one of engine"),
        ("m,dimensions=x", "expected a whole number"),
        ("m,truncation=up", "expected right, left or error"),
        (",dimensions=3", "names no model"),
    ],
)
def test_wrong_settings_are_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_system(text)


def test_search_equals_brute_force(data: RetrievalDataset) -> None:
    outcome = next(evaluate_systems([GOOD], data, loaders()))
    encoder = HashEncoder()
    queries = encoder.embed(list(data.queries.values())).dense
    documents = encoder.embed(list(data.documents.values())).dense
    assert queries is not None and documents is not None
    order = np.argsort(-(queries @ documents.T), axis=1, kind="stable")
    ids = list(data.documents)
    for row, query in enumerate(data.queries):
        assert list(outcome.rankings[query]) == [ids[place] for place in order[row]]


def test_systems_with_the_same_vectors_encode_once(data: RetrievalDataset) -> None:
    made: list[HashEncoder] = []
    small, reranked = replace(GOOD, dimensions=8), replace(GOOD, reranker="r", depth=5)
    found = list(evaluate_systems([GOOD, small, reranked], data, loaders(made)))
    assert len(made) == 1 and made[0].reads <= 60 + 30 + systems.TIMED
    assert found[1].cost.vector_bytes == 32 and found[0].cost.vector_bytes == 256
    assert found[2].mean("nDCG@10") >= found[1].mean("nDCG@10")


def test_dimensions_are_checked_before_encoding(data: RetrievalDataset) -> None:
    made: list[HashEncoder] = []
    with pytest.raises(InputError, match="dimensions is 65, but `good` has vectors of 64"):
        list(evaluate_systems([replace(GOOD, dimensions=65)], data, loaders(made)))
    assert made[0].reads == 0


def test_cut_vectors_equal_those_the_model_cuts(data: RetrievalDataset) -> None:
    outcome = next(evaluate_systems([replace(GOOD, dimensions=16)], data, loaders()))
    encoder = HashEncoder()
    query = encoder.embed([data.queries["q0"]], dimensions=16).dense
    document = encoder.embed([data.documents["d0"]], dimensions=16).dense
    assert query is not None and document is not None
    assert outcome.rankings["q0"]["d0"] == pytest.approx(float(query[0] @ document[0]), abs=1e-5)


def test_roles_and_instruction_reach_the_model(data: RetrievalDataset) -> None:
    made: list[HashEncoder] = []
    next(evaluate_systems([replace(GOOD, instruction="Find")], data, loaders(made)))
    seen = {(call["role"], call["instruction"]) for call in made[0].calls}
    assert seen == {("document", None), ("query", "Find")}


def test_compare_finds_the_better_system(data: RetrievalDataset) -> None:
    a, b = two(data)
    result = compare.compare_systems(a, b, data)
    assert result.main.difference < 0 and result.main.p < 0.05
    assert "bad is worse than good" in compare.comparison_verdict(result)
    assert {segment.name for segment in result.segments} == {"even", "odd"}
    assert all(segment.p >= segment.result.p for segment in result.segments)
    assert result.moved[0].a != result.moved[0].b
    deltas = [abs(moved.a - moved.b) for moved in result.moved]
    assert deltas == sorted(deltas, reverse=True)


def test_compare_says_what_could_have_been_seen(data: RetrievalDataset) -> None:
    a, b = two(data, GOOD, replace(GOOD, dimensions=63))
    text = compare.comparison_verdict(compare.compare_systems(a, b, data))
    assert "No difference larger than" in text or "the same" in text
    same = compare.comparison_verdict(compare.compare_systems(a, a, data))
    assert "the same nDCG@10 for every one of 30 queries" in same


def test_compare_refuses_an_unknown_measure(data: RetrievalDataset) -> None:
    a, b = two(data)
    with pytest.raises(InputError, match=r"measure is 'MAP', expected one of nDCG@10"):
        compare.compare_systems(a, b, data, measure="MAP")


def test_reports_in_three_forms(data: RetrievalDataset, tmp_path: Path) -> None:
    a, b = two(data)
    made = compare.comparison_report(compare.compare_systems(a, b, data), data)
    for name in ("r.html", "r.md", "r.json"):
        report.write_report(made, tmp_path / name)
    page = (tmp_path / "r.html").read_text()
    assert page.count("<svg") == 2 and "<details>" in page
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page
    assert "nDCG@10** |" in (tmp_path / "r.md").read_text()
    value = json.loads((tmp_path / "r.json").read_text())
    assert value["data"]["results"]["nDCG@10"]["n"] == 30


def test_reports_escape_what_they_show(tmp_path: Path) -> None:
    rows = [("<script>alert(1)</script>", 1.0)]
    made = report.EvaluationReport(
        "<b>",
        "a & b",
        [report.ReportSection("<i>", "x", tables=[report.ReportTable(("<u>", "n"), rows)])],
    )
    page = report.to_html(made)
    assert "<script>" not in page and "<b>" not in page and "<i>" not in page and "<u>" not in page


def test_report_names_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ends in .html, .md, .json"):
        report.check_report_path(tmp_path / "r.pdf")
    with pytest.raises(InputError, match="no folder"):
        report.check_report_path(tmp_path / "none" / "r.md")


def test_sweep_crosses_settings_and_marks_the_front(data: RetrievalDataset) -> None:
    base = replace(GOOD, reranker="r")
    every = sweep.sweep_systems(base, dimensions=[8, 64], depth=[0, 10])
    assert len(every) == 4
    assert [system.reranker for system in every].count(None) == 2
    found = list(evaluate_systems(every, data, loaders()))
    made = sweep.sweep_report(found, data, "nDCG@10")
    assert made.verdict.startswith("Best nDCG@10")
    assert all(section.plot for section in made.sections[1:])
    assert "<svg" in report.to_html(made)


def test_sweep_without_choices_is_one_system() -> None:
    assert sweep.sweep_systems(GOOD, dimensions=[], precision=[]) == [GOOD]


def test_front_keeps_what_nothing_beats() -> None:
    assert sweep.pareto_front([(1, 5), (1, 5), (2, 5), (3, 9)]) == [True, True, False, True]


def write(path: Path, data: RetrievalDataset, systems_: list[RetrievalSystem]) -> Path:
    found = list(evaluate_systems(systems_, data, loaders()))
    report.write_report(sweep.sweep_report(found, data, "nDCG@10"), path)
    return path


def test_check_passes_and_fails(data: RetrievalDataset, tmp_path: Path) -> None:
    old = write(tmp_path / "old.json", data, [GOOD])
    assert not any(change.fell for change in regression.compare_results(old, old))
    value: dict[str, Any] = json.loads(old.read_text())
    measures = value["data"]["systems"][0]["measures"]
    measures["nDCG@10"] = {query: x * 0.3 for query, x in measures["nDCG@10"].items()}
    (tmp_path / "new.json").write_text(json.dumps(value))
    changes = regression.compare_results(tmp_path / "new.json", old)
    assert [change.fell for change in changes] == [True]
    assert "1 of 1 scores fell" in regression.regression_verdict(changes)
    assert not regression.compare_results(tmp_path / "new.json", old, tolerance=90)[0].fell


def test_check_counts_a_missing_system_as_a_fall(data: RetrievalDataset, tmp_path: Path) -> None:
    old = write(tmp_path / "old.json", data, [GOOD, replace(GOOD, dimensions=16)])
    new = write(tmp_path / "new.json", data, [GOOD])
    assert [change.fell for change in regression.compare_results(new, old)] == [False, True]


def test_check_refuses_other_queries(data: RetrievalDataset, tmp_path: Path) -> None:
    old = write(tmp_path / "old.json", data, [GOOD])
    new = write(tmp_path / "new.json", load_dataset(beir(tmp_path / "b2", 10)), [GOOD])
    with pytest.raises(InputError, match="answer different queries"):
        regression.compare_results(new, old)


def test_check_refuses_what_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(InputError, match="not a run record"):
        regression.compare_results(tmp_path / "x.json", tmp_path / "x.json")
    with pytest.raises(InputError, match="does not exist"):
        regression.compare_results(tmp_path / "x.json", tmp_path / "y.json")
