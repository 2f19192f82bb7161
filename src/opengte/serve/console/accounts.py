"""Who uses a console: users, the teams that they are in, sign-in links, and the audit log."""

import hashlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from opengte.errors import InputError
from opengte.serve.console.database import Database, Execute

LINKS = "link"  # the issuer of users who sign in by links
LINK_DAYS = 7.0
LONGEST_NAME = 120


@dataclass(frozen=True)
class User:
    """A person; epoch is in every session, so that raising it ends them all."""

    id: str
    issuer: str
    subject: str
    name: str
    email: str
    operator: bool
    created: float
    epoch: int
    disabled: bool


@dataclass(frozen=True)
class Membership:
    """A team that a user is in; provider: because of a group at the identity provider."""

    team: str
    name: str
    user: str
    user_name: str
    owner: bool
    provider: bool


@dataclass(frozen=True)
class AuditEntry:
    """One change: who did what to whom."""

    time: float
    actor: str
    action: str
    subject: str
    detail: str


class Accounts:
    """The accounts in a database; every change is in the audit log, in the same transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def secret(self) -> str:
        """Return the secret that cookies are signed with, the same for all servers."""

        def work(execute: Execute) -> str:
            execute(
                "INSERT INTO settings VALUES ('secret', ?) ON CONFLICT DO NOTHING",
                (secrets.token_hex(32),),
            )
            return str(execute("SELECT value FROM settings WHERE name = 'secret'")[0][0])

        return self.database.run(work)

    def create_user(
        self, name: str, email: str = "", operator: bool = False, actor: str = "cli"
    ) -> User:
        """Create a user who signs in by links, and a team of their own."""
        return self.database.run(
            lambda execute: _create(execute, LINKS, None, name, email, operator, actor)
        )

    def create_link(self, user: str, days: float = LINK_DAYS, actor: str = "cli") -> str:
        """Return a token that signs a user in once; only its hash is stored."""
        token = secrets.token_urlsafe(32)

        def work(execute: Execute) -> str:
            execute(
                "INSERT INTO links VALUES (?, ?, ?, NULL)",
                (_hash(token), user, time.time() + days * 86400),
            )
            audit(execute, actor, "link", user, f"valid for {days:g} days")
            return token

        return self.database.run(work)

    def redeem(self, token: str, now: float | None = None) -> User | None:
        """Use a link, which works once; None for one that is unknown, used or too old."""
        now = time.time() if now is None else now

        def work(execute: Execute) -> User | None:
            rows = execute(
                "UPDATE links SET used = ? WHERE hash = ? AND used IS NULL AND expires > ?"
                " RETURNING member",
                (now, _hash(token), now),
            )
            user = _user(execute, rows[0][0]) if rows else None
            if user is None or user.disabled:
                return None
            audit(execute, user.id, "sign-in", user.id, "by a link")
            return user

        return self.database.run(work)

    def provider_user(
        self,
        issuer: str,
        subject: str,
        name: str,
        email: str,
        teams: Sequence[str],
        operator: bool | None,
    ) -> User | None:
        """Return the user of an identity provider, created at the first sign-in; None if disabled.

        The user is in exactly these teams because of the provider, and in others as before;
        operator is None where the provider does not say who is one.
        """

        def work(execute: Execute) -> User | None:
            found = execute(
                "SELECT id FROM users WHERE issuer = ? AND subject = ?", (issuer, subject)
            )
            user: User | None
            if not found:
                user = _create(execute, issuer, subject, name, email, bool(operator), "provider")
            else:
                execute(
                    "UPDATE users SET name = ?, email = ?, operator = coalesce(?, operator)"
                    " WHERE id = ?",
                    (
                        _name(name),
                        email[:LONGEST_NAME],
                        None if operator is None else int(operator),
                        found[0][0],
                    ),
                )
                user = _user(execute, found[0][0])
            assert user is not None
            if user.disabled:
                return None
            execute("DELETE FROM memberships WHERE member = ? AND provider = 1", (user.id,))
            for group in teams:
                execute(
                    "INSERT INTO memberships VALUES (?, ?, 0, 1) ON CONFLICT DO NOTHING",
                    (_team_of_group(execute, group), user.id),
                )
            audit(execute, user.id, "sign-in", user.id, f"by {issuer}")
            return user

        return self.database.run(work)

    def user(self, id: str) -> User | None:
        """Return the user with an id, or None."""
        return self.database.run(lambda execute: _user(execute, id))

    def users(self) -> list[User]:
        """Return all users, the newest first."""
        rows = self.database.run(lambda e: e("SELECT * FROM users ORDER BY created DESC"))
        return [_user_of(row) for row in rows]

    def find_user(self, name: str) -> User:
        """Return the user with an id, email or name; InputError unless it is exactly one."""
        users = self.users()
        found = [user for user in users if user.id == name] or [
            user for user in users if name in (user.email, user.name)
        ]
        if len(found) != 1:
            ids = ", ".join(user.id for user in found) or "none"
            raise InputError(f"user: {name!r} means {ids}; expected one id, see `gte users list`")
        return found[0]

    def sign_out_everywhere(self, user: str, actor: str) -> None:
        """End every session of a user, and their unused links."""

        def work(execute: Execute) -> None:
            execute("UPDATE users SET epoch = epoch + 1 WHERE id = ?", (user,))
            execute("DELETE FROM links WHERE member = ? AND used IS NULL", (user,))
            audit(execute, actor, "sign-out-everywhere", user)

        self.database.run(work)

    def set_disabled(self, user: str, disabled: bool, actor: str) -> None:
        """Lock a user out, or let them in again; ends every session."""

        def work(execute: Execute) -> None:
            execute(
                "UPDATE users SET disabled = ?, epoch = epoch + 1 WHERE id = ?",
                (int(disabled), user),
            )
            audit(execute, actor, "disable" if disabled else "enable", user)

        self.database.run(work)

    def set_operator(self, user: str, operator: bool, actor: str) -> None:
        """Make a user an operator, or a member again."""

        def work(execute: Execute) -> None:
            execute("UPDATE users SET operator = ? WHERE id = ?", (int(operator), user))
            audit(execute, actor, "operator" if operator else "member", user)

        self.database.run(work)

    def create_team(self, name: str, actor: str) -> str:
        """Create a team and return its id."""

        def work(execute: Execute) -> str:
            id = _new_team(execute, name)
            audit(execute, actor, "create-team", id, name)
            return id

        return self.database.run(work)

    def teams(self) -> list[tuple[str, str]]:
        """Return the id and name of every team."""
        rows = self.database.run(lambda e: e("SELECT id, name FROM teams ORDER BY created"))
        return [(row[0], row[1]) for row in rows]

    def find_team(self, name: str) -> str:
        """Return the id of a team by id or name; InputError unless it is exactly one."""
        teams = self.teams()
        found = [id for id, _ in teams if id == name] or [id for id, n in teams if n == name]
        if len(found) != 1:
            ids = ", ".join(found) or "none"
            raise InputError(f"team: {name!r} means {ids}; expected one id, see `gte teams list`")
        return found[0]

    def members(self, *, team: str | None = None, user: str | None = None) -> list[Membership]:
        """Return the members of a team, or the teams of a user."""
        column, value = ("m.team", team) if user is None else ("m.member", user)
        rows = self.database.run(
            lambda execute: execute(
                "SELECT m.team, t.name, m.member, u.name, m.owner, m.provider FROM memberships m"
                " JOIN teams t ON t.id = m.team JOIN users u ON u.id = m.member"
                f" WHERE {column} = ? ORDER BY t.created, u.name",
                (value,),
            )
        )
        return [
            Membership(team, name, user, user_name, bool(owner), bool(provider))
            for team, name, user, user_name, owner, provider in rows
        ]

    def set_member(self, team: str, user: str, owner: bool, actor: str) -> None:
        """Put a user into a team, as an owner or not."""

        def work(execute: Execute) -> None:
            execute(
                "INSERT INTO memberships VALUES (?, ?, ?, 0) ON CONFLICT (team, member)"
                " DO UPDATE SET owner = excluded.owner",
                (team, user, int(owner)),
            )
            audit(execute, actor, "add-owner" if owner else "add-member", team, user)

        self.database.run(work)

    def remove_member(self, team: str, user: str, actor: str) -> None:
        """Take a user out of a team; a team of a user's own keeps them."""
        if team == user:
            raise InputError("team: a user cannot leave their own team")

        def work(execute: Execute) -> None:
            execute("DELETE FROM memberships WHERE team = ? AND member = ?", (team, user))
            audit(execute, actor, "remove-member", team, user)

        self.database.run(work)

    def audit_log(self, limit: int = 200) -> list[AuditEntry]:
        """Return the last changes, the newest first."""
        rows = self.database.run(
            lambda execute: execute(
                "SELECT time, actor, action, subject, detail FROM audit"
                " ORDER BY time DESC, id DESC LIMIT ?",
                (limit,),
            )
        )
        return [AuditEntry(*row) for row in rows]


