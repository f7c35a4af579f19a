"""Files that are logged beside numbers: what is handed over, and what bytes come of it."""

import io
import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from pillion import Audio, Html, Image, Table, Video
from pillion._file import FILE_BYTES_MAX, SOURCE_BYTES_MAX, File

RED = np.zeros((2, 3, 3), np.uint8)
RED[..., 0] = 255
PNG = Image(RED).encode()


def pixels_of(image: Image) -> Any:
    """Decode an image with a library that is not ours."""
    assert image.problem == ""
    assert image.media_type == "image/png"
    return np.asarray(PIL.Image.open(io.BytesIO(image.encode())))


@pytest.mark.parametrize("channels", [0, 1, 2, 3, 4])
def test_arrays_become_png_without_loss(channels: int) -> None:
    """Grey, with alpha and in colour, for every value of a byte."""
    shape = (7, 11, channels) if channels else (7, 11)
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    decoded = pixels_of(Image(array))
    assert np.array_equal(decoded, array[..., 0] if channels == 1 else array)
    assert Image(array, caption="x").attributes == {"caption": "x", "width": 11, "height": 7}


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]]), [[0, 128, 255]]),
        (np.array([[-1.0, 0.0, 1.0]]), [[0, 128, 255]]),
        (np.array([[-5.0, 100.4, 300.0, np.nan]]), [[0, 100, 255, 0]]),
        (np.array([[True, False]]), [[255, 0]]),
        (np.array([[0, 300]]), [[0, 255]]),
        (torch.tensor([[0.0, 1.0]], requires_grad=True), [[0, 255]]),
        (torch.zeros(3, 2, 5), np.zeros((2, 5, 3))),
        (np.zeros((3, 2, 5)), np.zeros((2, 5, 3))),
        (np.asfortranarray(RED)[::-1], RED),
    ],
)
def test_numbers_become_pixels(array: Any, expected: Any) -> None:
    """Of 0…1, of -1…1 or of bytes; a tensor's channels may come first."""
    assert np.array_equal(pixels_of(Image(array)), expected)


def test_what_the_caller_changes_later_changes_nothing() -> None:
    """Arrays, tensors, PIL's images, and rows of a table are copied."""
    array, tensor, picture = RED.copy(), torch.zeros(2, 2), PIL.Image.fromarray(RED)
    images = [Image(array), Image(tensor), Image(picture)]
    before = [pixels_of(image) for image in (Image(RED), Image(torch.zeros(2, 2)), Image(RED))]
    array[:], picture = 0, picture.paste((0, 0, 0), (0, 0, 3, 2))
    tensor += 1
    assert all(map(np.array_equal, map(pixels_of, images), before))
    table = Table(["a"], [[1]])
    snapshot = table.snapshot()
    table.add_data(2)
    assert json.loads(snapshot.encode()) == {"columns": ["a"], "data": [[1]]}


class Figure:
    """Saves itself as matplotlib's do."""

    def savefig(self, file: io.BytesIO, **_how: Any) -> None:
        """Write."""
        file.write(PNG)


@pytest.mark.parametrize(
    ("file", "media_type", "data"),
    [
        (Image, "image/png", PNG),
        (lambda path: Image(str(path)), "image/png", PNG),
        (lambda _: Image(bytearray(PNG)), "image/png", PNG),
        (lambda _: Image(b"\xff\xd8\xff..."), "image/jpeg", b"\xff\xd8\xff..."),
        (lambda _: Image(Figure()), "image/png", PNG),
        (lambda _: Html("<b>µ\udcff</b>"), "text/html", "<b>µ\\udcff</b>".encode()),
        (lambda _: Html(io.StringIO("<b>")), "text/html", b"<b>"),
        (Html, "text/html", PNG),
        (lambda _: Video(b"....", format="mp4"), "video/mp4", b"...."),
        (lambda _: Video(b"GIF89a.."), "image/gif", b"GIF89a.."),
        (lambda _: Audio(b"OggS...."), "audio/ogg", b"OggS...."),
    ],
)
def test_files_and_bytes_are_taken_as_they_are(
    tmp_path: Path, file: Any, media_type: str, data: bytes
) -> None:
    """With their type told by how they begin, or what they are called."""
    path = tmp_path / "image.png"
    path.write_bytes(PNG)
    made: File = file(path)
    path.unlink()  # it was read at once
    assert (made.problem, made.media_type, made.encode()) == ("", media_type, data)


