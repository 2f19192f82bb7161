"""`embed_files` from Python: what it writes, reports and resumes."""

import io
import json

import numpy as np
import pytest

from opengte.bulk import InvalidRow, RowSource, embed_files
from opengte.errors import InputError
from tests.support.fake_models import FakeEncoder

ROWS = [f"text number {n}" for n in range(20)]


@pytest.fixture
def encoder():
    return FakeEncoder.load("minilm")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "rows.txt"
    path.write_text("\n".join(ROWS))
    return path


def interrupt_after(encoder, calls, monkeypatch):
    """Make the encoder fail as Ctrl-C does, after so many calls."""
    embed, done = encoder.embed, list[object]()

    def interrupted(texts, **options):
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(texts)
        return embed(texts, **options)

    monkeypatch.setattr(encoder, "embed", interrupted)


def test_it_returns_counts_and_writes_vectors(encoder, source, tmp_path):
    counts = embed_files(encoder, source, tmp_path / "out.npy")
    assert (counts.seen, counts.written, counts.failed) == (20, 20, 0)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), encoder.embed(ROWS).dense)
    assert {path.name for path in tmp_path.iterdir()} == {"rows.txt", "out.npy", "out.ids.jsonl"}


def test_an_interrupted_call_is_resumed_by_repeating_it(encoder, source, tmp_path, monkeypatch):
    output, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    resumed, progress = list[int](), list[int]()
    embed_files(encoder, source, whole, window=4)
    with monkeypatch.context() as patch:
        interrupt_after(encoder, 3, patch)
        with pytest.raises(KeyboardInterrupt):
            embed_files(encoder, source, output, window=4)
    assert not output.exists()
    counts = embed_files(
        encoder,
        source,
        output,
        window=4,
        on_progress=progress.append,
        on_resume=lambda done: resumed.append(done.seen),
    )
    assert resumed == [8]
    assert progress == [8, 4, 4, 4]
    assert counts.written == 20
    assert output.read_bytes() == whole.read_bytes()


def test_invalid_rows_are_reported_and_the_others_embedded(encoder, tmp_path):
    invalid, source = list[InvalidRow](), RowSource.from_texts(["a", "POISON", "b"])
    counts = embed_files(encoder, source, tmp_path / "out.jsonl", on_invalid=invalid.append)
    assert invalid == [InvalidRow(2, "a text cannot be tokenised")]
    assert (counts.written, counts.failed) == (2, 1)


def test_strict_raises_for_the_first_invalid_row(encoder, tmp_path):
    source = RowSource.from_texts(["a", "POISON"])
    with pytest.raises(InputError, match="argument:2: a text cannot be tokenised"):
        embed_files(encoder, source, tmp_path / "out.jsonl", strict=True)


def test_a_stream_gets_json_lines(encoder, source):
    stream, progress = io.BytesIO(), list[int]()
    embed_files(encoder, source, stream, window=8, on_progress=progress.append)
    assert [json.loads(line)["id"] for line in stream.getvalue().splitlines()] == [*range(1, 21)]
    assert progress == [8, 8, 4]


def test_a_stream_cannot_be_resumed_and_says_so(encoder, tmp_path, monkeypatch):
    output, warnings = tmp_path / "out.jsonl", list[str]()

    def rows():
        return RowSource.from_stream(io.BytesIO(b"one\ntwo\n"))

    with monkeypatch.context() as patch:
        interrupt_after(encoder, 2, patch)
        with pytest.raises(KeyboardInterrupt):
            embed_files(encoder, rows(), output, window=1)
    embed_files(encoder, rows(), output, window=1, on_warning=warnings.append)
    assert warnings == ["standard input cannot be continued: starting again"]
    assert output.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": ["states"]}, "outputs is .'states',., expected some of dense, sparse, tokens"),
        ({"outputs": []}, "expected some of"),
        ({"dimensions": 99}, "dimensions is 99"),
    ],
)
def test_wrong_options_are_errors(encoder, source, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        embed_files(encoder, source, tmp_path / "out.jsonl", **options)


def test_the_input_is_not_overwritten(encoder, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n')
    with pytest.raises(InputError, match="is the input"):
        embed_files(encoder, path, path)
    assert path.read_text() == '{"text": "a"}\n'
