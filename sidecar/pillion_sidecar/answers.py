"""Answers from the store, as messages: for the service, and for the CLI where no sidecar runs."""

import re
from dataclasses import replace

from google.protobuf.timestamp_pb2 import Timestamp

from pillion.v1 import run_pb2, telemetry_service_pb2
from pillion.values import to_key_values
from pillion_sidecar.environment import encode_environment
from pillion_sidecar.errors import PeerError, StateError
from pillion_sidecar.records import RunId, encode_alert, encode_definition, encode_target
from pillion_sidecar.store import PageKey, Store, StoredRun
from pillion_sidecar.validation import check_run_id

PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX = 100, 1000


def list_runs(
    store: Store, request: telemetry_service_pb2.ListRunsRequest
) -> telemetry_service_pb2.ListRunsResponse:
    """Answer `ListRuns`."""
    if not 0 <= request.page_size <= PAGE_SIZE_MAX:
        raise PeerError(f"page_size: 1 to {PAGE_SIZE_MAX}, or 0 for {PAGE_SIZE_DEFAULT}.")
    limit = request.page_size or PAGE_SIZE_DEFAULT
    runs = store.runs(
        request.project or None, limit=limit + 1, before=_page_key(request.page_token)
    )
    response = telemetry_service_pb2.ListRunsResponse(runs=map(run_message, runs[:limit]))
    if len(runs) > limit:
        time_unix_nano, run_id = runs[limit - 1].page_key
        response.next_page_token = f"{time_unix_nano}:{run_id}"
    return response


def get_run(
    store: Store, request: telemetry_service_pb2.GetRunRequest
) -> telemetry_service_pb2.GetRunResponse:
    """Answer `GetRun`."""
    run = find_run(store, request.run_id)
    message = run_message(run)
    message.environment.CopyFrom(encode_environment(run.environment))
    message.alerts.extend(map(encode_alert, reversed(store.alerts(run.run_id))))
    return telemetry_service_pb2.GetRunResponse(run=message)


def run_message(run: StoredRun) -> run_pb2.Run:
    """Turn a run into its message, without its packages, which are many, and alerts."""
    return run_pb2.Run(
        run_id=run.run_id,
        project=run.project,
        name=run.name,
        state=run.state.proto_name,
        reason=run.reason,
        exit_code=run.exit_code,
        group=run.group,
        job_type=run.job_type,
        tags=run.tags,
        notes=run.notes,
        config=to_key_values(run.config),
        summary=to_key_values(run.summary),
        environment=encode_environment(replace(run.environment, packages=())),
        start_time=_timestamp(run.start_time_unix_nano),
        end_time=_timestamp(run.end_time_unix_nano),
        row_count=run.row_count,
        last_step=run.last_step,
        lost_row_count=run.lost_row_count,
        model=run.model,
        dataset=run.dataset,
        use_case=run.use_case,
        definitions=map(encode_definition, run.definitions),
        wandb=encode_target(run.wandb),
    )


def find_run(store: Store, run_id: str) -> StoredRun:
    """Return a run; raise StateError if there is none."""
    run = store.run(check_run_id(run_id))
    if run is None:
        raise StateError(
            f"There is no run {run_id}. `pillion runs` lists those there are.", "RUN_UNKNOWN"
        )
    return run


def _page_key(token: str) -> PageKey | None:
    if not token:
        return None
    time_unix_nano, _, run_id = token.partition(":")
    if not re.fullmatch("[0-9]{1,19}", time_unix_nano) or int(time_unix_nano) >= 2**63:
        raise PeerError("page_token: take it from the page before, as it is.")
    return int(time_unix_nano), RunId(run_id)


def _timestamp(time_unix_nano: int | None) -> Timestamp | None:
    if time_unix_nano is None:
        return None
    timestamp = Timestamp()
    timestamp.FromNanoseconds(time_unix_nano)
    return timestamp
