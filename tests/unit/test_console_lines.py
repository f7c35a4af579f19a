"""Console lines: what a terminal would show in the end, within bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion_sidecar.console_lines import (
    BYTES_BURST,
    BYTES_PER_S,
    CUT_MARK,
    LINE_BYTES_MAX,
    LINES_MAX,
    ConsoleLines,
    LineSplitter,
)


def lines_of(*pieces: bytes) -> list[str]:
    """Return the lines of a stream that came in these pieces."""
    splitter = LineSplitter()
    lines = [line for piece in pieces for line in splitter.feed(piece)]
    return lines + splitter.end()


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"no end", ["no end"]),
        (b"\n\n", ["", ""]),
        (b"", []),
        (b"dos\r\n", ["dos"]),
        (b"10%\r50%\r100%\ndone\n", ["100%", "done"]),
        (b"\r10%\r50%", ["50%"]),
        (b"50%\r", ["50%"]),
        (b"50%\r    \rsaid\n", ["said"]),
        (b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07plain\x1b[K\n", ["red plain"]),
        (b"\xff\x00\xc3\xa9\n", ["\ufffd\x00é"]),
    ],
)
def test_line_is_what_a_terminal_shows_in_the_end(data: bytes, lines: list[str]) -> None:
    """A bar that is redrawn is its last state; colours are none of the text."""
    assert lines_of(data) == lines


@given(st.lists(st.sampled_from([b"a", b"\r", b"\n", "é".encode(), b"\r\n", b"12%"])), st.data())
def test_lines_do_not_depend_on_how_output_is_cut(parts: list[bytes], data: st.DataObject) -> None:
    """A read may end anywhere, within a character too."""
    whole = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)))))
    pieces = [whole[i:j] for i, j in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert lines_of(*pieces) == lines_of(whole)


@pytest.mark.parametrize("piece_bytes", [1000, 10**6])
def test_long_line_is_cut_with_a_mark(piece_bytes: int) -> None:
    """However long it gets, no more of it is kept than is shown."""
    splitter = LineSplitter()
    for _ in range(10**6 // piece_bytes):
        assert splitter.feed(b"x" * piece_bytes) == []
        assert len(splitter._rest) <= LINE_BYTES_MAX + 2
    assert splitter.feed(b"\nnext\n") == ["x" * LINE_BYTES_MAX + CUT_MARK, "next"]


def test_line_of_the_longest_length_is_whole() -> None:
    """The bound is what is kept, not one less."""
    assert lines_of(b"x" * LINE_BYTES_MAX + b"\n") == ["x" * LINE_BYTES_MAX]


def test_flood_is_thinned_and_counted() -> None:
    """Beyond the burst so much is kept as the rate allows, and the gap says how many were not."""
    sent: list[str] = []
    now_s = [0.0]
    lines = ConsoleLines(lambda some, _: sent.extend(some), monotonic=lambda: now_s[0])
    line = "x" * 1023
    for _ in range(2 * BYTES_BURST // 1024):
        lines.add([line], 1)
    assert sent == [line] * (BYTES_BURST // 1024)
    now_s[0] += 1.0
    lines.add([line], 1)
    assert sent[-2:] == [f"… {BYTES_BURST // 1024:,} lines left out: too many at once", line]
    for _ in range(BYTES_PER_S // 1024):
        lines.add([line], 1)
    lines.end()
    assert sent[-1] == "… 1 line left out: too many at once"


def test_lines_that_come_at_once_make_bounded_records() -> None:
    """One read may hold thousands of lines; a record takes so many."""
    sent: list[list[str]] = []
    ConsoleLines(lambda some, _: sent.append(some)).add(["x"] * (2 * LINES_MAX + 1), 1)
    assert [len(some) for some in sent] == [LINES_MAX, LINES_MAX, 1]


def test_a_record_is_as_bounded_where_a_gap_is_told() -> None:
    """The sidecar refuses a record of very many lines, and with it the rows of its batch."""
    sent: list[list[str]] = []
    lines = ConsoleLines(lambda some, _: sent.append(some), monotonic=lambda: 0.0)
    too_long = "x" * BYTES_BURST
    lines.add(["y"] * (LINES_MAX - 1) + [too_long] + ["y"] * (3 * LINES_MAX), 1)
    assert max(map(len, sent)) == LINES_MAX
    assert sum(map(len, sent)) == 4 * LINES_MAX  # with the gap's
