"""`gte embed` without interruptions: what goes in, what comes out, what is said about it."""

import gzip
import json

import numpy as np
import pytest
from click.testing import CliRunner, Result

import opengte
from opengte.cli import main
from opengte.errors import CapabilityError
from tests.support.fake_models import WIDTH, FakeEncoder

parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(opengte, "Encoder", FakeEncoder, raising=False)
    monkeypatch.delenv("GTE_DEBUG", raising=False)
    monkeypatch.delenv("GTE_MODEL", raising=False)


def gte(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], input=stdin)


def lines(result: Result) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def expected(texts: list[str], **options) -> np.ndarray:
    vectors = FakeEncoder.load("minilm").embed(texts, **options).dense
    assert vectors is not None
    return vectors


def test_arguments_become_json_lines():
    result = gte("embed", "one two", "three")
    assert result.exit_code == 0
    rows = lines(result)
    assert [row["id"] for row in rows] == [1, 2]
    assert [row["token_count"] for row in rows] == [4, 3]
    assert result.stderr == "embedded 2 texts, 7 tokens (fake, fp32)\n"


def test_the_printed_numbers_give_back_the_same_float32():
    texts = [f"text number {n}" for n in range(50)]
    found = np.array([row["dense"] for row in lines(gte("embed", *texts))], dtype=np.float32)
    np.testing.assert_array_equal(found, expected(texts))


def test_stdin_is_a_text_a_line_and_empty_lines_count():
    result = gte("embed", "-", stdin="one\r\n\nthrée".encode())
    assert [row["id"] for row in lines(result)] == [1, 2, 3]
    np.testing.assert_allclose(lines(result)[2]["dense"], expected(["thrée"])[0], rtol=1e-6)


def test_stdin_as_json_lines():
    result = gte("embed", "-", "--input-format", "jsonl", stdin=b'{"text": "a", "id": "x"}\n"b"\n')
    assert [row["id"] for row in lines(result)] == ["x", 2]


def test_role_dimensions_and_instruction_reach_the_encoder():
    result = gte("embed", "--role", "query", "--dimensions", "4", "what")
    np.testing.assert_allclose(
        lines(result)[0]["dense"], expected(["what"], role="query", dimensions=4)[0], rtol=1e-6
    )


def test_sparse_and_token_vectors():
    row = lines(gte("embed", "--outputs", "tokens,sparse", "one two"))[0]
    assert "dense" not in row
    assert list(row["sparse"].values()) == [pytest.approx(1 / 3)] * 2
    assert np.array(row["tokens"]).shape == (2, 3)


def test_truncated_texts_are_marked_and_counted():
    result = gte("embed", "word " * 100, "short")
    assert lines(result)[0]["token_count"] == 16
    assert lines(result)[0]["truncated_from"] == 102
    assert "truncated_from" not in lines(result)[1]
    assert "; 1 truncated" in result.stderr
    assert result.exit_code == 0


def test_repaired_texts_are_counted():
    result = gte("embed", "-", "--input-format", "jsonl", stdin=b'{"text": "\\ud800"}')
    assert "1 with undecodable characters replaced" in result.stderr


def test_truncation_error_fails_the_long_text_alone():
    result = gte("embed", "--truncation", "error", "a", "word " * 100, "b")
    assert [row["id"] for row in lines(result)] == [1, 3]
    assert "error: argument:2: text 0 has 102 tokens" in result.stderr
    assert result.exit_code == 1


