"""The lag of an event loop."""

import asyncio
import time

from opengte.serve.runtime.loop_lag import LoopLagMonitor


def test_a_loop_is_behind_when_two_turns_in_a_row_take_too_long():
    async def main():
        pulse = LoopLagMonitor()
        assert not pulse.overloaded()
        pulse.start()
        time.sleep(0.3)  # one large body, say
        assert not pulse.overloaded()
        await asyncio.sleep(0.12)
        time.sleep(0.3)
        assert not pulse.overloaded()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not pulse.overloaded()
        time.sleep(0.3)
        assert pulse.overloaded()
        await asyncio.sleep(0.12)
        assert not pulse.overloaded()
        time.sleep(0.3)
        pulse.stop()
        assert not pulse.overloaded()

    asyncio.run(main())
