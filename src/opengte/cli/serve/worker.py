"""A worker process of `gte serve --kb`: see `opengte.serve.runtime.worker`."""

import signal

from opengte.apps.kb_server import extend
from opengte.serve.runtime import worker

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise SystemExit(worker.main(extend))
