"""Sources on a command line and in TOML files."""

from pathlib import Path

import pytest

from opengte.data.reading import source_specs
from opengte.data.reading.column_mapping import ColumnMapping
from opengte.data.reading.source_specs import source_name as bare_name
from opengte.errors import InputError


def test_names_and_paths_of_a_command_line(tmp_path):
    (tmp_path / "x=y.jsonl").touch()
    found = source_specs.parse_source_arguments(
        ["a.jsonl", "web=b/", "web=c.csv.gz", f"{tmp_path}/x=y.jsonl"]
    )
    assert found == {
        "a": (Path("a.jsonl"),),
        "web": (Path("b"), Path("c.csv.gz")),
        "x=y": (tmp_path / "x=y.jsonl",),
    }
    assert bare_name(Path("data/c.csv.gz")) == "c"


def test_sources_in_a_file(tmp_path):
    (tmp_path / "s.toml").write_text(
        '[[source]]\npath = "a.jsonl"\nquery = "q"\npositive = ["p", "r"]\nweight = 2\n'
        '[[source]]\nname = "b"\npath = ["x", "y"]\nin_batch_negatives = false\n'
        'instruction = "Find"\ntemperature = 0.1\n'
    )
    first, second = source_specs.read_source_specs(tmp_path / "s.toml")
    assert (first.name, first.paths, first.weight) == ("a", (tmp_path / "a.jsonl",), 2)
    assert first.columns == ColumnMapping(query="q", positive=("p", "r"))
    assert (second.paths, second.in_batch_negatives) == ((tmp_path / "x", tmp_path / "y"), False)
    assert (second.instruction, second.temperature) == ("Find", 0.1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1", "must hold tables"),
        ("[[source]]\nquery = 'q'", "source 1 has no path"),
        ("[[source]]\npath = 'a'\nqery = 'q'", "has the key 'qery'.* Did you mean query"),
        ("[[source]]\npath = 'a'\nweight = -1", "weight=-1; expected 0 or more"),
        ("[[source]]\npath = 'a'\nweight = 'much'", "weight='much'; expected a float or int"),
        ("[[source]]\npath = 'a'\ntemperature = 0", "temperature=0; expected more than 0"),
        ("[[source]]\npath = 'a'\nquery = ['a', 'b']", "expected one column"),
        ("[[source]]\npath = 3", "path=3; expected a string or a list"),
        ("[[source]]\npath = 'a'\nname = ''", "name=''; expected a string"),
        ("[[", "is not TOML"),
    ],
)
def test_a_file_of_sources_that_is_wrong(tmp_path, content, message):
    (tmp_path / "s.toml").write_text(content)
    with pytest.raises(InputError, match=message):
        source_specs.read_source_specs(tmp_path / "s.toml")
