"""Settings from flags, variables and files."""

import json
import tomllib

import pytest
from click.testing import CliRunner

from opengte.cli import main
from opengte.errors import InputError
from opengte.serve.config import loading
from opengte.serve.config.settings import (
    SETTINGS,
    ServerSettings,
    flag_name,
    setting_info,
    variable_name,
)


def gte(*arguments, env=None):
    return CliRunner().invoke(main, list(map(str, arguments)), env=env)


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "server.toml"
        path.write_text(text)
        return path

    return write


def test_a_flag_wins_over_a_variable_that_over_the_file_and_that_over_the_default(file):
    path = file("port = 1\nworkers = 2\nhost = '::1'\n")
    environment = {"OPENGTE_PORT": "3", "OPENGTE_WORKERS": "4"}
    loaded = loading.load_settings({"port": 5}, environment, path)
    assert (loaded.settings.port, loaded.settings.workers, loaded.settings.host) == (5, 4, "::1")
    assert loaded.settings.log_level == "info"
    assert loaded.origins == {"port": "--port", "workers": "OPENGTE_WORKERS", "host": str(path)}


SAMPLES = {"price": "minilm=0.02"}  # of settings that take no word


@pytest.mark.parametrize("text", ["x", "1.2345", "-1", "minilm=", "=", "1e3"])
def test_a_price_has_up_to_three_decimals(text):
    with pytest.raises(InputError, match="up to three decimals"):
        ServerSettings(price=(text,))


def test_the_price_of_a_model_goes_before_that_of_all():
    settings = ServerSettings(price=("rank=0.05", "0.02"))
    assert [str(settings.price_of(name)) for name in ("rank", "minilm")] == ["0.05", "0.02"]
    assert ServerSettings().price_of("minilm") == 1


@pytest.mark.parametrize("one", SETTINGS, ids=lambda one: one.name)
def test_every_setting_is_a_flag_a_variable_and_a_line_of_the_file(one, file, monkeypatch):
    kind = setting_info(one).kind
    text = {"switch": "true", "whole": "422", "size": "1MiB", "number": "2.5"}.get(kind, "x")
    if setting_info(one).choices:
        text = setting_info(one).choices[-1]
    if setting_info(one).secret:
        text = "hush-hush"
    text = SAMPLES.get(one.name, text)
    expected = loading.parse_value(one, text)
    extra = {"tls_cert": "c"} if one.name in ("tls_key", "tls_client_ca") else {}
    extra = {"oidc_client_id": "c"} if one.name == "oidc_issuer" else extra
    by_variable = loading.load_settings(extra, {variable_name(one.name): text}).settings
    assert getattr(by_variable, one.name) == expected
    line = f"{one.name} = {json.dumps(list(expected) if kind in ('list', 'models') else expected)}"
    by_file = loading.load_settings(extra, {}, file(line)).settings
    assert getattr(by_file, one.name) == expected
    given = [flag_name(one.name)] if kind == "switch" else [flag_name(one.name), text]
    more = [part for name, value in extra.items() for part in (flag_name(name), value)]
    printed = gte("serve", *given, *more, "--print-config")
    assert printed.exit_code == 0, printed.output
    if setting_info(one).secret:
        assert text not in printed.stdout
    else:
        value = tomllib.loads(printed.stdout)[one.name]
        assert (tuple(value) if isinstance(value, list) else value) == expected


def test_what_is_printed_says_the_same_when_it_is_read(file):
    settings = ServerSettings(
        model=("minilm", "other=Alibaba-NLP/gte-base"), port=0, cors_origin=("https://a.example",)
    )
    printed = loading.to_toml(loading.LoadedSettings(settings, {}))
    assert loading.load_settings({}, {}, file(printed)).settings == settings


