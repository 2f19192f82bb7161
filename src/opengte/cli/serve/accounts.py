"""`gte users`, `gte teams` and `gte audit`: the accounts of a console."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from opengte.cli.common import output
from opengte.cli.common.options import json_option
from opengte.cli.serve.keys import key_file, state_option

if TYPE_CHECKING:
    from opengte.serve.console.accounts import Accounts

database_option = click.option(
    "--console-database",
    envvar="OPENGTE_CONSOLE_DATABASE",
    show_envvar=True,
    metavar="URL",
    help="The console's database in PostgreSQL.  [default: in the state folder]",
)


def console_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where a console keeps its tables."""
    return json_option(state_option(database_option(command)))


def open_accounts(state_dir: str | None, url: str | None) -> "Accounts":
    """Open the accounts of a console."""
    from opengte.serve.config.paths import state_folder
    from opengte.serve.console.accounts import Accounts
    from opengte.serve.console.database import open_database

    return Accounts(open_database(url, state_folder(state_dir)))


def show(rows: list[dict[str, Any]], as_json: bool, nothing: str) -> None:
    """Print rows as JSON Lines or as a table."""
    if as_json:
        for row in rows:
            output.print_json(row)
    elif rows:
        output.print_table(list(rows[0]), [list(row.values()) for row in rows])
    else:
        click.echo(nothing, err=True)


