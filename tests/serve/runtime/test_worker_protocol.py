"""What the supervisor sends to a worker."""

import os

from opengte.serve.config.settings import (
    ServerSettings,
)
from opengte.serve.runtime.worker_protocol import LineReader, WorkerConfig


def test_a_worker_gets_the_settings_whole():
    settings = ServerSettings(model=("a", {"name": "b", "threads": 2}), cors_origin=("o",), port=0)
    config = WorkerConfig(settings, 3, (4, 5), (6, 7, 9), 8)
    again = WorkerConfig.from_line(config.to_line())
    assert again == config
    assert again.settings.models == settings.models


def test_lines_are_whole_however_they_arrive():
    read, write = os.pipe()
    try:
        reader = LineReader(read)
        os.write(write, b'{"row": 0}\npause\nac')
        assert reader.read() == [b'{"row": 0}', b"pause"]
        os.write(write, b"ce")
        assert reader.read() == []
        os.write(write, b"pt\npause\n")
        assert reader.read() == [b"accept", b"pause"]
        os.close(write)
        assert reader.read() is None
    finally:
        os.close(read)
