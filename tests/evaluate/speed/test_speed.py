"""Speed and cost: texts, operations, prices, settings in processes, servers, the command."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from opengte.checkpoint import read_checkpoint
from opengte.cli import main
from opengte.engine import native_extension
from opengte.errors import EngineError, InputError, ServiceError
from opengte.evaluate.speed import machine, measure, operations, prices, report, server, texts
from opengte.evaluate.speed.measure import Setting, SpeedResult
from opengte.serve.config.inference import ModelSettings
from tests.parity.families import FAMILIES
from tests.support.serve_running import running


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speed")
    FAMILIES["bert"](folder)
    return str(folder)


def words(given):
    return np.array([len(text.split()) for text in given])


def test_texts_have_their_length_and_differ():
    for tokens in (1, 7, 500):
        made = texts.texts_of_length(tokens, 5, words)
        assert words(made).tolist() == [tokens] * 5
        assert len(set(made)) > 3
    assert len(set(texts.mixed_texts(40))) == 40
    assert len(texts.mixed_texts(10**5)) == 10**5


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_operations_are_those_of_every_product(model, pooling):
    """The oracle counts each product of each token by its shape."""
    plan = replace(read_checkpoint(model).plan, pooling=pooling)
    lengths = [1, 3, 10]
    total = 0
    for length in lengths:
        for number, layer in enumerate(plan.layers):
            heads = layer.attention.heads * layer.attention.head_dim
            last = number == len(plan.layers) - 1 and pooling == "cls"
            kept = 1 if last else length  # after keys and values, one state is computed
            total += 2 * length * plan.width * 3 * heads + 2 * kept * heads * plan.width
            total += 2 * kept * 2 * plan.width * layer.ffn.inner
            total += 4 * kept * length * heads
    assert operations.operations(plan, lengths) == total


@pytest.mark.parametrize(
    ("text", "hourly"), [("0.09/h", 0.09), ("$ 73 /month", 0.1), ("24/day", 1)]
)
def test_prices(text, hourly):
    assert prices.parse_price(text) == pytest.approx(hourly)
    assert prices.cost_per_million(hourly, 1e6 / 3600) == pytest.approx(hourly)


@pytest.mark.parametrize(
    ("hourly", "told"), [(0.1, "cheaper from 35% of its time"), (1.0, "is never cheaper")]
)
def test_the_verdict_compares_with_the_cheapest_list_price(hourly, told):
    made = SpeedResult("m", Setting("int8", 1), "native", {"mixed": 10_000.0})
    assert told in report.verdict(report.speed_rows([made], hourly), hourly)


@pytest.mark.parametrize("text", ["", "0.09", "-1/h", "1/year", "h/1"])
def test_a_price_that_is_none(text):
    with pytest.raises(InputError, match=r"price is .*expected an amount and a time"):
        prices.parse_price(text)


@pytest.mark.slow
def test_settings_are_measured_in_processes_of_their_own(model):
    said = []
    settings = [Setting("fp32", 1), Setting("int8", 1), Setting("int4", 1)]
    found = measure.measure_model(
        model, settings, lengths=[4, 10**6], seconds=0.3, progress=said.append
    )
    exact, quantised, impossible = found
    for one in (exact, quantised):
        assert list(one.rates) == ["mixed", "4"]
        assert min(one.rates.values()) > 0 and one.query > 0 and one.start > 0
        assert one.memory > 10**6 and one.problem is None
        if one.engine == "native":
            assert 0 < one.share < 2
    assert exact.lowest == pytest.approx(1) and 0.9 < quantised.lowest <= quantised.mean <= 1
    assert impossible.rates == {} and "int4" in impossible.problem
    assert "load int8 on 1 threads" in said
    page = report.speed_report(report.speed_rows(found, 0.09), None, 0.09)
    assert "tokens a second" in page.verdict and "int4" in str(page.facts["not measured"])
    assert page.sections[0].plot.startswith("<svg")


def test_what_fits_in_no_memory_is_not_loaded(model, monkeypatch):
    monkeypatch.setattr(measure.memory, "free_bytes", lambda: 10)
    with pytest.raises(EngineError, match=r"runs in no setting: needs 0\.2 GiB, of which 0\.0"):
        measure.measure_model(model, [Setting("fp32", 1)])


def test_nothing_to_measure_is_an_error(model):
    with pytest.raises(InputError, match="expected at least one and a positive number"):
        measure.measure_model(model, [])


def test_every_precision_on_all_threads_and_on_one(monkeypatch):
    monkeypatch.setattr(measure.native, "available_threads", lambda: 4)
    every = [Setting(p, n) for n in (4, 1) for p in ("fp32", "bf16", "int8")]
    assert measure.default_settings() == every
    assert measure.default_settings(["int8"], [2, 3]) == [Setting("int8", 2), Setting("int8", 3)]


def test_the_product_has_a_rate(model):
    rate = machine.product_rate(read_checkpoint(model).plan, "fp32", 2)
    assert (rate is not None and rate > 0) == native_extension.available()


def test_a_server_under_load(model):
    with running([ModelSettings(model, engine="torch")]) as url:
        found = server.measure_server(url + "/v1", seconds=2)
    assert found.idle > 0 and found.texts > 0 and found.tokens > found.texts
    assert found.statuses["200"] > 10 and found.half_p50 <= found.half_p99
    assert dict(report.server_table(found).rows)["requests without vectors"] == "none"


@pytest.mark.parametrize(
    ("url", "kind", "told"),
    [
        ("ftp://x", InputError, r"url is `ftp://x`.*expected http://HOST:PORT"),
        ("http://127.0.0.1:9", ServiceError, r"`http://127\.0\.0\.1:9/?` cannot be reached"),
    ],
)
def test_a_server_that_cannot_be_asked(url, kind, told):
    with pytest.raises(kind, match=told):
        server.measure_server(url, seconds=0.1)


def test_the_command_prints_what_was_measured(model, monkeypatch, tmp_path):
    rates = {"mixed": 3600.0, "32": 1800.0}
    made = SpeedResult("m", Setting("int8", 2), "native", rates, 1.25, 0.5, 10**8, 0.99, 0.999, 0.5)
    monkeypatch.setattr(measure, "measure_model", lambda *given, **options: [made])
    page = tmp_path / "speed.html"
    arguments = ["bench", model, "--price", "0.36/h", "--json", "--report", str(page)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)["data"]["settings"]
    assert (row["precision"], row["threads"], row["query"]) == ("int8", 2, 1.25)
    assert row["cost_per_million"] == pytest.approx(0.36 / 3600 * 1e6 / 3600)
    assert "text-embedding-3-small" in page.read_text()
    wrong = CliRunner().invoke(main, ["bench", "--price", "cheap"])
    assert wrong.exit_code == 1 and "price is 'cheap'" in wrong.stderr