def date(seconds: float) -> str:
    """Return a Unix time as text."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


@click.group("users")
def users() -> None:
    """Invite, list, disable and promote the users of a console.

    \b
    Examples:
      gte users invite "Ada Lovelace" --operator
      gte users list
    """


@users.command("invite")
@click.argument("name")
@click.option("--email", default="", metavar="EMAIL", help="Address, to find the user by.")
@click.option("--operator", is_flag=True, help="The user is an operator.")
@click.option("--team", metavar="TEAM", help="Also put the user into this team.")
@click.option("--owner", is_flag=True, help="The user is an owner of that team.")
@click.option(
    "--url",
    envvar="OPENGTE_CONSOLE_URL",
    default="http://127.0.0.1:8080",
    show_default=True,
    metavar="URL",
    help="Address of the server.",
)
@console_options
def invite_command(
    name: str,
    email: str,
    operator: bool,
    team: str | None,
    owner: bool,
    url: str,
    as_json: bool,
    state_dir: str | None,
    console_database: str | None,
) -> None:
    """Create a user and print a sign-in link, which works once.

    \b
    Examples:
      gte users invite "Ada Lovelace" --operator
      gte users invite Bob --team search --url https://embed.example.org
    """
    accounts = open_accounts(state_dir, console_database)
    chosen = accounts.find_team(team) if team else None
    user = accounts.create_user(name, email, operator)
    if chosen:
        accounts.set_member(chosen, user.id, owner, "cli")
    _print_link(user.id, accounts.create_link(user.id), url, as_json)


@users.command("link")
@click.argument("user")
@click.option(
    "--url",
    envvar="OPENGTE_CONSOLE_URL",
    default="http://127.0.0.1:8080",
    show_default=True,
    metavar="URL",
    help="Address of the server.",
)
@console_options
def link_command(
    user: str, url: str, as_json: bool, state_dir: str | None, console_database: str | None
) -> None:
    """Print another sign-in link for a user.

    \b
    Examples:
      gte users link ada@example.org
      gte users link 3f9c21ab77e0 --url https://embed.example.org
    """
    accounts = open_accounts(state_dir, console_database)
    found = accounts.find_user(user)
    _print_link(found.id, accounts.create_link(found.id), url, as_json)


def _print_link(user: str, token: str, url: str, as_json: bool) -> None:
    link = f"{url.rstrip('/')}/console/link/{token}"
    if as_json:
        output.print_json({"user": user, "link": link})
    else:
        click.echo(link)


@users.command("list")
@console_options
def list_users(as_json: bool, state_dir: str | None, console_database: str | None) -> None:
    """List the users of a console.

    \b
    Examples:
      gte users list
      gte users list --json
    """
    rows = [
        {
            "id": user.id,
            "name": user.name,
            "email": user.email,
            "role": "operator" if user.operator else "member",
            "state": "disabled" if user.disabled else "active",
            "created": date(user.created),
        }
        for user in open_accounts(state_dir, console_database).users()
    ]
    show(rows, as_json, "no users; invite one with `gte users invite NAME`")


def _user_change(name: str, change: Callable[["Accounts", str], None], what: str) -> None:
    examples = f"  gte users {name} ada@example.org\n  gte users {name} 3f9c21ab77e0 --json"

    @users.command(name, help=f"{what}\n\n\b\nExamples:\n{examples}")
    @click.argument("user")
    @console_options
    def command(
        user: str, as_json: bool, state_dir: str | None, console_database: str | None
    ) -> None:
        accounts = open_accounts(state_dir, console_database)
        found = accounts.find_user(user)
        change(accounts, found.id)
        if name == "disable":
            key_file(state_dir).revoke_made_by(found.id)
        if as_json:
            output.print_json({"user": found.id, "change": name})
        else:
            click.echo(f"{name}: {found.id} ({found.name})", err=True)


_user_change(
    "disable",
    lambda a, u: a.set_disabled(u, True, "cli"),
    "Lock a user out, and revoke their keys.",
)
_user_change("enable", lambda a, u: a.set_disabled(u, False, "cli"), "Let a user in again.")
_user_change("promote", lambda a, u: a.set_operator(u, True, "cli"), "Make a user an operator.")
_user_change("demote", lambda a, u: a.set_operator(u, False, "cli"), "Make an operator a member.")
_user_change("sign-out", lambda a, u: a.sign_out_everywhere(u, "cli"), "End a user's sessions.")


@click.group("teams")
def teams() -> None:
    """Create and list the teams of a console, and their members.

    \b
    Examples:
      gte teams create search
      gte teams add search ada@example.org --owner
    """


@teams.command("create")
@click.argument("name")
@console_options
def create_team(
    name: str, as_json: bool, state_dir: str | None, console_database: str | None
) -> None:
    """Create a team and print its id.

    \b
    Examples:
      gte teams create search
      gte teams create "Machine learning" --json
    """
    id = open_accounts(state_dir, console_database).create_team(name, "cli")
    output.print_json({"team": id, "name": name}) if as_json else click.echo(id)


@teams.command("list")
@console_options
def list_teams(as_json: bool, state_dir: str | None, console_database: str | None) -> None:
    """List teams with their members; users have teams of their own.

    \b
    Examples:
      gte teams list
      gte teams list --json
    """
    accounts = open_accounts(state_dir, console_database)
    rows = []
    for id, name in accounts.teams():
        members = accounts.members(team=id)
        names = [each.user_name + (" (owner)" if each.owner else "") for each in members]
        rows.append({"id": id, "name": name, "members": ", ".join(names)})
    show(rows, as_json, "no teams; create one with `gte teams create NAME`")


@teams.command("add")
@click.argument("team")
@click.argument("user")
@click.option("--owner", is_flag=True, help="As an owner, who may change the team.")
@console_options
def add_member(
    team: str,
    user: str,
    owner: bool,
    as_json: bool,
    state_dir: str | None,
    console_database: str | None,
) -> None:
    """Put a user into a team.

    \b
    Examples:
      gte teams add search ada@example.org --owner
      gte teams add 3f9c21ab77e0 bob@example.org
    """
    accounts = open_accounts(state_dir, console_database)
    accounts.set_member(accounts.find_team(team), accounts.find_user(user).id, owner, "cli")
    if as_json:
        output.print_json({"team": team, "user": user, "owner": owner})


@teams.command("remove")
@click.argument("team")
@click.argument("user")
@console_options
def remove_member(
    team: str, user: str, as_json: bool, state_dir: str | None, console_database: str | None
) -> None:
    """Take a user out of a team.

    \b
    Examples:
      gte teams remove search ada@example.org
      gte teams remove 3f9c21ab77e0 bob@example.org
    """
    accounts = open_accounts(state_dir, console_database)
    accounts.remove_member(accounts.find_team(team), accounts.find_user(user).id, "cli")
    if as_json:
        output.print_json({"team": team, "user": user})


@click.command("audit")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, metavar="N",
              help="Number of changes.")  # fmt: skip
@console_options
def audit(limit: int, as_json: bool, state_dir: str | None, console_database: str | None) -> None:
    """Print the last changes of a console's accounts, the newest first.

    \b
    Examples:
      gte audit --limit 20
      gte audit --json
    """
    entries = open_accounts(state_dir, console_database).audit_log(limit)
    rows = [{**vars(each), "time": date(each.time)} for each in entries]
    show(rows, as_json, "nothing was changed yet")