def test_bad_rows_are_reported_with_their_lines_and_the_rest_is_done(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(
        b'{"text": "good"}\n{"text": 5}\nnot json\n\n{"id": 1}\n[1]\n"caf\xe9"\n'
        b'{"text": "x", "id": null}\n{"text": "POISON"}\n{"text": "also good"}\n'
    )
    result = gte("embed", "--input", file)
    assert [row["id"] for row in lines(result)] == [1, 10]
    errors = [line.removeprefix(f"error: {file}:") for line in result.stderr.splitlines()]
    assert errors == [
        "2: field `text` is a number; expected a string",
        "3: is not JSON: Expecting value: line 1 column 1 (char 0)",
        "5: has no field `text`, only `id`; choose one with --text-field",
        "6: is an array; expected an object or a string",
        "7: is not UTF-8 (byte 5 of the line)",
        "8: field `id` is null; expected a string or an integer",
        "9: a text cannot be tokenised",
        "embedded 2 texts, 7 tokens (fake, fp32); 7 failed",
    ]
    assert result.exit_code == 1


def test_strict_stops_at_the_first_bad_row(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a"}\n{}\n{}\n')
    result = gte("embed", "--strict", "--window", "1", "--input", file)
    assert [row["id"] for row in lines(result)] == [1]
    assert result.stderr == f"error: {file}:2: has no field `text`; choose one with --text-field\n"
    assert result.exit_code == 1


def test_text_and_id_fields(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"body": "a", "key": "k1", "id": 9}\n{"body": "b", "id": 9}\n')
    result = gte("embed", "--input", file, "--text-field", "body", "--id-field", "key")
    assert [row["id"] for row in lines(result)] == ["k1"]
    assert f"{file}:2: has no field `key`, named by --id-field" in result.stderr


def test_gzip_and_a_byte_order_mark(tmp_path):
    file = tmp_path / "rows.jsonl.gz"
    file.write_bytes(gzip.compress(b'\xef\xbb\xbf{"text": "a"}\n'))
    assert len(lines(gte("embed", "--input", file))) == 1


def test_a_cut_gzip_file_is_an_error(tmp_path):
    file = tmp_path / "rows.txt.gz"
    file.write_bytes(gzip.compress(b"a\n" * 1000)[:-9])
    result = gte("embed", "--input", file, "--window", "10")
    assert result.exit_code == 1
    assert f"error: --input `{file}` is not a whole gzip file" in result.stderr


def test_npy_and_its_ids(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"text {n}\n" for n in range(25)))
    output = tmp_path / "vectors.npy"
    result = gte("embed", "--input", file, "--output", output, "--window", "10")
    assert result.exit_code == 0, result.stderr
    np.testing.assert_array_equal(np.load(output), expected([f"text {n}" for n in range(25)]))
    ids = [json.loads(row) for row in (tmp_path / "vectors.ids.jsonl").read_text().splitlines()]
    assert ids[24] == {"id": 25, "token_count": 4}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "texts.txt",
        "vectors.ids.jsonl",
        "vectors.npy",
    ]


def test_parquet_in_and_out(tmp_path):
    import pyarrow

    file, output = tmp_path / "texts.parquet", tmp_path / "vectors.parquet"
    texts = ["one", None, "word " * 20, "two"]
    parquet.write_table(pyarrow.table({"id": [7, 8, 9, 10], "text": texts}), file)
    result = gte(
        "embed", "--input", file, "-o", output, "--outputs", "dense,sparse,tokens", "--window", 2
    )
    assert f"error: {file}:2: field `text` is null; expected a string" in result.stderr
    assert result.exit_code == 1
    table = parquet.read_table(output)
    assert table["id"].to_pylist() == ["7", "9", "10"]
    assert table["truncated_from"].to_pylist() == [None, 22, None]
    dense = np.array(table["dense"].to_pylist(), dtype=np.float32)
    np.testing.assert_array_equal(dense, expected(["one", "word " * 20, "two"]))
    assert dict(table["sparse"].to_pylist()[0]).keys() == {
        *FakeEncoder.load("minilm").embed(["one"], outputs=("sparse",)).sparse[0]
    }
    assert [len(rows) for rows in table["tokens"].to_pylist()] == [1, 14, 1]
    assert parquet.ParquetFile(output).num_row_groups == 2
    assert table.schema.metadata[b"opengte.fingerprint"] == b"fake"


@pytest.mark.parametrize("suffix", [".jsonl", ".npy", ".parquet"])
def test_no_rows_give_an_empty_file(tmp_path, suffix):
    file, output = tmp_path / "empty.txt", tmp_path / f"out{suffix}"
    file.write_text("")
    assert gte("embed", "--input", file, "--output", output).exit_code == 0
    if suffix == ".npy":
        assert np.load(output).shape == (0, WIDTH)
    elif suffix == ".parquet":
        assert parquet.read_table(output).num_rows == 0
    else:
        assert output.read_text() == ""


def test_json_lines_files_are_what_stdout_gets(tmp_path):
    output = tmp_path / "out.jsonl"
    assert gte("embed", "a", "b", "--output", output).stdout == ""
    assert output.read_text() == gte("embed", "a", "b").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embed"], "Usage: "),
        (["embed", "a", "-"], "`-` (stdin) cannot be combined with other texts."),
        (["embed", "--outputs", "dense,magic", "a"], "'magic' is not one of dense, sparse, tokens"),
        (["embed", "--input", "no-such-file"], "File 'no-such-file' does not exist."),
        (["embed", "--dimensions", "0", "a"], "0 is not in the range x>=1."),
        (["embde"], "No such command 'embde'"),
    ],
)
def test_wrong_usage_exits_with_2(arguments, message):
    result = gte(*arguments)
    assert message in result.stderr
    assert result.exit_code == 2
    assert result.stdout == ""


