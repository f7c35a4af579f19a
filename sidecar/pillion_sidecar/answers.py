"""Answers from the store, as messages: for the service, and for the CLI where no sidecar runs."""

from dataclasses import replace

from google.protobuf.timestamp_pb2 import Timestamp

from pillion.v1 import run_pb2, telemetry_service_pb2
from pillion.values import to_key_values
from pillion_sidecar import run_search
from pillion_sidecar.environment import encode_environment
from pillion_sidecar.errors import unknown_run
from pillion_sidecar.records import encode_alert, encode_definition, encode_target
from pillion_sidecar.run_filter import parse_filters, parse_order
from pillion_sidecar.store import Store
from pillion_sidecar.stored_run import StoredRun
from pillion_sidecar.validation import check_run_id
from pillion_sidecar.validation_values import check_page_size


def list_runs(
    store: Store, request: telemetry_service_pb2.ListRunsRequest
) -> telemetry_service_pb2.ListRunsResponse:
    """Answer `ListRuns`."""
    limit = check_page_size(request.page_size)
    if request.reference:
        found = run_search.meant_by(store, request.reference)
        return telemetry_service_pb2.ListRunsResponse(
            runs=map(run_message, store.chosen_runs(found))
        )
    search = run_search.Search(
        request.project,
        parse_filters(request.filters),
        parse_order(request.order_by),
        request.order_by,
    )
    behind = run_search.decode_place(search, request.page_token)
    found, place = run_search.find_page(store, search, limit, behind)
    response = telemetry_service_pb2.ListRunsResponse(
        runs=map(run_message, store.chosen_runs(found))
    )
    if place is not None:
        response.next_page_token = run_search.encode_place(search, place)
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
        raise unknown_run(run_id)
    return run


def _timestamp(time_unix_nano: int | None) -> Timestamp | None:
    if time_unix_nano is None:
        return None
    timestamp = Timestamp()
    timestamp.FromNanoseconds(time_unix_nano)
    return timestamp
