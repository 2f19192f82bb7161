"""OpenGTE's server beside its peers: the same model, the same texts, one run.

    python bench/serve_load.py [--quick] [--only opengte,plain] [--parts saturation,half]
                               [--soak SECONDS] [--json FILE [--continue]]

Makes an environment for each peer, starts one server after the other, puts an open-loop load of a
process of its own on it, and prints what it did beside the figures to reach. Some 30 minutes.
"""

import argparse
import json
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from serve_peers import load_texts, measurements, report, servers  # noqa: E402
from serve_peers.catalog import SERVERS, Server  # noqa: E402
from serve_peers.environment import PeerError  # noqa: E402

from opengte import hub  # noqa: E402

PARTS = ("offline", "start", "saturation", "idle", "half", "bulk", "overhead", "soak")
OURS_ONLY = ("start", "overhead", "soak")
NEEDS_RATE = ("half", "bulk", "soak")
QUICK = ("opengte", "infinity-torch")
STARTS = 5


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--only", help=f"servers, of {', '.join(s.id for s in SERVERS)}")
    parser.add_argument("--parts", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--soak", type=float, default=600, metavar="SECONDS")
    parser.add_argument("--quick", action="store_true", help="a minute or two, two servers")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--serve", default="", help="further options of `gte serve`, one string")
    parser.add_argument("--cache", type=Path, default=HERE.parent / ".cache" / "serve-bench")
    parser.add_argument("--env", type=Path, default=HERE.parent / ".serve-bench-venv")
    parser.add_argument(
        "--json", type=Path, help="also write all figures to this file, as they come"
    )
    parser.add_argument(
        "--continue", action="store_true", dest="go_on", help="measure what --json's file lacks"
    )
    return parser.parse_args()


def chosen(names: str | None, known: tuple[str, ...], default: tuple[str, ...]) -> tuple[str, ...]:
    """Return the comma-separated names, checked."""
    if not names:
        return default
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in known:
            raise SystemExit(f"{name!r} is none of {', '.join(known)}")
    return tuple(name for name in known if name in wanted)


class Run:
    """One run of the benchmark; results has what is done when it is interrupted."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        names = tuple(server.id for server in SERVERS)
        wanted = chosen(options.only, names, QUICK if options.quick else names)
        self.servers = [server for server in SERVERS if server.id in wanted]
        self.parts = chosen(options.parts, PARTS, PARTS)
        options.cache.mkdir(parents=True, exist_ok=True)
        self.place = servers.Place(
            model=hub.fetch_model("minilm").folder,
            environments=options.env.absolute(),
            cache=options.cache.absolute(),
            threads=options.threads,
            options=tuple(options.serve.split()),
        )
        texts = self.place.cache / "texts.json"
        load_texts.write(self.place.model / "tokenizer.json", texts)
        self.load = measurements.Load(texts, 0.3 if options.quick else 1.0)
        self.results: dict[str, Any] = {}
        if options.go_on and options.json and options.json.is_file():
            self.results = json.loads(options.json.read_text())
        self.results |= {
            "machine": platform.platform(),
            "processors": os.cpu_count(),
            "threads": options.threads,
            "quick": options.quick,
        }
        self.results.setdefault("servers", {})

    def keep(self, figures: dict[str, Any], name: str, value: Any) -> None:
        """Keep a part's figures, and write all that there are."""
        figures[name] = value
        if self.options.json:
            self.options.json.write_text(json.dumps(self.results, indent=1))

    def wants(self, figures: dict[str, Any], name: str) -> bool:
        """Return whether a part is still to be measured."""
        return name in self.parts and name not in figures

    def measure(self) -> None:
        """Measure everything that was asked for."""
        for server in self.servers:
            try:
                servers.prepare(server, self.place)
            except PeerError as error:
                self.fail(server, error)
        if "offline" not in self.results:  # also what vectors are compared with
            count = 512 if self.options.quick else 4000
            found = measurements.offline(
                self.place.model, self.load.texts, count, self.options.threads
            )
            self.keep(self.results, "offline", found)
        for server in self.servers:
            figures = self.results["servers"].setdefault(server.id, {})
            if "error" in figures and not self.options.go_on:
                continue
            figures.pop("error", None)
            try:
                self.measure_server(server, figures)
            except PeerError as error:
                self.fail(server, error)

    def fail(self, server: Server, error: PeerError) -> None:
        """Keep why a server has no figures."""
        print(f"{server.label}: {error}", file=sys.stderr)
        self.keep(self.results["servers"].setdefault(server.id, {}), "error", str(error))

    def measure_server(self, server: Server, figures: dict[str, Any]) -> None:
        """Do all parts with one server, in one life of it but for its starts."""
        mine = [part for part in self.parts if server.ours or part not in OURS_ONLY]
        wanted = [part for part in mine if part != "offline" and part not in figures]
        if not wanted:
            return
        if server.ours and "start" in wanted:
            self.keep(figures, "start", self.starts(server))
            wanted.remove("start")
        if not wanted:
            return
        with servers.running(server, self.place) as running:
            self.keep(figures, "ready_seconds", running.ready_seconds)
            self.keep(
                figures, "agreement", measurements.agreement(running, self.results["offline"])
            )
            if "idle" in wanted:
                self.say(server, "idle")
                self.keep(figures, "idle", measurements.idle(running, self.load))
            if "overhead" in wanted:
                self.say(server, "overhead")
                self.keep(figures, "overhead", measurements.overhead(running, self.load))
            if "saturation" not in figures and {"saturation", *NEEDS_RATE} & set(wanted):
                self.say(server, "saturation")
                self.keep(figures, "saturation", measurements.saturation(running, self.load))
                measurements.quiet(running)
            for name in NEEDS_RATE:
                if name in wanted:
                    self.say(server, name)
                    self.keep(figures, name, self.at_rate(name, running, figures))
                    measurements.quiet(running)

    def at_rate(self, name: str, running: servers.Running, figures: dict[str, Any]) -> Any:
        """Do a part that depends on what the server can do at most."""
        full = figures["saturation"]["texts_per_second"]
        if name == "soak":
            seconds = min(self.options.soak, 12.0) if self.options.quick else self.options.soak
            return measurements.soak(running, self.load, full, seconds)
        return (measurements.half if name == "half" else measurements.bulk)(
            running, self.load, full
        )

    def starts(self, server: Server) -> list[float]:
        """Return the seconds to readiness of several starts, after one that prepares the model."""
        self.say(server, "start")
        found = []
        for _ in range(1 + (2 if self.options.quick else STARTS)):
            with servers.running(server, self.place) as running:
                found.append(running.ready_seconds)
        return found[1:]

    def say(self, server: Server, part: str) -> None:
        """Tell what goes on."""
        print(f"{time.strftime('%H:%M:%S')} {server.label}: {part}", file=sys.stderr, flush=True)


def main() -> None:
    """Run the benchmark and print its table."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server is left behind
    run = Run(options)
    try:
        run.measure()
    finally:
        print(report.table(run.results))


if __name__ == "__main__":
    main()
