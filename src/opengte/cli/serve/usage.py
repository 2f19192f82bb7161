"""`gte usage`: what each key used."""

import csv
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opengte.cli.common import output
from opengte.cli.common.options import json_option
from opengte.cli.serve.keys import state_option

if TYPE_CHECKING:
    from opengte.serve.auth.usage import UsageRow

_GROUPS = ("day", "month", "key", "model")


@click.command("usage")
@click.option("--since", metavar="DATE", help="First day: 2026-11-01, or 2026-11 for a month.")
@click.option("--until", metavar="DATE", help="Last day or month.")
@click.option("--key", metavar="KEY", help="Only this key, by id or name.")
@click.option(
    "--by",
    default="day,key,model",
    show_default=True,
    metavar="LIST",
    help="Comma-separated grouping: day, month, key, model.",
)
@click.option(
    "--price",
    "prices",
    multiple=True,
    metavar="PRICE",
    help="Price per million tokens; MODEL=PRICE for one model. Repeatable.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@json_option
@state_option
def command(
    since: str | None,
    until: str | None,
    key: str | None,
    by: str,
    prices: tuple[str, ...],
    as_csv: bool,
    as_json: bool,
    state_dir: str | None,
) -> None:
    """Print the usage of each key: requests, texts and tokens.

    By default, rows are grouped by calendar day in UTC, key and model. Counts include what running
    servers on the same folder have answered so far.

    \b
    Examples:
      gte usage --since 2026-11
      gte usage --by month,key --price 0.02 --price rerank=0.05 --csv > november.csv
    """
    from opengte.serve.auth.keys import KeyFile
    from opengte.serve.auth.state_files import plain_errors
    from opengte.serve.auth.usage import FILE, read_usage
    from opengte.serve.config.paths import state_folder

    folder = Path(state_folder(state_dir))
    names = {one.id: one.name for one in KeyFile(folder).list()}
    wanted = None if key is None else KeyFile(folder).find(key).id
    groups = _groups(by)
    cost = _Prices(prices)
    days = _first_day(since), _last_day(until)
    with plain_errors(folder / FILE, "usage records", "Restore it from a copy."):
        used = read_usage(folder, *days, wanted)
    rows = list(_summed(used, groups, cost, names))
    if as_json:
        for row in rows:
            output.print_json(row)
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(_columns(groups, cost))
        writer.writerows(row.values() for row in rows)
    elif rows:
        total = {name: sum(row[name] for row in rows) for name in ("requests", "texts", "tokens")}
        cells = [[*map(_cell, row.values())] for row in rows]
        output.print_table(_columns(groups, cost), cells)
        spent = f", cost {sum(row['cost'] for row in rows):,.4f}" if cost else ""
        click.echo(
            f"{total['requests']:,} requests, {total['texts']:,} texts, "
            f"{total['tokens']:,} tokens{spent}",
            err=True,
        )
    else:
        click.echo("no usage recorded", err=True)


class _Prices:
    """Prices per million tokens of each model."""

    def __init__(self, given: Iterable[str]) -> None:
        self._of_model: dict[str, float] = {}
        self._common: float | None = None
        for text in given:
            model, equals, price = text.rpartition("=")
            try:
                value = float(price)
            except ValueError:
                raise click.UsageError(f"--price: {price!r} is not a number.") from None
            if equals:
                self._of_model[model] = value
            else:
                self._common = value

    def __bool__(self) -> bool:
        """Return whether any price was given."""
        return bool(self._of_model) or self._common is not None

    def of(self, used: "UsageRow") -> float:
        """Return the cost."""
        return used.tokens / 1e6 * self._of_model.get(used.model, self._common or 0.0)


def _groups(by: str) -> list[str]:
    groups = by.replace(",", " ").split()
    for group in groups:
        if group not in _GROUPS:
            raise click.UsageError(f"--by: {group!r} is not one of {', '.join(_GROUPS)}.")
    return groups


def _columns(groups: list[str], cost: _Prices) -> list[str]:
    named = [part for group in groups for part in ((group, "name") if group == "key" else (group,))]
    return [*named, "requests", "texts", "tokens", *(["cost"] if cost else [])]


def _summed(
    used: "list[UsageRow]", groups: list[str], cost: _Prices, names: dict[str, str]
) -> Iterable[dict[str, Any]]:
    sums: dict[tuple[str, ...], list[float]] = {}
    for one in used:
        place = tuple(one.day[:7] if group == "month" else getattr(one, group) for group in groups)
        amounts = sums.setdefault(place, [0, 0, 0, 0.0])
        for i, amount in enumerate((one.requests, one.texts, one.tokens, cost.of(one))):
            amounts[i] += amount
    for place, amounts in sorted(sums.items()):
        row: dict[str, Any] = {}
        for group, value in zip(groups, place, strict=True):
            row[group] = value
            if group == "key":
                row["name"] = names.get(value, "")
        row |= dict(zip(("requests", "texts", "tokens"), map(int, amounts), strict=False))
        yield row | ({"cost": round(amounts[3], 6)} if cost else {})


def _cell(value: Any) -> Any:
    return f"{value:,.4f}" if isinstance(value, float) else value


def _first_day(text: str | None) -> str | None:
    return None if text is None else _date(text, "-01")


def _last_day(text: str | None) -> str | None:
    return None if text is None else _date(text, "-31")


def _date(text: str, day: str) -> str:
    from datetime import date

    whole = text + day if len(text) == 7 else text
    try:
        date.fromisoformat(text + "-01" if len(text) == 7 else text)
    except ValueError:
        raise click.UsageError(
            f"{text!r} is not a date; expected a date like 2026-11-22."
        ) from None
    return whole
