"""A worker process of `gte serve --kb`: see `opengte.serve.runtime.worker`."""

from opengte.apps.kb_server import extend
from opengte.serve.runtime.worker import run_worker

if __name__ == "__main__":
    raise SystemExit(run_worker(extend))
