import json
from pathlib import Path

import pytest

from opengte.errors import CapabilityError, CheckpointError, InputError
from opengte.tokenization import Prompts, read_prompts
from opengte.types import Role

E5 = Prompts(query="query: ", document="passage: ", plain="query: ")
QWEN = Prompts(
    template="Instruct: {instruction}\nQuery: ",
    default_instruction="Given a web search query, retrieve relevant passages",
)


@pytest.mark.parametrize(
    ("role", "expected"), [(None, "query: "), ("query", "query: "), ("document", "passage: ")]
)
def test_prompts_by_role(role: Role | None, expected: str) -> None:
    assert E5.prefix(role, None) == expected
    assert not E5.missing_instruction(role, None)


def test_instruction_goes_through_the_template() -> None:
    asked = "Instruct: Find duplicates\nQuery: "
    assert QWEN.prefix("query", "Find duplicates") == asked
    assert QWEN.prefix(None, "Find duplicates") == asked
    assert QWEN.prefix("document", None) == ""
    assert QWEN.prefix(None, None) == ""


def test_instruction_is_taken_literally() -> None:
    assert QWEN.prefix("query", "{0} {x} %s \\1") == "Instruct: {0} {x} %s \\1\nQuery: "


def test_default_instruction_is_used_and_reported() -> None:
    expected = "Instruct: Given a web search query, retrieve relevant passages\nQuery: "
    assert QWEN.prefix("query", None) == expected
    assert QWEN.missing_instruction("query", None)
    assert not QWEN.missing_instruction("query", "Find duplicates")
    assert not QWEN.missing_instruction("document", None)
    assert not QWEN.missing_instruction(None, None)


def test_query_prompt_stands_in_for_a_default_instruction() -> None:
    prompts = Prompts(query="Ask: ", template="Instruct: {instruction}\nQuery:")
    assert prompts.prefix("query") == "Ask: "
    assert prompts.prefix("query", "Do") == "Instruct: Do\nQuery:"


def test_instruction_for_a_model_that_takes_none() -> None:
    with pytest.raises(CapabilityError, match=r"'Do it'.* takes none.*'query: '"):
        E5.prefix("query", "Do it")


def test_instruction_for_a_document() -> None:
    with pytest.raises(InputError, match="'Do it'.*query side only"):
        QWEN.prefix("document", "Do it")


def test_empty_instruction() -> None:
    with pytest.raises(InputError, match="' ' is empty; .*Pass None"):
        QWEN.prefix("query", " ")


def test_unknown_role() -> None:
    with pytest.raises(InputError, match="role='passage' is not known"):
        E5.prefix("passage", None)  # type: ignore[arg-type]


@pytest.mark.parametrize("template", ["Instruct: ", "{instruction} {instruction}"])
def test_template_without_its_place(template: str) -> None:
    with pytest.raises(InputError, match="expected once"):
        Prompts(template=template)


def write(folder: Path, settings: object) -> Path:
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return folder


def test_prompts_of_a_folder(tmp_path: Path) -> None:
    prompts = {"query": "query: ", "s2p_query": "Instruct: a\nQuery: ", "document": ""}
    assert read_prompts(tmp_path) == {}
    assert read_prompts(write(tmp_path, {"prompts": prompts})) == prompts
    assert read_prompts(write(tmp_path, {"prompts": None})) == {}
    settings = {"prompts": prompts, "default_prompt_name": "query"}
    assert read_prompts(write(tmp_path, settings)) == {**prompts, "": "query: "}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": ["query: "]}, "expected names and their texts"),
        ({"prompts": {"query": 3}}, "'query'=3; expected a string"),
        ({"prompts": {"a": "b"}, "default_prompt_name": "query"}, r"not among its prompts \['a'\]"),
        ([], "holds a JSON list; expected an object"),
    ],
)
def test_broken_prompts_of_a_folder(tmp_path: Path, settings: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read_prompts(write(tmp_path, settings))
    assert "config_sentence_transformers.json" in str(caught.value)