def audit(execute: Execute, actor: str, action: str, subject: str, detail: str = "") -> None:
    """Add to the audit log, which nothing changes."""
    now = time.time()
    id = f"{int(now * 1e6):016x}{secrets.token_hex(4)}"
    execute(
        "INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?)", (id, now, actor, action, subject, detail)
    )


def _create(
    execute: Execute,
    issuer: str,
    subject: str | None,
    name: str,
    email: str,
    operator: bool,
    actor: str,
) -> User:
    id, now = secrets.token_hex(6), time.time()
    execute(
        "INSERT INTO users VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0)",
        (id, issuer, subject or id, _name(name), email[:LONGEST_NAME], int(operator), now),
    )
    execute("INSERT INTO teams VALUES (?, ?, ?)", (id, _name(name), now))
    execute("INSERT INTO memberships VALUES (?, ?, 1, 0)", (id, id))
    audit(execute, actor, "create-user", id, name)
    user = _user(execute, id)
    assert user is not None
    return user


def _name(name: str) -> str:
    cleaned = " ".join(name.split())[:LONGEST_NAME]
    if not cleaned:
        raise InputError(f"name: got {name!r}; expected a name")
    return cleaned


def _new_team(execute: Execute, name: str) -> str:
    id = secrets.token_hex(6)
    execute("INSERT INTO teams VALUES (?, ?, ?)", (id, _name(name), time.time()))
    return id


def _team_of_group(execute: Execute, group: str) -> str:
    """Return the team of a group of the provider, created if there is none of that name."""
    found = execute(
        "SELECT t.id FROM teams t WHERE t.name = ? AND NOT EXISTS"
        " (SELECT 1 FROM users u WHERE u.id = t.id) ORDER BY t.created",
        (_name(group),),
    )
    return found[0][0] if found else _new_team(execute, group)


def _user(execute: Execute, id: str) -> User | None:
    rows = execute("SELECT * FROM users WHERE id = ?", (id,))
    return _user_of(rows[0]) if rows else None


def _user_of(row: Sequence[object]) -> User:
    id, issuer, subject, name, email, operator, created, epoch, disabled = row
    return User(id, issuer, subject, name, email, bool(operator), created, epoch, bool(disabled))  # type: ignore[arg-type]


def _hash(token: str) -> str:
    """Return the hash of a token with 256 random bits, which needs no salt."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
