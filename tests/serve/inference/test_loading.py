"""What follows from a loaded model: its limits."""

import asyncio

from opengte.serve.config.inference import ModelSettings
from tests.support.inference import running


def test_limits_are_stated():
    async def main():
        given = ModelSettings("minilm", max_batch_tokens=300, max_queue_tokens=5000)
        async with running(given) as core:
            status = core.models()[0]
            assert (status.max_batch_tokens, status.max_queue_tokens) == (300, 5000)

    asyncio.run(main())
