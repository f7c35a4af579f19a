"""Answers `ReadMetrics` from the store: for the service, and for the CLI where no sidecar runs."""

from collections.abc import Iterator

from google.protobuf.timestamp_pb2 import Timestamp

from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.columns import encode_column, packed
from pillion_sidecar.downsampling import POINTS_MIN
from pillion_sidecar.errors import PeerError, unknown_run
from pillion_sidecar.segment_reading import Piece
from pillion_sidecar.selection import Selection, is_glob
from pillion_sidecar.series_reading import read_points
from pillion_sidecar.store import Store
from pillion_sidecar.validation import check_run_id
from pillion_sidecar.validation_values import KEY_BYTES_MAX

KEYS_MAX, GLOBS_MAX = 1_000, 16
POINTS_MAX = 1_000_000
MESSAGE_BYTES_MAX = 1024 * 1024
"""Of one answer, unless a single value is larger."""

_TIMES = record_pb2.MetricFrame.TIMES_UNIX_NANO_FIELD_NUMBER


def read_metrics(
    store: Store, request: pb2.ReadMetricsRequest
) -> Iterator[pb2.ReadMetricsResponse]:
    """Answer `ReadMetrics`. Nothing is held between two of the messages but the next ones."""
    selection = check_selection(request)
    run_id = check_run_id(request.run_id)
    if not store.has_run(run_id):
        raise unknown_run(run_id)
    for piece in read_points(store, run_id, selection):
        if len(piece):
            yield from _messages(piece)


def check_selection(request: pb2.ReadMetricsRequest) -> Selection:
    """Check what is asked for, as far as that can be told without the run."""
    if len(request.keys) > KEYS_MAX or sum(map(is_glob, request.keys)) > GLOBS_MAX:
        raise PeerError(
            f"keys: {len(request.keys):,} are too many. Take at most {KEYS_MAX:,} names or, of "
            f"these, {GLOBS_MAX} globs; none at all means every metric but `system/*`."
        )
    for key in request.keys:
        if len(key.encode()) > KEY_BYTES_MAX:
            raise PeerError(
                f"keys: {key[:80]!r}… has more than {KEY_BYTES_MAX:,} bytes; no metric's name has. "
                "Take a shorter name or glob."
            )
    if request.max_points and not POINTS_MIN <= request.max_points <= POINTS_MAX:
        raise PeerError(
            f"max_points: {request.max_points} is not possible. Take {POINTS_MIN} to "
            f"{POINTS_MAX:,}, or 0 for all points."
        )
    if request.stride < 0:
        raise PeerError(f"stride: {request.stride} is not possible. Take 1 or more.")
    if request.stride > 1 and request.max_points:
        raise PeerError("stride and max_points both thin out. Take one of them.")
    if request.min_ordinal < 0:
        raise PeerError(f"min_ordinal: {request.min_ordinal} is not possible. Take 0 or more.")
    selection = Selection(
        keys=tuple(dict.fromkeys(request.keys)),
        min_step=request.min_step if request.HasField("min_step") else None,
        max_step=request.max_step if request.HasField("max_step") else None,
        min_time_unix_nano=_time(request, "min_time"),
        max_time_unix_nano=_time(request, "max_time"),
        min_ordinal=request.min_ordinal,
        stride=max(1, request.stride),
        max_points=request.max_points,
    )
    for name, least, largest in (
        ("step", selection.min_step, selection.max_step),
        ("time", selection.min_time_unix_nano, selection.max_time_unix_nano),
    ):
        if least is not None and largest is not None and least > largest:
            raise PeerError(f"min_{name} is behind max_{name}: exchange them, or leave one out.")
    return selection


def _time(request: pb2.ReadMetricsRequest, field: str) -> int | None:
    if not request.HasField(field):
        return None
    timestamp: Timestamp = getattr(request, field)
    try:
        time_unix_nano = timestamp.ToNanoseconds()
    except ValueError as error:
        raise PeerError(f"{field}: that is no time ({error}). Write one as RFC 3339.") from error
    return max(-(2**63), min(time_unix_nano, 2**63 - 1))


def _messages(piece: Piece) -> Iterator[pb2.ReadMetricsResponse]:
    """Yield a piece, in halves where it is too large for one message."""
    message = pb2.ReadMetricsResponse(
        ordinals=piece.ordinals.tolist(),
        frame=record_pb2.MetricFrame(
            steps=piece.steps.tolist(),
            columns=[encode_column(key, column) for key, column in piece.columns.items()],
        ),
    )
    message.frame.MergeFromString(packed(_TIMES, piece.times_unix_nano.astype("<i8", copy=False)))
    if message.ByteSize() <= MESSAGE_BYTES_MAX or len(piece) * len(piece.columns) == 1:
        yield message
    elif len(piece) > 1:
        half = len(piece) // 2
        yield from _messages(piece.rows(slice(half)))
        yield from _messages(piece.rows(slice(half, None)))
    else:
        keys = [*piece.columns]
        half = len(keys) // 2
        yield from _messages(piece.of(keys[:half]))
        yield from _messages(piece.of(keys[half:]))
