"""Files that are logged in a row beside its numbers: images, audio, video and HTML.

PIL, numpy, torch and matplotlib are used where the caller hands over what is theirs; none of them
is imported here.
"""

import array
import io
import mimetypes
from collections.abc import Callable, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from pillion._file import File, NotTakenError, array_of, bytes_of
from pillion._png import encode_png, to_pixels
from pillion.plain import to_text

_Captured = tuple[str, int, Callable[[], bytes]]

_SIGNS = (
    (b"\x89PNG\r\n\x1a\n", 0, "image/png"),
    (b"\xff\xd8\xff", 0, "image/jpeg"),
    (b"GIF8", 0, "image/gif"),
    (b"BM", 0, "image/bmp"),
    (b"WEBP", 8, "image/webp"),
    (b"<svg", 0, "image/svg+xml"),
    (b"WAVE", 8, "audio/wav"),
    (b"fLaC", 0, "audio/flac"),
    (b"ID3", 0, "audio/mpeg"),
    (b"OggS", 0, "audio/ogg"),
    (b"ftyp", 4, "video/mp4"),
    (b"\x1aE\xdf\xa3", 0, "video/webm"),
)
"""How files begin: what, where, and what it then is."""
_CHANNELS, _CHANNELS_FIRST = (1, 2, 3, 4), (1, 3, 4)
_PCM_MAX = 32767


class Image(File):
    """An image: a path, encoded bytes, an array, a tensor, a PIL image or a matplotlib figure.

    Arrays are of shape (height, width) or (height, width, channels), tensors of torch's also of
    (channels, height, width); of bytes, of 0…1 or of -1…1.
    """

    def __init__(
        self,
        data: Any,
        mode: str | None = None,  # noqa: ARG002 - W&B's: it follows from the shape
        caption: str | None = None,
        **_more: Any,
    ) -> None:
        super().__init__(lambda: self._capture(data))
        self.describe(caption=caption)

    def _capture(self, data: Any) -> _Captured:
        if (encoded := bytes_of(data)) is not None:
            return _type_of(data, encoded, "image/"), len(encoded), lambda: encoded
        if hasattr(data, "savefig"):
            buffer = io.BytesIO()
            data.savefig(buffer, format="png", bbox_inches="tight")
            return "image/png", len(buffer.getvalue()), buffer.getvalue
        if hasattr(data, "getbands") and hasattr(data, "save"):
            picture = data.copy()
            self.describe(width=picture.width, height=picture.height)
            size_bytes = picture.width * picture.height * len(picture.getbands())
            return "image/png", size_bytes, lambda: _saved(picture)
        pixels = _upright(array_of(data), is_tensor=hasattr(data, "detach")).copy()
        self.describe(width=pixels.shape[1], height=pixels.shape[0])
        return "image/png", pixels.nbytes, lambda: encode_png(to_pixels(pixels))


class Audio(File):
    """Sound: a path, encoded bytes, or samples.

    Samples are of -1…1 or 16-bit integers, of shape (samples,) or (samples, channels), and need a
    `sample_rate`. They are kept as WAV.
    """

    def __init__(
        self, data: Any, sample_rate: int | None = None, caption: str | None = None, **_more: Any
    ) -> None:
        super().__init__(lambda: self._capture(data, sample_rate))
        self.describe(caption=caption, sample_rate=sample_rate)

    def _capture(self, data: Any, sample_rate: int | None) -> _Captured:
        if (encoded := bytes_of(data)) is not None:
            return _type_of(data, encoded, "audio/"), len(encoded), lambda: encoded
        if not sample_rate:
            raise NotTakenError("samples need a sample_rate")
        samples, channel_count = _samples(data)
        rate = int(sample_rate)
        return "audio/wav", len(samples), lambda: _wav(samples, channel_count, rate)


class Video(File):
    """A video: a path, or encoded bytes and their format, `mp4`, `webm` or `gif`."""

    def __init__(
        self,
        data: Any,
        caption: str | None = None,
        fps: int | None = None,
        format: str | None = None,
        **_more: Any,
    ) -> None:
        super().__init__(lambda: self._capture(data, format))
        self.describe(caption=caption, fps=fps)

    def _capture(self, data: Any, format_: str | None) -> _Captured:
        if (encoded := bytes_of(data)) is None:
            raise NotTakenError("a video is a path, or encoded bytes")
        name = f"x.{format_}" if format_ else data
        return _type_of(name, encoded, "video/", "image/gif"), len(encoded), lambda: encoded