@pytest.mark.parametrize(
    ("data", "channel_count", "frames"),
    [
        ([0.0, 1.0, -1.0, 2.0], 1, [0, 32767, -32767, 32767]),
        (np.array([0.5, -0.5], np.float32), 1, [16384, -16384]),
        (np.array([[1, 2], [3, 4], [5, 6]], np.int16), 2, [1, 2, 3, 4, 5, 6]),
        (torch.tensor([[0.0, 1.0], [0.0, -1.0]]), 2, [0, 0, 32767, -32767]),
    ],
)
def test_samples_become_wav(data: Any, channel_count: int, frames: list[int]) -> None:
    """Floats and 16-bit integers, mono and stereo; of a tensor channels come first."""
    audio = Audio(data, sample_rate=8000, caption="x")
    assert (audio.media_type, audio.attributes) == (
        "audio/wav",
        {"caption": "x", "sample_rate": 8000},
    )
    with wave.open(io.BytesIO(audio.encode())) as file:
        assert (file.getnchannels(), file.getframerate()) == (channel_count, 8000)
        assert np.frombuffer(file.readframes(100), "<i2").tolist() == frames


class Frame:
    """Has what pandas' DataFrame has."""

    columns = ("a", 5)

    def itertuples(self, **_how: Any) -> list[tuple[Any, ...]]:
        """Return the rows."""
        return [(1, np.float64(0.5)), (None, "x")]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (Table(["a", "b"], [[1, "x"], [None, [1.5, True]]]), [[1, "x"], [None, [1.5, True]]]),
        (Table(["a", "b"], np.array([[1, 2], [3, 4]])), [[1, 2], [3, 4]]),
        (Table(dataframe=Frame()), [[1, 0.5], [None, "x"]]),
        (Table(["a", "b"]), []),
    ],
)
def test_tables_are_json(table: Table, expected: list[Any]) -> None:
    """From lists, arrays and dataframes; cells are plain."""
    file = table.snapshot()
    assert file.media_type == "application/vnd.pillion.table+json"
    assert json.loads(file.encode())["data"] == expected


def spoilt_table() -> File:
    """Return a table with a row of another length."""
    table = Table(["a"])
    table.add_data(1, 2)
    return table.snapshot()


class HostileArray:
    """Looks like an array, and raises."""

    dtype, tobytes, ndim = "uint8", b"", 2

    @property
    def shape(self) -> Any:
        """Raise."""
        raise RuntimeError("boo")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Image("/nowhere.png"),
        lambda: Image(b"no image"),
        lambda: Image(object()),
        lambda: Image(HostileArray()),
        lambda: Image(np.zeros((2, 2, 7))),
        lambda: Image(np.zeros((4, 3, 2, 2))),
        lambda: Image(np.zeros((0, 2))),
        lambda: Image(np.array([["a"]])),
        lambda: Image(np.broadcast_to(np.uint8(0), (1 << 14, (SOURCE_BYTES_MAX >> 14) + 1))),
        lambda: Audio([1.0]),
        lambda: Audio(np.zeros((2, 2, 2)), sample_rate=1),
        lambda: Audio(np.zeros(2, np.int64), sample_rate=1),
        lambda: Video(np.zeros(2)),
        lambda: Video(b"what"),
        lambda: Html(bytes(FILE_BYTES_MAX + 1)),
        lambda: Table(["a"], [[1, 2]]).snapshot(),
        lambda: Table(5).snapshot(),  # type: ignore[arg-type]
        spoilt_table,
    ],
)
def test_what_cannot_be_taken_has_a_problem_and_raises_nothing(make: Any) -> None:
    """A training loop goes on; the reason is there for a warning."""
    assert make().problem
