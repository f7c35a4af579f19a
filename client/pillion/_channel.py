"""How the client connects: options that every channel to a sidecar has."""

from typing import Any

from pillion.address import Address


def open_channel(grpc: Any, address: Address, answer_bytes_max: int = 4 * 1024 * 1024) -> Any:
    """Open a channel; -1: answers may have any size.

    Raises:
        AddressError: The socket's directory is not safe to use.
    """
    address.check_directory()
    options = [
        ("grpc.max_receive_message_length", answer_bytes_max),
        ("grpc.enable_http_proxy", 0),  # a proxy would be handed our token
        ("grpc.use_local_subchannel_pool", 1),  # our own pauses, not those of a former channel
    ]
    if address.path is None:
        options += [("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 10_000)]
    return grpc.insecure_channel(str(address), options=options)