class Html(File):
    """HTML: text, an open file, or the path of one that ends in `.html`."""

    def __init__(self, data: Any, caption: str | None = None, **_more: Any) -> None:
        super().__init__(lambda: self._capture(data))
        self.describe(caption=caption)

    def _capture(self, data: Any) -> _Captured:
        if isinstance(data, PathLike) or (isinstance(data, str) and data.endswith(".html")):
            encoded = bytes_of(data)
        else:
            text = data.read() if hasattr(data, "read") else data
            encoded = text if isinstance(text, bytes) else to_text(text).encode()
            encoded = bytes_of(encoded)
        assert encoded is not None
        return "text/html", len(encoded), lambda: encoded


def _type_of(source: Any, encoded: bytes, *kinds: str) -> str:
    """Return the media type of bytes by their beginning, else by the name of their file."""
    head = encoded[:16]
    found = [kind for sign, start, kind in _SIGNS if head[start : start + len(sign)] == sign]
    if isinstance(source, str | PathLike):
        guessed, _ = mimetypes.guess_type(Path(fspath(source)).name)
        found.append(guessed or "")
    for media_type in found:
        if media_type.startswith(kinds):
            return media_type
    raise NotTakenError(f"nothing is known of its format, among {', '.join(kinds)}")


def _upright(pixels: Any, *, is_tensor: bool) -> Any:
    """Return pixels of shape (height, width) or (height, width, channels)."""
    if pixels.ndim == 3:  # noqa: PLR2004 - with channels
        is_first = pixels.shape[0] in _CHANNELS_FIRST
        if is_first and (is_tensor or pixels.shape[2] not in _CHANNELS):
            pixels = pixels.transpose(1, 2, 0)
    is_flat = pixels.ndim == 2  # noqa: PLR2004
    if pixels.dtype.kind not in "buif" or pixels.size == 0:
        raise NotTakenError(f"there are no pixels in {pixels.size} values of {pixels.dtype}")
    if not is_flat and not (pixels.ndim == 3 and pixels.shape[2] in _CHANNELS):  # noqa: PLR2004
        raise NotTakenError(f"an array of shape {pixels.shape} is no image; log a list of images")
    return pixels


def _saved(picture: Any) -> bytes:
    buffer = io.BytesIO()
    is_known = picture.mode in {"1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16"}
    (picture if is_known else picture.convert("RGB")).save(buffer, format="PNG")
    return buffer.getvalue()


def _samples(data: Any) -> tuple[bytes, int]:
    """Return samples as 16-bit little-endian PCM, and how many channels they are of."""
    if isinstance(data, Sequence):
        numbers = [round(min(max(float(each), -1.0), 1.0) * _PCM_MAX) for each in data]
        packed = array.array("h", numbers)
        if packed.itemsize != 2 or array.array("H", [1]).tobytes() != b"\x01\x00":  # noqa: PLR2004
            raise NotTakenError("this machine's integers are of another kind")
        return packed.tobytes(), 1
    samples = array_of(data)
    if hasattr(data, "detach") and samples.ndim == 2:  # noqa: PLR2004
        samples = samples.transpose()  # torch has channels first
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise NotTakenError(f"an array of shape {samples.shape} is no sound")
    channel_count = samples.shape[1] if samples.ndim == 2 else 1  # noqa: PLR2004
    if samples.dtype.kind == "f":
        samples = (samples.clip(-1, 1) * _PCM_MAX).round()
    elif samples.dtype != "int16":
        raise NotTakenError(f"samples of {samples.dtype} are not known; take floats or int16")
    return samples.astype("<i2").tobytes(), channel_count


def _wav(samples: bytes, channel_count: int, sample_rate: int) -> bytes:
    import wave  # noqa: PLC0415 - in the sender's thread

    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channel_count)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(samples)
    return buffer.getvalue()
