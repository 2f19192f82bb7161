"""The commands besides `embed`, and what all of them share: help, exit status, errors."""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import opengte
from opengte import checkpoint, hub
from opengte.cli import COMMANDS, main, manual
from opengte.cli.common.groups import LazyGroup
from opengte.errors import FallbackWarning, NotFoundError, OfflineError
from opengte.hub import CachedModel, ModelLocation
from opengte.published_models import PUBLISHED_MODELS
from tests.support.fake_models import CARD, FakeEncoder, FakeReranker

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(opengte, "Encoder", FakeEncoder, raising=False)
    monkeypatch.setattr(opengte, "Reranker", FakeReranker, raising=False)
    for variable in ("GTE_DEBUG", "GTE_MODEL", "GTE_RERANKER"):
        monkeypatch.delenv(variable, raising=False)


def gte(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], input=stdin)


def process(code: str, *arguments: str, **options) -> subprocess.CompletedProcess:
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


HELP = """
import sys
from opengte.cli import main
try:
    main([*sys.argv[1:], "--help"])
except SystemExit as done:
    print(*sys.modules, file=sys.stderr)
    sys.exit(done.code)
"""


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_loads_nothing_heavy(command):
    done = process(HELP, *command)
    assert done.returncode == 0, done.stderr
    heavy = {"torch", "numpy", "huggingface_hub", "tokenizers", "tqdm", "pyarrow"}
    assert not heavy & set(done.stderr.split())


ALL = dict(manual.commands("gte", main))
LAZY_GROUPS = {name: one for name, one in ALL.items() if isinstance(one, LazyGroup)}


@pytest.mark.parametrize("group", LAZY_GROUPS)
def test_help_of_a_group_imports_none_of_its_commands(group):
    done = process(HELP, *group.split()[1:])
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.split())
    table = LAZY_GROUPS[group].table
    modules = {f"opengte.cli.{place.split(':')[0]}" for place, _ in table.values()}
    assert not loaded & modules
    packages = {f"opengte.{name}" for name in ("bulk", "search", "serve", "train", "evaluate")}
    assert not loaded & packages


@pytest.mark.parametrize("group", LAZY_GROUPS)
def test_a_group_lists_its_commands_as_they_describe_themselves(group):
    for name, (_, line) in LAZY_GROUPS[group].table.items():
        command = ALL[f"{group} {name}"]
        assert command.name == name
        assert command.get_short_help_str(limit=999) == line


@pytest.mark.parametrize("name", set(ALL) - {"gte"})
def test_every_command_has_a_description_and_examples(name):
    command = ALL[name]
    assert f"gte {command.name}".split()[-1] == name.split()[-1]
    assert 15 < len(command.get_short_help_str(limit=999)) <= 72
    assert command.help is not None
    assert command.help.split("Examples:\n")[1].count(name) >= 2
    options = [one for one in command.params if isinstance(one, click.Option)]
    assert not [one.name for one in options if not one.help]


@pytest.mark.parametrize("name", set(ALL) - {"gte"})
def test_examples_use_options_that_exist(name):
    for line in str(ALL[name].help).split("Examples:\n")[1].splitlines():
        named = [one for one in ALL if line.strip().startswith(f"{one} ")]
        command = ALL[max(named, key=len, default=name)]
        known = {o for one in command.params for o in (*one.opts, *one.secondary_opts)}
        used = {word for word in line.split() if word.startswith("-") and word != "-"}
        assert used <= known or isinstance(command, click.Group), line


def test_the_manual_is_up_to_date():
    written = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    assert written == manual.manual(), "docs/cli.md is stale: run `make docs`"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "examples/README.md"])
def test_links_between_pages_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert links
    assert not [link for link in links if not (ROOT / page).parent.joinpath(link).exists()]


def test_the_readme_names_every_command():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [
        name for name in COMMANDS if f"`{name}`" not in text and f"`gte {name}`" not in text
    ]


def test_version():
    assert gte("--version").stdout == f"gte, version {opengte.__version__}\n"


def test_similarity_compares_the_first_text_with_the_others():
    result = gte("similarity", "red cat", "red cat", "blue dog")
    first, second = result.stdout.splitlines()
    assert first == " 1.0000  red cat"
    assert second.endswith("  blue dog")
    assert result.stderr == ""
    assert result.exit_code == 0


def test_similarity_of_all_pairs_as_json():
    rows = [
        json.loads(line)
        for line in gte("similarity", "--all", "--json", *"abc").stdout.split("\n")
        if line
    ]
    assert [(row["a"], row["b"]) for row in rows] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert all(-1 <= row["similarity"] <= 1 for row in rows)


