"""Plans and runs on small files: what is written, what is computed, and what goes wrong."""

import errno
import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from opengte.bulk.shards import places, verify
from opengte.bulk.shards.columns import dense_vectors
from opengte.bulk.shards.plan import BulkPlan
from opengte.bulk.shards.status import run_status
from opengte.errors import EngineError, InputError
from tests.support import bulk
from tests.support.bulk import CountingEncoder
from tests.support.kb import WordEncoder


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "binary"])
def test_every_row_has_the_vector_of_its_text(tmp_path, dtype):
    rows = bulk.write_inputs(tmp_path / "in")
    made = bulk.plan(tmp_path / "in", tmp_path / "out", dtype=dtype, keep=("year",))
    report = bulk.run(made)
    table = bulk.written(made)
    assert made.totals.shards > 10
    assert table["id"].to_pylist() == list(rows)
    assert [(str(year)) for year in table["year"].to_pylist()] == [str(y) for _, y in rows.values()]
    wanted = WordEncoder.load("minilm").embed([text for text, _ in rows.values()])
    found = dense_vectors(table, 8, dtype)
    if dtype == "binary":
        np.testing.assert_array_equal(found > 0, wanted.dense > 0)
    else:
        atol = {"float32": 0, "float16": 1e-3, "int8": 5e-3}[dtype]
        np.testing.assert_allclose(found, wanted.dense, atol=atol)
    assert report.counts.written == len(rows)
    assert report.counts.truncated == len(wanted.truncated) == made.totals.truncated
    cut = {one.index: one.found for one in wanted.truncated}
    assert table["truncated_from"].to_pylist() == [cut.get(n) for n in range(len(rows))]


def test_sparse_vectors_and_the_footer(tmp_path):
    rows = bulk.write_inputs(tmp_path / "in")
    made = bulk.plan(tmp_path / "in", tmp_path / "out", outputs=("sparse",))
    bulk.run(made)
    wanted = WordEncoder.load("minilm").embed(
        [text for text, _ in rows.values()], outputs=["sparse"]
    )
    found = [dict(row) for row in bulk.written(made)["sparse"].to_pylist()]
    assert [row.keys() for row in found] == [row.keys() for row in wanted.sparse]
    metadata = pq.read_metadata(made.place.path("shards/0000/000000.parquet")).metadata
    assert metadata[b"opengte.fingerprint"] == b"fake"
    assert json.loads(metadata[b"opengte.counts"])["failed"] == 0


