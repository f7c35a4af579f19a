"""Where a writer runs, as it says itself: decoded from the journal, and back into messages."""

from dataclasses import dataclass

from pillion.process import ProcessIdentity
from pillion.v1 import record_pb2


@dataclass(frozen=True, slots=True)
class GitState:
    """The state of a git checkout."""

    commit: str = ""
    branch: str = ""
    remote_url: str = ""


@dataclass(frozen=True, slots=True)
class Package:
    """An installed package."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that the process may use; 0 and empty for what is not known."""

    name: str
    memory_bytes: int
    index: int
    uuid: str


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a writer runs, as it says itself; empty for what it does not say."""

    host: str = ""
    process: ProcessIdentity | None = None
    program: str = ""
    python_version: str = ""
    platform: str = ""
    client_version: str = ""
    arguments: tuple[str, ...] = ()
    git: GitState | None = None
    packages: tuple[Package, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    cpu_count: int = 0
    memory_bytes: int = 0

    @property
    def is_of_command(self) -> bool:
        """Whether `pillion run` says it, of the command that it runs: our client, but no Python."""
        return bool(self.client_version) and not self.python_version


def decode_environment(message: record_pb2.Environment) -> Environment:
    """Decode where a writer runs."""
    process = git = None
    if message.HasField("process"):
        process = ProcessIdentity(
            boot_id=message.process.boot_id,
            pid_namespace=message.process.pid_namespace,
            pid=message.process.pid,
            start_time_ticks=message.process.start_time_ticks,
        )
    if message.HasField("git"):
        git = GitState(message.git.commit, message.git.branch, message.git.remote_url)
    return Environment(
        host=message.host,
        process=process,
        program=message.program,
        python_version=message.python_version,
        platform=message.platform,
        client_version=message.client_version,
        arguments=tuple(message.arguments),
        git=git,
        packages=tuple(Package(each.name, each.version) for each in message.packages),
        gpus=tuple(Gpu(g.name, g.memory_bytes, g.index, g.uuid) for g in message.gpus),
        cpu_count=message.cpu_count,
        memory_bytes=message.memory_bytes,
    )


def encode_environment(environment: Environment) -> record_pb2.Environment:
    """Encode where a writer runs."""
    message = record_pb2.Environment(
        host=environment.host,
        program=environment.program,
        python_version=environment.python_version,
        platform=environment.platform,
        client_version=environment.client_version,
        arguments=environment.arguments,
        packages=[record_pb2.Package(name=p.name, version=p.version) for p in environment.packages],
        gpus=[
            record_pb2.Gpu(name=g.name, memory_bytes=g.memory_bytes, index=g.index, uuid=g.uuid)
            for g in environment.gpus
        ],
        cpu_count=environment.cpu_count,
        memory_bytes=environment.memory_bytes,
    )
    if (process := environment.process) is not None:
        message.process.boot_id = process.boot_id
        message.process.pid_namespace = process.pid_namespace
        message.process.pid = process.pid
        message.process.start_time_ticks = process.start_time_ticks
    if (git := environment.git) is not None:
        message.git.commit, message.git.branch = git.commit, git.branch
        message.git.remote_url = git.remote_url
    return message
