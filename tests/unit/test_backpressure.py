"""The bound on bytes in flight: who waits, in which order, and that none are lost."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from pillion_sidecar.backpressure import Budget


async def turn() -> None:
    """Let everything that can go on go on."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_who_waits_is_served_in_order() -> None:
    """A small one behind a large one waits with it, so that the large one has its turn."""

    async def scenario() -> None:
        budget, served = Budget(10), list[int]()

        async def take(number: int, size: int) -> None:
            await budget.take(size)
            served.append(number)

        await budget.take(8)
        waiting = [asyncio.create_task(take(n, size)) for n, size in enumerate((9, 1, 1))]
        await turn()
        assert served == []
        budget.give(7)
        await turn()
        assert served == [0]
        budget.give(1)
        await turn()
        assert served == [0, 1]
        budget.give(9)
        await asyncio.gather(*waiting)
        assert served == [0, 1, 2]

    asyncio.run(scenario())


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 10), min_size=1, max_size=20),
    cancelled=st.sets(st.integers(0, 19)),
    steps=st.lists(st.booleans(), max_size=40),
)
def test_nothing_is_lost_and_the_bound_holds(
    sizes: list[int], cancelled: set[int], steps: list[bool]
) -> None:
    """Whoever is cancelled, waiting or just served, all others get their bytes, never too many."""

    async def scenario() -> None:
        budget, held, out = Budget(10), list[int](), 0

        async def take(size: int) -> None:
            nonlocal out
            await budget.take(size)
            out += size
            assert out <= 10
            held.append(size)

        def give() -> None:
            nonlocal out
            if held:
                out -= held[0]
                budget.give(held.pop(0))

        tasks = [asyncio.create_task(take(size)) for size in sizes]
        victims = [tasks[index] for index in sorted(cancelled) if index < len(tasks)]
        for is_give in steps:
            if is_give:
                give()
            elif victims:
                victims.pop().cancel()
            await asyncio.sleep(0)
        while not all(task.done() for task in tasks):
            give()
            await asyncio.sleep(0)
        await turn()
        while held:
            give()
        await asyncio.wait_for(budget.take(10), 10)  # all of it is there again

    asyncio.run(scenario())