def test_lance_and_gzip_inputs(tmp_path):
    import gzip

    lancedb = pytest.importorskip("lancedb")
    texts = [f"text {n}" for n in range(40)]
    (tmp_path / "in").mkdir()
    table = pa.table({"id": [f"l{n}" for n in range(40)], "text": texts})
    lancedb.connect(str(tmp_path / "in")).create_table("rows", table)
    lines = "".join(
        json.dumps({"id": f"g{n}", "text": text}) + "\n" for n, text in enumerate(texts)
    )
    (tmp_path / "in/more.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    made = bulk.plan(tmp_path / "in", tmp_path / "out")
    bulk.run(made)
    found = bulk.written(made)["id"].to_pylist()
    assert found == [f"g{n}" for n in range(40)] + [f"l{n}" for n in range(40)]


def test_equal_texts_are_computed_once_over_all_shards(tmp_path):
    rows = bulk.write_inputs(tmp_path / "in", rows=150)
    made = bulk.plan(tmp_path / "in", tmp_path / "out")
    report = bulk.run(made, load=CountingEncoder.load)
    computed = CountingEncoder.texts[1:]  # the first is the worker's own
    distinct = {text for text, _ in rows.values()}
    assert sorted(computed) == sorted(distinct)
    assert made.totals.distinct == report.counts.computed == len(distinct) < len(rows)


def test_a_second_run_does_nothing(tmp_path):
    bulk.write_inputs(tmp_path / "in")
    made = bulk.plan(tmp_path / "in", tmp_path / "out")
    first = bulk.run(made)

    def refuse(model, **options):
        raise AssertionError("no model is needed")

    again = bulk.run(BulkPlan.open(str(tmp_path / "out")), load=refuse)
    assert again.was_done
    assert again.counts == first.counts
    assert bulk.plan(tmp_path / "in", tmp_path / "out").place.url == made.place.url
    Path(made.place.path("shards/0000/000001.parquet")).unlink()
    assert not bulk.run(made).was_done
    assert run_status(made).state == "complete"


def test_a_run_on_changed_inputs_computes_what_changed(tmp_path):
    bulk.write_inputs(tmp_path / "in")
    before = bulk.plan(tmp_path / "in", tmp_path / "out")
    bulk.run(before)
    kept = bulk.contents(before)
    with (tmp_path / "in/b.jsonl").open("a") as file:
        file.write(json.dumps({"id": "new", "text": "a new text"}) + "\n")
    after = bulk.plan(tmp_path / "in", tmp_path / "out")
    assert after.totals.earlier == after.totals.distinct - 1
    bulk.run(after, load=CountingEncoder.load)
    assert CountingEncoder.texts[1:] == ["a new text"]
    assert bulk.contents(before) == kept
    old, new = bulk.written(before), bulk.written(after)
    places = [new["id"].to_pylist().index(name) for name in old["id"].to_pylist()]
    assert new["dense"].take(places).to_pylist() == old["dense"].to_pylist()


def test_another_model_writes_beside(tmp_path):
    bulk.write_inputs(tmp_path / "in")
    one = bulk.plan(tmp_path / "in", tmp_path / "out")
    bulk.run(one)
    kept = bulk.contents(one)
    two = bulk.plan(
        tmp_path / "in", tmp_path / "out", encoder=WordEncoder.load("other"), model="other"
    )
    assert two.totals.earlier == 0
    bulk.run(two)
    assert bulk.contents(one) == kept
    assert BulkPlan.open(str(tmp_path / "out")).options.model == "other"
    with pytest.raises(EngineError, match="its files changed. Plan again"):
        bulk.run(
            bulk.plan(tmp_path / "in", tmp_path / "x"),
            load=lambda model, **o: WordEncoder.load("other"),
        )


def test_rows_that_fail_are_set_aside(tmp_path):
    (tmp_path / "in").mkdir()
    rows = [{"id": n, "text": "POISON" if n in (7, 31) else f"text {n}"} for n in range(40)]
    lines = [json.dumps(row) for row in rows]
    lines[11:11] = ["not json", json.dumps({"id": "x", "text": 5})]
    (tmp_path / "in/rows.jsonl").write_text("\n".join(lines))
    made = bulk.plan(tmp_path / "in", tmp_path / "out")
    report = bulk.run(made)
    assert (report.counts.rows, report.counts.written, report.counts.failed) == (42, 38, 4)
    good = [str(row["id"]) for row in rows if row["text"] != "POISON"]
    assert bulk.written(made)["id"].to_pylist() == good
    names = sorted(name for name in bulk.contents(made) if name.startswith("failed"))
    found = [json.loads(x) for n in names for x in bulk.contents(made)[n].splitlines()]
    assert [(row["row"], row["id"]) for row in found] == [
        (8, "7"),
        (12, None),
        (13, None),
        (34, "31"),
    ]
    assert found[0]["reason"] == "a text cannot be tokenised"
    assert found[2]["reason"] == "field `text` is a number; expected a string"
    assert dict(run_status(made).reasons)["a text cannot be tokenised"] == 2
    again = bulk.plan(tmp_path / "in", tmp_path / "stops", shard_rows=5)
    with pytest.raises(InputError, match=r"of 42 rows failed, more than the share 0.05"):
        bulk.run(again, max_failed=0.05)


def test_a_row_that_ends_its_worker_is_found(tmp_path):
    rows = bulk.write_inputs(tmp_path / "in")
    made = bulk.plan(tmp_path / "in", tmp_path / "out", shard_rows=10)
    bad = {3: 4, 5: 0}  # row of a shard

    def ends(task):
        row = bad.get(task.shard.number)
        low, high = task.only or (0, task.shard.rows)
        return not task.for_others and row is not None and low <= row < high and not task.skip

    report = bulk.run(made, ends=ends)
    assert report.counts.failed == 2
    assert report.counts.written == len(rows) - 2
    assert report.failed_shards == []
    reasons = dict(run_status(made).reasons)
    assert reasons == {"ends its worker (signal 9) each time": 2}
    assert report.ended_workers > 4


def test_a_shard_that_ends_its_worker_whatever_is_left_out_fails_alone(tmp_path):
    bulk.write_inputs(tmp_path / "in")
    made = bulk.plan(tmp_path / "in", tmp_path / "out")
    report = bulk.run(
        made, ends=lambda task: task.shard.number == 2 and task.only is None and not task.for_others
    )
    assert [number for number, _ in report.failed_shards] == [2]
    assert "though no single row does" in report.failed_shards[0][1]
    assert report.shards == made.totals.shards - 1
    assert run_status(made).state == "stopped"


def test_two_drivers_at_once(tmp_path):
    bulk.write_inputs(tmp_path / "in", rows=240)
    alone = bulk.plan(tmp_path / "in", tmp_path / "alone")
    bulk.run(alone)
    made = bulk.plan(tmp_path / "in", tmp_path / "out")
    drivers = [threading.Thread(target=bulk.run, args=(made,)) for _ in range(2)]
    for one in drivers:
        one.start()
    for one in drivers:
        one.join()
    assert bulk.contents(made) == bulk.contents(alone)


def test_a_full_disk(tmp_path, monkeypatch):
    bulk.write_inputs(tmp_path / "in")
    alone = bulk.plan(tmp_path / "in", tmp_path / "alone")
    bulk.run(alone)
    made = bulk.plan(tmp_path / "in", tmp_path / "out")
    count = 0

    def flush(descriptor):
        nonlocal count
        count += 1
        if count > 4:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(places.os, "fsync", flush)
        with pytest.raises(OSError, match="No space left"):
            bulk.run(made)
    assert not list(tmp_path.rglob("*.part"))
    bulk.run(made)
    assert bulk.contents(made) == bulk.contents(alone)


def test_an_input_that_changed_after_it_was_planned(tmp_path):
    bulk.write_inputs(tmp_path / "in")
    made = bulk.plan(tmp_path / "in", tmp_path / "out")
    text = (tmp_path / "in/b.jsonl").read_text()
    (tmp_path / "in/b.jsonl").write_text(text.replace('"year": 40', '"id": "z"'))
    report = bulk.run(made)
    assert report.failed_shards
    assert "changed after it was planned" in report.failed_shards[0][1]


def test_verify(tmp_path):
    bulk.write_inputs(tmp_path / "in")
    made = bulk.plan(tmp_path / "in", tmp_path / "out", dtype="int8")
    bulk.run(made)
    report = verify.verify_run(made, bulk.settings(made), one_in=1)
    assert report.sound
    assert (report.rows, report.sampled, report.duplicates) == (90, 90, 0)
    assert report.cosine_least > 0.999
    shard = Path(made.place.path("shards/0000/000003.parquet"))
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    Path(made.place.path("shards/0000/000005.parquet")).unlink()
    report = verify.verify_run(made, bulk.settings(made))
    assert (report.damaged, report.missing, report.sound) == ([3], [5], False)
    twice = replace(made.options, id_field="title")
    double = bulk.plan(tmp_path / "in", tmp_path / "out", id_field=twice.id_field)
    bulk.run(double)
    assert verify.verify_run(double, bulk.settings(double)).duplicates == 87


def test_wrong_options(tmp_path):
    bulk.write_inputs(tmp_path / "in")
    with pytest.raises(InputError, match="has no input: expected .parquet"):
        bulk.plan(tmp_path / "none", tmp_path / "out")
    with pytest.raises(InputError, match="--keep `colour` is not a column of"):
        bulk.plan(tmp_path / "in", tmp_path / "out", keep=("colour",))
    with pytest.raises(InputError, match="expected some of dense, sparse"):
        bulk.plan(tmp_path / "in", tmp_path / "out", outputs=("tokens",))
    with pytest.raises(InputError, match="has no plan; make one"):
        BulkPlan.open(str(tmp_path / "out"))
    with pytest.raises(InputError, match="no file system that fsspec knows"):
        BulkPlan.open("nowhere://out")