@pytest.mark.parametrize("command", ["embed", "similarity"])
def test_a_missing_instruction_is_reported(monkeypatch, command):
    def load(model, **settings):
        encoder = FakeEncoder(CARD)
        encoder.counters.missing_instructions = 2
        return encoder

    monkeypatch.setattr(FakeEncoder, "load", load)
    result = gte(command, "a", "b")
    assert "note: no --instruction given, using the model's default instruction\n" in result.stderr


def test_similarity_needs_two_texts():
    result = gte("similarity", "one")
    assert "Give at least two texts." in result.stderr
    assert result.exit_code == 2


def test_similarity_counts_truncated_texts():
    assert gte("similarity", "word " * 99, "b").stderr == "1 of 2 texts truncated\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "cats.txt").write_text("red cat eats\n\n" + "filler words go on here. " * 9)
    (tmp_path / "dogs.md").write_text("blue dogs")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    return tmp_path


def test_search_prints_rank_score_file_and_passage(folder):
    result = gte("search", "red cat eats", folder, "--passage-tokens", "3")
    assert result.exit_code == 0, result.output
    head, passage = result.stdout.splitlines()[:2]
    assert head.split()[0] == "1"
    assert head.endswith(f"  {folder / 'cats.txt'}")
    assert passage.strip() == "red cat eats"
    assert result.stderr.startswith("searched 2 documents, ")
    assert result.stderr.endswith("(fake, fp32); 1 files skipped (not a known kind of text)\n")


def test_search_as_json(folder):
    result = gte("search", "red cat eats", folder, "--json", "--top", "1", "--passage-tokens", "3")
    (row,) = [json.loads(line) for line in result.stdout.splitlines()]
    assert row.pop("score") == pytest.approx(0.6, abs=0.41)
    assert row == {
        "rank": 1,
        "file": str(folder / "cats.txt"),
        "line": None,
        "start": 0,
        "end": 12,
        "passage": "red cat eats",
    }


def test_search_reports_what_failed_and_does_the_rest(folder):
    (folder / "rows.jsonl").write_text('{"text": "green fish"}\nbroken\n')
    result = gte("search", "green fish", folder)
    assert result.exit_code == 1
    assert f"error: {folder / 'rows.jsonl'}:2: not JSON: " in result.stderr
    assert result.stderr.endswith("; 1 failed\n")
    assert f"{folder / 'rows.jsonl'}:1" in result.stdout


def test_search_without_any_text_is_an_error(tmp_path):
    result = gte("search", "query", tmp_path)
    assert result.exit_code == 1
    assert f"error: no text found in `{tmp_path}`" in result.stderr


def test_search_in_a_path_that_is_not_there_is_wrong_usage():
    result = gte("search", "query", "no-such-path")
    assert "Path 'no-such-path' does not exist" in result.stderr
    assert result.exit_code == 2


def test_rerank_orders_documents():
    result = gte("rerank", "-m", "fake", "red cat", "blue dog", "red cat", "red dog")
    assert [line.split()[2:] for line in result.stdout.splitlines()] == [
        ["2", "red", "cat"],
        ["3", "red", "dog"],
        ["1", "blue", "dog"],
    ]
    assert result.exit_code == 0


def test_rerank_a_file_as_json(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"id": "x", "text": "dog"}\n{}\n{"id": "y", "text": "cat"}\n')
    result = gte("rerank", "-m", "fake", "cat", "--input", file, "--json", "--top", "1")
    assert json.loads(result.stdout) == {"rank": 1, "score": 1.0, "id": "y", "text": "cat"}
    assert f"error: {file}:2: has no field `text`" in result.stderr
    assert result.stderr.endswith("ranked 2 documents; 1 failed\n")
    assert result.exit_code == 1


def test_rerank_has_no_default_model():
    result = gte("rerank", "query", "document")
    assert "Missing option '-m' / '--model'" in result.stderr
    assert result.exit_code == 2


@pytest.fixture
def read(monkeypatch):
    """Names that read_checkpoint was asked for; it answers with the fake's card."""
    asked = []

    class Checkpoint:
        card = CARD

    def read(model, **options):
        asked.append((model, options))
        return Checkpoint()

    monkeypatch.setattr(checkpoint, "read_checkpoint", read)
    return asked


def test_info_prints_the_card(read):
    result = gte("info", "some/model", "--revision", "v1")
    lines = dict(line.split(None, 1) for line in result.stdout.splitlines() if "  " in line)
    assert lines["dimension"] == "8"
    assert lines["prompts"] == "query: 'ask: ', document: 'say: '"
    assert lines["licence"] == "-"
    assert "engine" not in lines
    assert read == [("some/model", {"revision": "v1", "offline": None})]


def test_info_as_json_of_the_default_model(read):
    row = json.loads(gte("info", "--json", "--offline").stdout)
    card = asdict(CARD)
    assert row["fingerprint"] == "fake"
    assert set(card) - set(row) == {"engine", "precision", "device", "threads"}
    assert read == [(hub.DEFAULT_MODEL, {"revision": None, "offline": True})]


