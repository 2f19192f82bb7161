"""What the supervisor sends to a worker."""

from opengte.serve.config.settings import (
    ServerSettings,
)
from opengte.serve.runtime.worker_protocol import WorkerConfig


def test_a_worker_gets_the_settings_whole():
    settings = ServerSettings(model=("a", {"name": "b", "threads": 2}), cors_origin=("o",), port=0)
    config = WorkerConfig(settings, 3, (4, 5), (6, 7, 9), 8)
    again = WorkerConfig.from_line(config.to_line())
    assert again == config
    assert again.settings.models == settings.models
