"""What W&B is told of the trainer: its host, program, packages and GPUs, and how loaded they are.

By default the SDK describes the process that it is in, which is the sidecar's. Of that nothing is
recorded. The machine is sampled by wandb-core, around the trainer's process, while that lives here.
"""

import json
import os
from pathlib import Path
from typing import Any

from pillion.process import ProcessIdentity, is_alive, process_identity
from pillion_sidecar.environment import Environment
from pillion_sidecar.records import RunStart

SAMPLING_INTERVAL_S = 15.0
"""How often the machine is sampled; W&B's own default."""
METADATA, REQUIREMENTS = "wandb-metadata.json", "requirements.txt"
"""The names under which W&B's pages look for what describes a run."""


def trainer_settings(start: RunStart) -> dict[str, Any]:
    """Return the SDK's settings that say where the run is."""
    environment = start.environment
    settings: dict[str, Any] = {
        "host": environment.host or "unknown",
        "program": environment.program or "unknown",
        "disable_git": True,  # it would look where this process is
        "x_disable_meta": True,
        "x_save_requirements": False,
    }
    if (git := environment.git) is not None:
        settings["git_commit"] = git.commit or None
        settings["git_remote_url"] = git.remote_url or None
    if _is_here(environment.process):
        assert environment.process is not None
        settings["x_stats_pid"] = environment.process.pid
        settings["x_stats_track_process_tree"] = True
        settings["x_stats_sampling_interval"] = SAMPLING_INTERVAL_S
        if environment.gpus:
            settings["x_stats_gpu_device_ids"] = [gpu.index for gpu in environment.gpus]
        settings["x_disable_stats"] = settings["x_disable_machine_info"] = False
    else:
        settings["x_disable_stats"] = settings["x_disable_machine_info"] = True
    return settings


def write_files(sdk_run: Any, start: RunStart) -> None:
    """Lay down what W&B's pages show of the machine and the packages, as files of the run."""
    environment = start.environment
    requirements = "".join(f"{each.name}=={each.version}\n" for each in environment.packages)
    files = {METADATA: json.dumps(_metadata(start), indent=2), REQUIREMENTS: requirements}
    for name, text in files.items():
        if text:
            path = Path(sdk_run.dir) / name
            path.write_text(text, encoding="utf-8")
            sdk_run.save(str(path), base_path=sdk_run.dir, policy="now", glob=False)


def _metadata(start: RunStart) -> dict[str, Any]:
    """Return what W&B's SDK of the trainer's process would have written."""
    environment = start.environment
    metadata: dict[str, Any] = {
        "host": environment.host,
        "os": environment.platform,
        "python": environment.python_version,
        "program": environment.program,
        "args": list(environment.arguments),
        **_machine(environment),
    }
    if (git := environment.git) is not None:
        metadata["git"] = {"remote": git.remote_url, "commit": git.commit}
    return {name: value for name, value in metadata.items() if value}


def _machine(environment: Environment) -> dict[str, Any]:
    gpus = environment.gpus
    return {
        "cpu_count": environment.cpu_count,
        "memory": {"total": str(environment.memory_bytes)} if environment.memory_bytes else None,
        "gpu": gpus[0].name if gpus else "",
        "gpu_count": len(gpus),
        "gpu_nvidia": [
            {"name": gpu.name, "memoryTotal": str(gpu.memory_bytes), "uuid": gpu.uuid}
            for gpu in gpus
        ],
    }


def _is_here(process: ProcessIdentity | None) -> bool:
    """Tell whether a process lives, on this host and under the number that we know it by."""
    here = process_identity(os.getpid())
    return (
        process is not None
        and here is not None
        and process.boot_id == here.boot_id
        and process.pid_namespace == here.pid_namespace
        and is_alive(process)
    )
