"""A worker process of `gte serve --kb`: see `opengte.serve.worker`."""

import signal

from opengte.cli.serve_kb import extend
from opengte.serve import worker

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise SystemExit(worker.main(extend))
