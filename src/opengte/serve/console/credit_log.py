"""The credit that one server process has leased, and its journal of what it charged.

A process leases a block of a team's credit, and charges requests against it in memory. Each charge
is a line in the process's own journal before the answer is sent, so that the kernel has it whatever
happens to the process. Once a second the new lines are booked in the database, together with the
offset up to which they are. The journal of a process that has ended is booked, and its leases are
freed, by the next one that looks. Nothing is lost or booked twice, whichever process dies.

Overdrawing is at most one block for each process: while the database is away, a process lends each
team that it knows one block more, counts that, and books it later. An answer may also cost more
than its estimate, which the next request pays for.
"""

import fcntl
import os
import secrets
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

from opengte.errors import CreditError, OpenGTEError
from opengte.serve.console.database import DatabaseError
from opengte.serve.console.ledger import UNIT, ChargedCall, Ledger, cost_of
from opengte.serve.observability import logs

JOURNALS = "credit-*.journal"
IDLE_SECONDS = 30.0  # without use, after which a lease is given back
RETRY_SECONDS = 5.0  # between attempts to lease while the database is away


class CreditLog:
    """Charges requests of teams; `take` and `charge` are called by the event loop."""

    def __init__(
        self, ledger: Ledger, folder: Path, price: Callable[[str], Decimal], block: int, unit: str
    ) -> None:
        """Open a journal in the folder; block is what is leased at once, unit the currency."""
        self.failures = 0  # of the database or the journal
        self._ledger, self._folder, self._price = ledger, folder, price
        self._block, self._unit = block, unit
        self._left: dict[str, int] = {}  # leased and not charged; negative after an underestimate
        self._lent: dict[str, int] = {}  # while the database was away
        self._used_at: dict[str, float] = {}
        self._pending: list[ChargedCall] = []
        self._batch: tuple[int, list[ChargedCall]] | None = None  # what is being booked
        self._lock = threading.Lock()  # of the fields above and the journal
        self._shipping = threading.Lock()
        self._away_until = 0.0
        self._written = self._shipped = 0
        self.name, self._journal = self._open()

    def _open(self) -> tuple[str, int]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            name = f"credit-{os.getpid()}-{secrets.token_hex(6)}.journal"
            path = self._folder / name
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
            journal = os.open(path, flags, 0o600)
            fcntl.flock(journal, fcntl.LOCK_EX)  # held until the process ends: it is alive
            if path.exists():  # else another process adopted it before it was locked
                return name, journal
            os.close(journal)

    # ---------------------------------------------------------------- on the way of a request

    def take(self, team: str, model: str, tokens: int) -> int:
        """Set credit aside for an estimate of tokens and return it; CreditError without enough."""
        amount = cost_of(tokens, self._price(model))
        with self._lock:
            self._used_at[team] = time.monotonic()
            left = self._left.get(team, 0)
            if left < amount or left <= 0:
                left = self._left[team] = left + self._lease(team, amount - left)
            if left < amount or left <= 0:
                shown = max(0, left)
                raise CreditError(
                    f"credit: this request costs about {_shown(amount)} {self._unit}, and "
                    f"{_shown(shown)} are left; ask an operator for more, or send less at a time"
                )
            self._left[team] = left - amount
        return amount

    def give_back(self, team: str, amount: int) -> None:
        """Return what was set aside for a request that was not computed."""
        with self._lock:
            self._left[team] = self._left.get(team, 0) + amount

    def charge(
        self,
        team: str,
        key: str,
        model: str,
        tokens: int,
        texts: int,
        reserved: int,
        seconds: float,
    ) -> None:
        """Charge a request for its tokens: safe against a kill once this returns."""
        amount = cost_of(tokens, self._price(model))
        name = model.replace("\t", " ").replace("\n", " ")
        call = ChargedCall(time.time(), team, key, name, texts, tokens, amount, int(1000 * seconds))
        with self._lock:
            self._left[team] = self._left.get(team, 0) + reserved - amount
            if not tokens:
                return  # it failed, and costs nothing
            line = ("\t".join(map(str, vars(call).values())) + "\n").encode()
            try:
                if os.write(self._journal, line) < len(line):
                    os.ftruncate(self._journal, self._written)  # the disk is full: no half line
                    raise OSError("short write")
                self._written += len(line)
            except OSError:
                self.failures += 1  # it is booked all the same, unless the process dies
            self._pending.append(call)

    def _lease(self, team: str, missing: int) -> int:
        """Return credit newly leased, or lent while the database is away."""
        if time.monotonic() >= self._away_until:
            try:
                wanted = max(self._block, missing)
                return self._ledger.lease(self.name, team, wanted, max(1, missing))
            except DatabaseError as error:
                self.failures += 1
                self._away_until = time.monotonic() + RETRY_SECONDS
                logs.failure("credit is not leased while the database is away", error)
        if team in self._lent or missing > self._block:
            return 0
        self._lent[team] = self._block
        return self._block

    # ---------------------------------------------------------------- once a second, in a thread

    def flush(self) -> None:
        """Book what was charged, take over journals of processes that ended, free idle leases."""
        with self._shipping:
            try:
                if self._lent:
                    self._ledger.shipped(self.name)  # raises while the database is away
                self._ship()
                self._adopt_all()
                self._free_idle()
                self._away_until = 0.0
            except (OpenGTEError, OSError) as error:
                self.failures += 1
                logs.failure("credit is booked later", error)

    def _ship(self) -> None:
        while True:
            if self._batch is None:
                with self._lock:
                    calls, self._pending = self._pending, []
                    if not calls:
                        return
                    self._batch = self._written, calls
            end, calls = self._batch  # the same one again after a failure: it may be booked
            for team in self._ledger.ship(self.name, self._shipped, end, calls):
                logs.event(logs.WARNING, "credit is running out", team=team)
            self._shipped, self._batch = end, None

    def _free_idle(self) -> None:
        now = time.monotonic()
        with self._lock:
            lent, self._lent = self._lent, {}
            for team, amount in lent.items():  # it was never leased, and is booked as used
                self._left[team] -= amount
            idle = [
                (team, left)
                for team, left in self._left.items()
                if left > 0 and now - self._used_at.get(team, 0.0) > IDLE_SECONDS
            ]
            for team, _ in idle:
                del self._left[team]
        for team, left in idle:
            self._ledger.give_back(self.name, team, left)

    def _adopt_all(self) -> None:
        for path in self._folder.glob(JOURNALS):
            if path.name == self.name:
                continue
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.exists():  # else another process was faster
                    self._adopt(path)
            except BlockingIOError:
                pass  # its process is alive
            finally:
                os.close(descriptor)

    def _adopt(self, path: Path) -> None:
        content, start = path.read_bytes(), self._ledger.shipped(path.name)
        calls = parse_calls(content[start:])
        if calls:
            self._ledger.ship(path.name, start, len(content), calls)
        self._ledger.release(path.name)
        path.unlink(missing_ok=True)

    def close(self) -> None:
        """Book everything, free all leases, and remove the journal if that succeeded."""
        self.flush()
        with self._shipping:
            try:
                if not self._pending and self._batch is None:
                    self._ledger.release(self.name)
                    (self._folder / self.name).unlink(missing_ok=True)
            except (OpenGTEError, OSError) as error:
                self.failures += 1
                logs.failure("leased credit is freed later", error)
            os.close(self._journal)


def parse_calls(content: bytes) -> list[ChargedCall]:
    """Return the calls in lines of a journal; an incomplete line is left out."""
    calls = []
    for line in content.decode("utf-8", "replace").split("\n")[:-1]:
        cells = line.split("\t")
        if len(cells) == 8:
            calls.append(ChargedCall(float(cells[0]), *cells[1:4], *map(int, cells[4:])))  # type: ignore[arg-type]
    return calls


def _shown(amount: int) -> str:
    return f"{Decimal(amount) / UNIT:.6f}".rstrip("0").rstrip(".")
