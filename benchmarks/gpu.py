"""Checks on a GPU that logging a number there waits for nothing; prints what it cost.

    python benchmarks/gpu.py

The device is kept busy for a while, a number is changed, logged and changed again. The call must be
back long before the device is, and the number must be the one of the call.
"""

import time

import torch

from pillion._tensors import Copy, read_number

BUSY_CYCLES = 2_000_000_000


def main() -> None:
    """Check, and print."""
    tensor = torch.zeros((), device="cuda")
    copy = read_number(tensor)  # the first one sets up pinned memory
    torch.cuda.synchronize()
    torch.cuda._sleep(BUSY_CYCLES)  # noqa: SLF001 - the one way to keep a device busy
    tensor += 1
    began_s = time.perf_counter()
    copy = read_number(tensor)
    call_us = (time.perf_counter() - began_s) * 1e6
    tensor += 1
    assert isinstance(copy, Copy)
    assert not copy.is_ready()
    torch.cuda.synchronize()
    busy_us = (time.perf_counter() - began_s) * 1e6
    assert copy.is_ready()
    assert copy.read() == 1.0
    print(f"{torch.cuda.get_device_name()}: the call took {call_us:.0f} µs, while the device was")
    print(f"busy for {busy_us:,.0f} µs; the number was that of the call.")


if __name__ == "__main__":
    main()
