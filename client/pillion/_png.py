"""Pixels as PNG, by zlib alone. Format: RFC 2083."""

import struct
import zlib
from typing import Any

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""By the number of channels: grey, grey with alpha, RGB, RGBA."""
_LEVEL = 6


def encode_png(pixels: Any) -> bytes:
    """Encode pixels: an array of uint8 of shape (height, width, channels), 1 to 4 of them."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOR_TYPES[channels], 0, 0, 0)
    data, stride = pixels.tobytes(), width * channels
    compressor = zlib.compressobj(_LEVEL)
    parts = []
    for start in range(0, len(data), stride):
        parts.append(compressor.compress(b"\0"))  # this row is as it is
        parts.append(compressor.compress(data[start : start + stride]))
    parts.append(compressor.flush())
    chunks = ((b"IHDR", header), (b"IDAT", b"".join(parts)), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(name, content) for name, content in chunks)


def to_pixels(array: Any) -> Any:
    """Make pixels of numbers: of 0…1, of -1…1, or else of 0…255.

    Args:
        array: Of shape (height, width) or (height, width, channels).
    """
    if array.ndim == 2:  # noqa: PLR2004 - one channel
        array = array[:, :, None]
    if array.dtype.kind == "b":
        return array.astype("uint8") * 255
    if array.dtype == "uint8":
        return array
    array = array.astype("float64")
    array[array != array] = 0  # noqa: PLR0124 - NaN is black
    least, largest = array.min(), array.max()
    if least >= 0 and largest <= 1:
        array = array * 255
    elif least >= -1 and largest <= 1:
        array = (array + 1) * 127.5
    return array.clip(0, 255).round().astype("uint8")


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)
