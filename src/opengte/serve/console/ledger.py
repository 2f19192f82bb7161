"""Credit in the database: grants, what was used, and what processes have leased of it.

Amounts are whole numbers, in billionths of the currency: at a price of 0.001 per million, a token
costs one. Of a team's credit, `granted - used - leased` is free. `leased` is the sum of the team's
leases, and a lease shrinks by what its process has reported as used.
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from opengte.errors import InputError
from opengte.serve.console.accounts import audit
from opengte.serve.console.database import Database, Execute

UNIT = 10**9  # of an amount, in one of the currency
ALERTS = (50, 80, 100)  # percent of the month's budget, or of all credit
CALL_DAYS = 30  # for which single requests are kept
_NEW_CREDIT = "INSERT INTO credit VALUES (?, 0, 0, 0, NULL, '', 0, 0) ON CONFLICT (team) DO NOTHING"
# locks the row of a team, in SQLite and PostgreSQL, and reads it
_LOCK = (
    "UPDATE credit SET leased = leased WHERE team = ?"
    " RETURNING granted, used, leased, budget, month, month_used, alerted"
)


@dataclass(frozen=True)
class ChargedCall:
    """One answered request, without its texts."""

    time: float
    team: str
    key: str
    model: str
    texts: int
    tokens: int
    amount: int
    milliseconds: int


@dataclass(frozen=True)
class Balance:
    """A team's credit; left is what may still be used, by the credit and the month's budget."""

    granted: int
    used: int
    leased: int
    budget: int | None
    month_used: int

    @property
    def left(self) -> int:
        """What nobody has used; a part of it may be leased."""
        left = self.granted - self.used
        return left if self.budget is None else min(left, self.budget - self.month_used)

    @property
    def percent(self) -> int:
        """How much of the budget, or else of the credit, is used."""
        whole, used = self.granted, self.used
        if self.budget is not None:
            whole, used = self.budget, self.month_used
        return 100 * used // whole if whole > 0 else 0


@dataclass(frozen=True)
class Use:
    """What a key used of a model on a day (UTC)."""

    day: str
    key: str
    model: str
    requests: int
    tokens: int
    amount: int


@dataclass(frozen=True)
class LedgerEntry:
    """A line of the ledger, which nothing changes: a grant (positive), or what was used."""

    time: float
    team: str
    amount: int
    kind: str
    note: str
    actor: str


def amount_of(text: str) -> int:
    """Return the amount of a number in the currency; InputError for something else.

    >>> amount_of("0.5"), amount_of("-1")
    (500000000, -1000000000)
    """
    try:
        value = Decimal(text) * UNIT
        if not value.is_finite() or abs(value) > 10**18:
            raise ValueError
        return int(value)
    except (ArithmeticError, ValueError):
        raise InputError(f"amount: got {text!r}; expected a number, such as 5 or 0.25") from None


def cost_of(tokens: int, price: Decimal) -> int:
    """Return what tokens cost at a price of a million.

    >>> cost_of(1000, Decimal("0.02")) / UNIT
    2e-05
    """
    return int(tokens * price * (UNIT // 10**6))


class Ledger:
    """The tables of credit."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def grant(self, team: str, amount: int, actor: str, note: str = "") -> None:
        """Add to a team's credit, or take away with a negative amount."""
        self.database.run(lambda execute: _grant(execute, team, amount, actor, note))

    def welcome(self, team: str, amount: int) -> None:
        """Grant the credit of a sign-up, once."""

        def work(execute: Execute) -> None:
            known = execute("SELECT 1 FROM ledger WHERE id = ?", (f"welcome-{team}",))
            if amount and not known:
                _grant(execute, team, amount, "server", "sign-up", f"welcome-{team}")

        self.database.run(work)

    def set_budget(self, team: str, budget: int | None, actor: str) -> None:
        """Set how much a team may use in a calendar month (UTC); None: all that it has."""

        def work(execute: Execute) -> None:
            execute(_NEW_CREDIT, (team,))
            execute("UPDATE credit SET budget = ?, alerted = 0 WHERE team = ?", (budget, team))
            text = "none" if budget is None else f"{Decimal(budget) / UNIT:f}"
            audit(execute, actor, "budget", team, text)

        self.database.run(work)

    def balance(self, team: str, now: float | None = None) -> Balance:
        """Return a team's credit."""
        rows = self.database.run(
            lambda execute: execute(
                "SELECT granted, used, leased, budget, month, month_used FROM credit"
                " WHERE team = ?",
                (team,),
            )
        )
        if not rows:
            return Balance(0, 0, 0, None, 0)
        granted, used, leased, budget, month, month_used = rows[0]
        return Balance(granted, used, leased, budget, month_used if month == _month(now) else 0)

    def lease(self, journal: str, team: str, wanted: int, least: int) -> int:
        """Lease free credit for a process: `wanted`, or less but `least`, or 0. Blocks."""

        def work(execute: Execute) -> int:
            rows = execute(_LOCK, (team,))
            if not rows:
                return 0
            granted, used, leased, budget, month, month_used, _ = rows[0]
            free = granted - used - leased
            if budget is not None:
                spent = month_used if month == _month() else 0
                free = min(free, budget - spent - leased)
            if free < max(least, 1):
                return 0
            amount = min(wanted, free)
            execute("UPDATE credit SET leased = leased + ? WHERE team = ?", (amount, team))
            execute(
                "INSERT INTO leases VALUES (?, ?, ?) ON CONFLICT (journal, team)"
                " DO UPDATE SET amount = leases.amount + excluded.amount",
                (journal, team, amount),
            )
            return int(amount)

        return self.database.run(work)

    def give_back(self, journal: str, team: str, amount: int) -> None:
        """Return a part of a lease."""
        self.database.run(lambda execute: _shrink(execute, journal, team, amount))

    def shipped(self, journal: str) -> int:
        """Return the offset up to which a journal is in the tables."""
        rows = self.database.run(
            lambda execute: execute("SELECT shipped FROM journals WHERE name = ?", (journal,))
        )
        return int(rows[0][0]) if rows else 0

    def ship(self, journal: str, start: int, end: int, calls: Sequence[ChargedCall]) -> list[str]:
        """Book the calls of a journal between two offsets, once; return the teams to be alerted.

        One that is booked already, by a process that took the journal over, is left out.
        """

        def work(execute: Execute) -> list[str]:
            execute("INSERT INTO journals VALUES (?, 0) ON CONFLICT (name) DO NOTHING", (journal,))
            moved = execute(
                "UPDATE journals SET shipped = ? WHERE name = ? AND shipped = ? RETURNING name",
                (end, journal, start),
            )
            return _book(execute, journal, calls) if moved else []

        return self.database.run(work)

    def release(self, journal: str) -> None:
        """Free what a process that has ended leased, once all of its journal is booked."""

        def work(execute: Execute) -> None:
            for team, amount in execute(
                "SELECT team, amount FROM leases WHERE journal = ? ORDER BY team", (journal,)
            ):
                _shrink(execute, journal, team, amount)
            execute("DELETE FROM leases WHERE journal = ?", (journal,))
            execute("DELETE FROM journals WHERE name = ?", (journal,))

        self.database.run(work)

    def uses(self, team: str, since: str = "", until: str = "9999") -> list[Use]:
        """Return what a team used, by day, key and model; days are included."""
        rows = self.database.run(
            lambda execute: execute(
                "SELECT day, key, model, requests, tokens, amount FROM uses"
                " WHERE team = ? AND day >= ? AND day <= ? ORDER BY day, key, model",
                (team, since, until),
            )
        )
        return [Use(*row) for row in rows]

    def calls(self, team: str, limit: int = 100) -> list[ChargedCall]:
        """Return a team's last requests, the newest first."""
        rows = self.database.run(
            lambda execute: execute(
                "SELECT time, team, key, model, texts, tokens, amount, milliseconds FROM calls"
                " WHERE team = ? ORDER BY time DESC LIMIT ?",
                (team, limit),
            )
        )
        return [ChargedCall(*row) for row in rows]

    def entries(self, team: str, limit: int = 100) -> list[LedgerEntry]:
        """Return the last lines of a team's ledger, the newest first."""
        rows = self.database.run(
            lambda execute: execute(
                "SELECT time, team, amount, kind, note, actor FROM ledger WHERE team = ?"
                " ORDER BY time DESC, id DESC LIMIT ?",
                (team, limit),
            )
        )
        return [LedgerEntry(*row) for row in rows]