def test_texts_from_two_places_are_wrong_usage(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("a")
    result = gte("embed", "text", "--input", file)
    assert "either from the command line or from --input FILE" in result.stderr
    assert result.exit_code == 2


def test_output_over_input_is_refused(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a"}\n')
    result = gte("embed", "--input", file, "--output", file)
    assert "--output and --input are the same file" in result.stderr
    assert file.read_text() == '{"text": "a"}\n'
    assert result.exit_code == 2


def test_an_unknown_suffix_names_the_known_ones(tmp_path):
    result = gte("embed", "a", "--output", tmp_path / "out.csv")
    assert "unknown suffix; expected one of .jsonl, .ndjson, .json, .npy, .parquet" in result.stderr
    assert result.exit_code == 1


def test_npy_takes_dense_vectors_only(tmp_path):
    result = gte("embed", "a", "--output", tmp_path / "out.npy", "--outputs", "sparse")
    assert ".npy holds dense vectors only. Write to .jsonl or .parquet" in result.stderr
    assert result.exit_code == 1


def test_a_wrong_option_is_not_taken_for_a_bad_row():
    result = gte("embed", "a", "b", "--dimensions", "99")
    assert result.stderr == "error: dimensions is 99, expected 1 to 8\n"
    assert result.exit_code == 1


def test_what_a_model_cannot_do_is_one_error(monkeypatch):
    def refuse(self, texts, **options):
        raise CapabilityError("`fake` takes no instructions")

    monkeypatch.setattr(FakeEncoder, "embed", refuse)
    result = gte("embed", "--instruction", "find", "a")
    assert result.stderr == "error: `fake` takes no instructions\n"
    assert result.exit_code == 1


def test_a_missing_column_names_those_there_are(tmp_path):
    import pyarrow

    file = tmp_path / "texts.parquet"
    parquet.write_table(pyarrow.table({"body": ["a"], "key": [1]}), file)
    result = gte("embed", "--input", file, "--text-field", "text")
    assert f"`{file}`: --text-field `text` is not a column" in result.stderr
    assert "the columns are `body`, `key`" in result.stderr
    assert result.exit_code == 1


FAQ = b'id,question,answer\n7,"hello, world",a\n8,"line one\nline two",b\n9,"hello, world",c\n'
QUESTIONS = ["hello, world", "line one\nline two", "hello, world"]


def test_a_table_is_read_as_a_table(tmp_path):
    file = tmp_path / "faq.csv"
    file.write_bytes(FAQ)
    result = gte("embed", "-i", file, "--text-field", "question")
    assert [row["id"] for row in lines(result)] == ["7", "8", "9"]
    np.testing.assert_allclose(
        [row["dense"] for row in lines(result)], expected(QUESTIONS), rtol=1e-6
    )
    result = gte("embed", "-i", file)
    assert result.exit_code == 1 and result.stdout == ""
    assert f"--input `{file}`: several columns can hold the texts" in result.stderr
    assert "`question`, `answer`. Choose one with --text-field" in result.stderr
    result = gte("embed", "-", "--input-format", "csv", stdin=b"n;question\n1;a\n2;b\n")
    np.testing.assert_allclose(
        [row["dense"] for row in lines(result)], expected(["a", "b"]), rtol=1e-6
    )
    result = gte("embed", "-i", file, "--input-format", "text")
    assert len(lines(result)) == 5  # each line, on request


@pytest.mark.parametrize("name", ["faq.csv", "faq.tsv", "faq.csv.gz"])
def test_distinct_rows_of_a_table_are_copied_as_they_are(tmp_path, name):
    file, out = tmp_path / name, tmp_path / f"out-{name}"
    content = b"\xef\xbb\xbf" + (FAQ if "csv" in name else b'id\tquestion\n1\tx\n2\t"y\n3\tx\n')
    file.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    result = gte("dedupe", "-i", file, "--text-field", "question", "-o", out, "--by", "exact")
    assert result.exit_code == 0, result.stderr
    written = gzip.decompress(out.read_bytes()) if name.endswith("gz") else out.read_bytes()
    assert written == content[: content.rindex(b"\n", 0, -1) + 1]  # all but the last row


def test_a_file_that_is_no_parquet_is_an_error(tmp_path):
    file = tmp_path / "texts.parquet"
    file.write_text("hello")
    result = gte("embed", "--input", file)
    assert f"error: --input `{file}` is not a whole Parquet file" in result.stderr
    assert result.exit_code == 1


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    result = gte("embed", "a", "--output", tmp_path / "out.parquet")
    assert "pip install 'opengte[parquet]'" in result.stderr
    assert result.exit_code == 1


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    result = gte("embed", "a", "--output", tmp_path / "no" / "out.jsonl")
    assert "error: No such file or directory: `" in result.stderr
    assert result.exit_code == 1