def test_models_have_options_of_their_own(file):
    path = file(
        "model = [{name = 'a', source = 'org/a', threads = 2, aliases = ['x']}, 'b=org/b', 'c']\n"
        "threads = 1\nengine = 'torch'\n"
    )
    loaded = loading.load_settings({}, {}, path)
    models = loaded.settings.models
    assert [(m.name, m.source, m.threads, m.engine) for m in models] == [
        ("a", "org/a", 2, "torch"),
        ("b", "org/b", 1, "torch"),
        ("c", "c", 1, "torch"),
    ]
    assert models[0].aliases == ("x",)
    again = loading.load_settings({}, {}, file(loading.to_toml(loaded)))
    assert again.settings.models == models


def test_a_table_for_each_model(file):
    path = file("[[model]]\nsource = 'org/a'\nprecision = 'bf16'\n[[model]]\nname = 'minilm'\n")
    models = loading.load_settings({}, {}, path).settings.models
    assert [(m.name, m.source, m.precision) for m in models] == [
        ("org/a", "org/a", "bf16"),
        ("minilm", "minilm", "auto"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "there is no setting `prot`; did you mean `port`?"),
        ("max-body-bytes = 1", "there is no setting `max-body-bytes`; did you mean `max_body_byt"),
        ("port = 'x'", "port: got 'x'; expected a whole number"),
        ("port = true", "port: got True; expected a whole number"),
        ("port = -1", "port: got -1; expected at least 0"),
        ("engine = 'onnx'", "engine: got 'onnx'; expected one of auto, native, torch"),
        ("max_body_bytes = 'much'", "max_body_bytes: got 'much'; expected a number of bytes"),
        ("model = 3", "model: got 3; expected a name or a [[model]] table"),
        ("[[model]]\nname = 'a'\nthread = 1", "no setting `thread`; did you mean `threads`?"),
        ("[[model]]\nname = 'a'\nthreads = 'x'", "threads: got 'x'; expected a whole number"),
        ("[[model]]\nname = 3", "name: got 3; expected a text"),
        ("[[model]]\nthreads = 3", "a [[model]] table needs a `source` or a `name`"),
        ("model = ['a', 'a']", "two models are called `a`"),
        ("tls_key = 'k'", "tls_key: a key without a certificate"),
        ("tei_validation_status = 500", "got 500; expected 422 or 413"),
        ("port = ", "not TOML: "),
    ],
)
def test_errors_of_a_file_name_it_and_what_was_expected(file, text, message):
    with pytest.raises(InputError) as caught:
        loading.load_settings({}, {}, file(text))
    assert message in str(caught.value)


def test_errors_of_a_variable_and_of_a_flag_name_them():
    with pytest.raises(InputError, match="variable OPENGTE_WORKERS: workers: got 'two'; expected"):
        loading.load_settings({}, {"OPENGTE_WORKERS": "two"})
    result = gte("serve", "--workers", "0", "--print-config")
    assert "--workers: workers: got 0; expected at least 1" in result.stderr
    assert result.exit_code == 2


def test_a_misspelt_variable_is_a_warning_and_a_foreign_one_is_none():
    loaded = loading.load_settings(
        {}, {"OPENGTE_WORKRES": "2", "OPENGTE_CACHE": "/x", "WORKERS": "3"}
    )
    assert loaded.warnings == ("OPENGTE_WORKRES is not a setting; did you mean OPENGTE_WORKERS?",)


def test_the_variable_that_kubernetes_sets_for_a_service_of_our_name_is_none_of_ours():
    assert loading.load_settings({}, {"OPENGTE_PORT": "tcp://10.0.0.1:80"}).settings.port == 8080


def test_an_empty_variable_is_as_good_as_none():
    assert (
        loading.load_settings({}, {"OPENGTE_THREADS": "", "OPENGTE_UDS": ""}).settings
        == ServerSettings()
    )


def test_the_secret_is_not_printed():
    printed = gte("serve", "--print-config", env={"OPENGTE_API_KEY": "hush"})
    assert "hush" not in printed.output
    assert "# api_key is set (secret)  # OPENGTE_API_KEY" in printed.stdout


def test_the_page_of_settings_is_in_the_docs():
    from pathlib import Path

    page = Path(__file__).parents[3] / "docs" / "reference" / "settings.md"
    assert loading.settings_markdown() in page.read_text(encoding="utf-8")