def _grant(
    execute: Execute, team: str, amount: int, actor: str, note: str, id: str | None = None
) -> None:
    execute(_NEW_CREDIT, (team,))
    execute("UPDATE credit SET granted = granted + ?, alerted = 0 WHERE team = ?", (amount, team))
    _write(execute, team, amount, "grant", note, actor, id)
    audit(execute, actor, "grant", team, f"{Decimal(amount) / UNIT:f} {note}".strip())


def _write(
    execute: Execute,
    team: str,
    amount: int,
    kind: str,
    note: str,
    actor: str,
    id: str | None = None,
) -> None:
    now = time.time()
    id = id or f"{int(now * 1e6):016x}{secrets.token_hex(4)}"
    values = (id, now, team, amount, kind, note, actor)
    execute("INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?)", values)


def _shrink(execute: Execute, journal: str, team: str, amount: int) -> None:
    execute(
        "UPDATE leases SET amount = amount - ? WHERE journal = ? AND team = ?",
        (amount, journal, team),
    )
    execute("UPDATE credit SET leased = leased - ? WHERE team = ?", (amount, team))


def _book(execute: Execute, journal: str, calls: Sequence[ChargedCall]) -> list[str]:
    """Write calls into every table; teams in order, so that processes cannot block each other."""
    by_team: dict[str, int] = {}
    by_key: dict[tuple[str, str, str, str], list[int]] = {}
    for call in calls:
        by_team[call.team] = by_team.get(call.team, 0) + call.amount
        day = time.strftime("%Y-%m-%d", time.gmtime(call.time))
        sums = by_key.setdefault((day, call.team, call.key, call.model), [0, 0, 0])
        for i, amount in enumerate((1, call.tokens, call.amount)):
            sums[i] += amount
        execute("INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, ?)", tuple(vars(call).values()))
    alerted = [team for team in sorted(by_team) if _use(execute, journal, team, by_team[team])]
    for group, sums in sorted(by_key.items()):
        execute(
            "INSERT INTO uses VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (day, team, key, model)"
            " DO UPDATE SET requests = uses.requests + excluded.requests,"
            " tokens = uses.tokens + excluded.tokens, amount = uses.amount + excluded.amount",
            (*group, *sums),
        )
    execute("DELETE FROM calls WHERE time < ?", (time.time() - CALL_DAYS * 86400,))
    return alerted


def _use(execute: Execute, journal: str, team: str, amount: int) -> bool:
    """Book what a team used; return whether that crossed a threshold of alerts."""
    execute(_NEW_CREDIT, (team,))
    granted, used, leased, budget, month, month_used, alerted = execute(_LOCK, (team,))[0]
    this = _month()
    if month != this:
        month_used, alerted = 0, 0 if budget is not None else alerted
    balance = Balance(granted, used + amount, leased, budget, month_used + amount)
    reached = max((each for each in ALERTS if balance.percent >= each), default=0)
    execute(
        "UPDATE credit SET used = used + ?, month = ?, month_used = ?, alerted = ? WHERE team = ?",
        (amount, this, balance.month_used, max(reached, alerted), team),
    )
    _shrink(execute, journal, team, amount)
    _write(execute, team, -amount, "use", journal, "server")
    if reached > alerted:
        audit(execute, "server", "alert", team, f"{reached} % of the credit or budget is used")
    return bool(reached > alerted)


def _month(now: float | None = None) -> str:
    return time.strftime("%Y-%m", time.gmtime(now))
