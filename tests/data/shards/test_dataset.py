"""Opening of prepared folders."""

import pytest

from opengte.data import Dataset
from opengte.data.preparation.prepare import prepare
from opengte.data.reading.sources import SourceSpec
from opengte.errors import InputError
from tests.support.training_data import (
    dataset,
    encoding,
    pairs,
    write_lines,
)


class Killed(BaseException):
    pass


def test_opening_what_is_not_finished_or_damaged(tmp_path):
    with pytest.raises(InputError, match="has no manifest.json"):
        Dataset.open(tmp_path)
    data = dataset(tmp_path, pairs(30))
    with pytest.raises(InputError, match="prepared with the tokenizer .* Prepare the data again"):
        Dataset.open(data.folder, "0" * 64)
    assert Dataset.open(data.folder).fingerprint == data.fingerprint
    (shard,) = (data.folder / "shards").iterdir()
    content = shard.read_bytes()
    changed = bytearray(content)
    changed[2000] ^= 1
    shard.write_bytes(changed)
    with pytest.raises(InputError, match="is not what was written: its SHA-256 differs"):
        Dataset.open(data.folder).check()
    shard.write_bytes(content[:-64])
    with pytest.raises(InputError, match="is not what was written|is cut off"):
        Dataset.open(data.folder)
    shard.write_bytes(b"\0" * 100)
    with pytest.raises(InputError, match="is not a whole shard"):
        Dataset.open(data.folder)
    shard.unlink()
    with pytest.raises(InputError, match="is missing. Prepare the data again"):
        Dataset.open(data.folder)
    (data.folder / "manifest.json").write_text('{"format": "other"}')
    with pytest.raises(InputError, match="its format is 'other'"):
        Dataset.open(data.folder)


def test_a_folder_that_was_interrupted_says_so(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", pairs(5))

    def kill(rows: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        prepare([SourceSpec("a", (path,))], tmp_path / "out", encoding(tmp_path), advance=kill)
    with pytest.raises(InputError, match="is not finished. Repeat"):
        Dataset.open(tmp_path / "out")
