"""Places for long reads: how many there are, and how they make way for intake."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from pillion_sidecar import reading_places
from pillion_sidecar.errors import LimitError
from pillion_sidecar.reading_places import READS_MAX, ReadingPlaces


def test_a_place_is_free_again_when_its_call_has_ended() -> None:
    """One too many is refused; nobody else is."""

    async def read() -> None:
        places = ReadingPlaces(lambda: False)
        open_ones = [places.items(lambda: iter([1, 2])) for _ in range(READS_MAX)]
        for each in open_ones:
            assert await anext(each) == 1
        with pytest.raises(LimitError, match="Take fewer"):
            await anext(places.items(lambda: iter([1])))
        assert [item async for item in open_ones[0]] == [2]
        assert [item async for item in places.items(lambda: iter([3]))] == [3]
        for each in open_ones:
            await each.aclose()

    asyncio.run(read())


@pytest.mark.parametrize("is_busy", [False, True])
def test_reading_rests_while_intake_is_busy(is_busy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than it read, after each item; not at all else."""
    rests: list[float] = []
    sleep = asyncio.sleep

    async def rest(duration_s: float) -> None:
        rests.append(duration_s)
        await sleep(0)

    monkeypatch.setattr(reading_places.asyncio, "sleep", rest)

    def items() -> Iterator[int]:
        yield from range(3)

    async def read() -> list[Any]:
        return [item async for item in ReadingPlaces(lambda: is_busy).items(items)]

    assert asyncio.run(read()) == [0, 1, 2]
    assert len(rests) == (5 if is_busy else 0)  # the iterator is made, and its end is looked for
    assert all(duration_s > 0 for duration_s in rests)
