"""How a writer starts and ends: as it is known in plain Python, and as messages.

Messages are made in the client's threads only, so that `import pillion` loads no protobuf.
"""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pillion._environment import details

if TYPE_CHECKING:
    from pillion.v1 import telemetry_service_pb2


@dataclass(frozen=True, slots=True)
class Start:
    """What `init` was given, for `StartRunRequest`."""

    run_id: str
    writer_id: str
    resume: str
    fields: dict[str, Any]
    config: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finish:
    """How the writer ends."""

    exit_code: int
    state: str = ""
    reason: str = ""
    time_unix_nano: int = field(default_factory=time.time_ns, compare=False, repr=False)


def start_request(start: Start, resume: str) -> "telemetry_service_pb2.StartRunRequest":
    """Make the message that starts a writer; `resume` is `allow`, `never` or `must`."""
    from pillion.redaction import redact  # noqa: PLC0415 - some regular expressions
    from pillion.v1 import telemetry_service_pb2 as pb2  # noqa: PLC0415
    from pillion.values import to_key_values  # noqa: PLC0415

    fields = dict(start.fields)
    time_unix_nano = fields.pop("time_unix_nano")
    if "environment" in fields:
        fields["environment"] = {**fields["environment"], **details()}
    request = pb2.StartRunRequest(
        run_id=start.run_id,
        writer_id=start.writer_id,
        config=to_key_values(redact(start.config)),
        resume=getattr(pb2, f"RESUME_POLICY_{resume.upper()}"),
        **fields,
    )
    request.start_time.FromNanoseconds(time_unix_nano)
    return request


def finish_request(
    start: Start, finish: Finish, last_sequence: int, refused_rows: int, refused_values: int
) -> "telemetry_service_pb2.FinishRunRequest":
    """Make the message that ends a writer."""
    from pillion.v1 import telemetry_service_pb2 as pb2  # noqa: PLC0415

    request = pb2.FinishRunRequest(
        run_id=start.run_id,
        writer_id=start.writer_id,
        last_sequence=last_sequence,
        exit_code=finish.exit_code,
        state=f"RUN_STATE_{finish.state}" if finish.state else None,
        reason=finish.reason,
        refused_row_count=refused_rows,
        refused_value_count=refused_values,
    )
    request.end_time.FromNanoseconds(finish.time_unix_nano)
    return request
