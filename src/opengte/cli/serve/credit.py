"""`gte credit`: the credit of the teams of a console."""

from typing import TYPE_CHECKING

import click

from opengte.cli.serve.accounts import console_options, date, open_accounts, show

if TYPE_CHECKING:
    from opengte.serve.console.accounts import Accounts
    from opengte.serve.console.ledger import Ledger


@click.group("credit")
def command() -> None:
    """Grant credit to teams of a console, set budgets, and print the ledger.

    \b
    Examples:
      gte credit grant search 5
      gte credit list
    """


def _open(state_dir: str | None, url: str | None) -> "tuple[Accounts, Ledger]":
    from opengte.serve.console.ledger import Ledger

    accounts = open_accounts(state_dir, url)
    return accounts, Ledger(accounts.database)


@command.command("grant", context_settings={"ignore_unknown_options": True})  # for -1
@click.argument("team")
@click.argument("amount")
@click.option("--note", default="", metavar="TEXT", help="Why; it is in the ledger.")
@console_options
def grant_command(
    team: str,
    amount: str,
    note: str,
    as_json: bool,
    state_dir: str | None,
    console_database: str | None,
) -> None:
    """Add to the credit of a team, or take away with a negative amount.

    \b
    Examples:
      gte credit grant search 5
      gte credit grant 3f9c21ab77e0 0.5 --note "for the pilot"
    """
    from opengte.serve.console.ledger import amount_of

    accounts, ledger = _open(state_dir, console_database)
    id = accounts.find_team(team)
    ledger.grant(id, amount_of(amount), "cli", note)
    _print(accounts, ledger, id, as_json)


@command.command("budget")
@click.argument("team")
@click.argument("amount")
@console_options
def budget_command(
    team: str, amount: str, as_json: bool, state_dir: str | None, console_database: str | None
) -> None:
    """Set what a team may use in a calendar month; `none` for no budget.

    \b
    Examples:
      gte credit budget search 2
      gte credit budget search none
    """
    from opengte.serve.console.ledger import amount_of

    accounts, ledger = _open(state_dir, console_database)
    id = accounts.find_team(team)
    ledger.set_budget(id, None if amount == "none" else amount_of(amount), "cli")
    _print(accounts, ledger, id, as_json)


@command.command("list")
@console_options
def list_command(as_json: bool, state_dir: str | None, console_database: str | None) -> None:
    """List every team's credit.

    \b
    Examples:
      gte credit list
      gte credit list --json
    """
    accounts, ledger = _open(state_dir, console_database)
    rows = [_row(ledger, id, name) for id, name in accounts.teams()]
    show(rows, as_json, "no teams; create one with `gte teams create NAME`")


@command.command("ledger")
@click.argument("team")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, metavar="N",
              help="Number of lines.")  # fmt: skip
@console_options
def ledger_command(
    team: str, limit: int, as_json: bool, state_dir: str | None, console_database: str | None
) -> None:
    """Print the last lines of a team's ledger, the newest first.

    \b
    Examples:
      gte credit ledger search
      gte credit ledger search --limit 10 --json
    """
    from opengte.serve.console.ledger import UNIT

    accounts, ledger = _open(state_dir, console_database)
    entries = ledger.entries(accounts.find_team(team), limit)
    rows = [{**vars(e), "time": date(e.time), "amount": f"{e.amount / UNIT:.9f}"} for e in entries]
    show(rows, as_json, "the ledger is empty")


def _print(accounts: "Accounts", ledger: "Ledger", team: str, as_json: bool) -> None:
    show([_row(ledger, team, dict(accounts.teams())[team])], as_json, "")


def _row(ledger: "Ledger", team: str, name: str) -> dict[str, str]:
    from opengte.serve.console.ledger import UNIT

    balance = ledger.balance(team)
    budget = "" if balance.budget is None else f"{balance.budget / UNIT:.9f}"
    return {
        "team": team,
        "name": name,
        "granted": f"{balance.granted / UNIT:.9f}",
        "used": f"{balance.used / UNIT:.9f}",
        "left": f"{balance.left / UNIT:.9f}",
        "budget": budget,
    }