def test_models_lists_the_known_ones():
    result = gte("models")
    assert all(known.id in result.stdout for known in PUBLISHED_MODELS)
    headings = [line for line in result.stdout.splitlines() if line.startswith(("From", "Rer"))]
    assert headings[0] == "From a package index, without the Hugging Face Hub"
    assert headings[-1] == "Rerankers, from the Hub"
    assert len(headings) == len(set(headings)) > 5
    assert "minilm (sentence-transformers/all-MiniLM-L6-v2)" in result.stdout
    rows = [json.loads(line) for line in gte("models", "--json").stdout.splitlines()]
    assert [row["model"] for row in rows] == [known.id for known in PUBLISHED_MODELS]
    assert [row["alias"] for row in rows if row["alias"]] == list(hub.ALIASES)


def test_models_on_this_machine(monkeypatch):
    entry = CachedModel("org/name", Path("/cache/x"), "hub org/name@abc", 3 * 2**20)
    monkeypatch.setattr(hub, "cached_models", lambda: [entry])
    assert gte("models", "--cached").stdout.splitlines()[1].split() == [
        *["org/name", "3,145,728", "hub", "org/name@abc", "/cache/x"]
    ]
    assert json.loads(gte("models", "--cached", "--json").stdout)["folder"] == "/cache/x"
    monkeypatch.setattr(hub, "cached_models", list)
    result = gte("models", "--cached")
    assert (result.stdout, result.exit_code) == ("", 0)
    assert "no models on this machine" in result.stderr


def test_pull_prints_the_folder(monkeypatch):
    location = ModelLocation("minilm", Path("/cache/minilm"), "pypi x 1", "1")
    monkeypatch.setattr(hub, "fetch_model", lambda model, **options: location)
    result = gte("pull")
    assert result.stdout == "/cache/minilm\n"
    assert result.stderr == "minilm: pypi x 1\n"
    assert json.loads(gte("pull", "--json").stdout) == {
        "model": "minilm",
        "folder": "/cache/minilm",
        "source": "pypi x 1",
        "revision": "1",
    }


def fail_with(error: BaseException) -> Any:
    def fail(*arguments, **options):
        raise error

    return fail


def test_an_error_is_a_line_a_hint_and_status_1(monkeypatch):
    error = OfflineError("`org/name` is not in the cache and offline mode is on")
    error.add_note("look at `gte models --cached`")
    monkeypatch.setattr(hub, "fetch_model", fail_with(error))
    result = gte("pull", "org/name")
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "error: `org/name` is not in the cache and offline mode is on",
        "hint: look at `gte models --cached`",
    ]
    assert result.exit_code == 1


def test_an_unknown_model_gets_a_hint(monkeypatch):
    monkeypatch.setattr(hub, "fetch_model", fail_with(NotFoundError("no such model `x/y`")))
    assert gte("pull", "x/y").stderr.splitlines() == [
        "error: no such model `x/y`",
        "hint: `gte models` lists the known models",
    ]


def test_debugging_keeps_the_traceback(monkeypatch):
    error = OfflineError("offline")
    monkeypatch.setattr(hub, "fetch_model", fail_with(error))
    monkeypatch.setenv("GTE_DEBUG", "1")
    assert gte("pull").exception is error


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(hub, "fetch_model", fail_with(ZeroDivisionError()))
    assert isinstance(gte("pull").exception, ZeroDivisionError)


def test_warnings_are_lines_on_stderr_each_once(monkeypatch):
    import warnings

    def fetch(model, **options):
        for _ in range(3):
            warnings.warn("the network failed", FallbackWarning, stacklevel=1)
        return ModelLocation("x", Path("/x"), "hub x", None)

    monkeypatch.setattr(hub, "fetch_model", fetch)
    assert gte("pull").stderr == "warning: the network failed\nx: hub x\n"


def test_control_c_exits_with_130_and_no_traceback(monkeypatch):
    monkeypatch.setattr(hub, "fetch_model", fail_with(KeyboardInterrupt()))
    result = gte("pull")
    assert (result.stderr, result.exit_code) == ("interrupted\n", 130)


FAKE = "import runpy; runpy.run_module('tests.support.fake_models', run_name='__main__')"


@pytest.mark.parametrize("arguments", [["embed", *["word"] * 3000], ["similarity", "a", "b"]])
def test_a_reader_that_goes_away_ends_it_quietly(arguments):
    read_end, write_end = os.pipe()
    os.close(read_end)
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    with subprocess.Popen(
        [sys.executable, "-c", FAKE, *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        os.close(write_end)
        _, errors = running.communicate(timeout=60)
    assert errors == ""
    assert running.returncode == 141


def test_a_terminal_that_knows_no_unicode_still_gets_an_answer():
    done = subprocess.run(
        [sys.executable, "-c", FAKE, "similarity", "a", "日"],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(b"\\u65e5\n")
