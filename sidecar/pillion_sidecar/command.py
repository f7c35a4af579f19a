"""A command that runs as if nobody were between it and its terminal, while what it prints is read.

It stays in our process group, with our standard input: Ctrl-C and Ctrl-Z reach it from the terminal
as ever. Where our output is a terminal it gets one of its own, raw, so that colours and progress
bars work; else a pipe. Output that goes to one place goes through one pipe, which keeps its order.
Knows nothing of runs. One per process: signals are the process's.
"""

import errno
import fcntl
import functools
import os
import select
import signal
import struct
import termios
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

ENDING_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""What asks a command to end."""
NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""Exit codes for a command that could not be started, as shells have them."""

_FORWARDED = (*ENDING_SIGNALS, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP, signal.SIGCONT)
_TAKEN = (*_FORWARDED, signal.SIGWINCH, signal.SIGCHLD)
_READ_BYTES = 64 * 1024
_STDIN, _STDOUT, _STDERR = 0, 1, 2
_SI_KERNEL = 0x80
"""`si_code` of a signal from the terminal, which the whole process group got; see sigaction(2)."""
_LEAVE_POLL_S = 0.1

OnOutput = Callable[[int, bytes], None]
"""Takes a stream's number (1, 2; 0: both in one) and what was printed to it."""


class CommandError(Exception):
    """The command could not be started; `code` is the exit code for that."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True)
class _Stream:
    """One way from the command to our output."""

    number: int
    read_fd: int
    write_fd: int
    target_fd: int
    child_fds: tuple[int, ...]
    is_terminal: bool


class TakenSignals:
    """Takes the signals of the process, so that they are forwarded instead of ending us.

    Made by `take_signals`. What was ignored stays ignored, for the command too: `nohup` works.
    """

    def __init__(self) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.taken = [each for each in _TAKEN if signal.getsignal(each) != signal.SIG_IGN]
        self.former_mask = signal.pthread_sigmask(signal.SIG_BLOCK, self.taken)

    def ending(self) -> int:
        """Return a signal that asks us to end and has come meanwhile; 0 if none has."""
        pending = signal.sigpending()
        return next((each for each in ENDING_SIGNALS if each in pending), 0)

    def give_back(self) -> None:
        """Forget what has come since, and take no more."""
        while signal.sigtimedwait(self.taken, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, self.former_mask)


@functools.cache
def take_signals() -> TakenSignals:
    """Take the signals; only the first call does anything.

    It has to come before any thread is started, since threads inherit what is blocked, and one that
    blocks nothing would be handed the signal. Measured: importing numpy starts some.
    """
    return TakenSignals()


def open_standard_streams() -> None:
    """Open on /dev/null what of 0, 1 and 2 is closed, so that no file of ours gets the number."""
    for fd in (_STDIN, _STDOUT, _STDERR):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            os.set_inheritable(fd, True)


def run_command(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    signals: TakenSignals,
    on_output: OnOutput,
) -> int:
    """Run a command to its end; return its exit code, negative for the signal that killed it.

    Args:
        arguments: The command and its arguments; it is looked up in PATH.
        environment: The command's, whole.
        signals: What is forwarded.
        on_output: Called by several threads, but for one stream by one only.

    Raises:
        CommandError: It cannot be started.
    """
    streams = _streams()
    try:
        pid = _spawn(arguments, environment, signals, streams)
    except BaseException:
        for stream in streams:
            os.close(stream.read_fd)
        raise
    finally:
        for stream in streams:
            os.close(stream.write_fd)
    leave, leave_theirs = os.pipe()
    pumps = [
        threading.Thread(target=_pump, args=(stream, leave, on_output), daemon=True)
        for stream in streams
    ]
    for pump in pumps:
        pump.start()
    _forward_until_end(pid, signals, streams)
    # What others of its children print from now on is theirs: only what is there is passed on.
    os.close(leave_theirs)
    for pump in pumps:
        while pump.is_alive() and not signals.ending():  # the user's way out of a stuck pipe
            pump.join(_LEAVE_POLL_S)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _streams() -> list[_Stream]:
    """Make the way for each of our outputs; one for both where they are the same file."""
    try:
        if os.path.sameopenfile(_STDOUT, _STDERR):
            return [_stream(0, _STDOUT, (_STDOUT, _STDERR))]
        return [_stream(fd, fd, (fd,)) for fd in (_STDOUT, _STDERR)]
    except (OSError, termios.error):
        return []  # no terminal or file to be had: the command prints for itself, unread


def _stream(number: int, target_fd: int, child_fds: tuple[int, ...]) -> _Stream:
    is_terminal = os.isatty(target_fd)
    if is_terminal:
        read_fd, write_fd = os.openpty()
        attributes = termios.tcgetattr(target_fd)
        attributes[1] &= ~termios.OPOST  # the real terminal does that, once is enough
        termios.tcsetattr(write_fd, termios.TCSANOW, attributes)
    else:
        read_fd, write_fd = os.pipe()
    stream = _Stream(number, read_fd, write_fd, target_fd, child_fds, is_terminal)
    _pass_window_size(stream)
    return stream


def _spawn(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    signals: TakenSignals,
    streams: Sequence[_Stream],
) -> int:
    try:
        return os.posix_spawnp(
            arguments[0],
            list(arguments),
            environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, stream.write_fd, fd)
                for stream in streams
                for fd in stream.child_fds
            ],
            setsigmask=signals.former_mask,
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # Python ignores them, for itself
        )
    except OSError as error:
        is_missing = error.errno == errno.ENOENT
        what = "there is no such command" if is_missing else error.strerror
        raise CommandError(
            f"{arguments[0]}: it cannot be run: {what}.",
            NOT_FOUND if is_missing else NOT_EXECUTABLE,
        ) from error


def _forward_until_end(pid: int, signals: TakenSignals, streams: Sequence[_Stream]) -> None:
    """Hand signals on until the command is a zombie, which it stays: its number is not reused."""
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while os.waitid(os.P_PID, pid, flags) is None:
        info = signal.sigwaitinfo(signals.taken)
        number, is_of_terminal = info.si_signo, info.si_code == _SI_KERNEL
        if number == signal.SIGWINCH:
            for stream in streams:
                _pass_window_size(stream)
            os.kill(pid, number)  # if it looked before, at what the size was
        elif number in _FORWARDED and not is_of_terminal:
            os.kill(pid, number)
        if number == signal.SIGTSTP:
            os.kill(os.getpid(), signal.SIGSTOP)


def _pump(stream: _Stream, leave_fd: int, on_output: OnOutput) -> None:
    """Pass a stream on, until its end or, once `leave_fd` is closed, until nothing is left."""
    poll = select.poll()
    poll.register(stream.read_fd, select.POLLIN)
    poll.register(leave_fd, select.POLLIN)
    try:
        while any(fd == stream.read_fd for fd, _ in poll.poll()):
            data = os.read(stream.read_fd, _READ_BYTES)
            if not data:
                return
            on_output(stream.number, data)
            _write(stream.target_fd, data)
    except OSError:
        pass  # the end of a terminal, or nobody reads our output any more
    finally:
        os.close(stream.read_fd)  # so that the command learns it as it would without us


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # somebody else has made it so
            select.select([], [fd], [])


def _pass_window_size(stream: _Stream) -> None:
    if stream.is_terminal:
        with suppress(OSError):  # the terminal is gone, or the command has ended
            size = fcntl.ioctl(stream.target_fd, termios.TIOCGWINSZ, bytes(struct.calcsize("HHHH")))
            fcntl.ioctl(stream.read_fd, termios.TIOCSWINSZ, size)
