"""A child process that is stopped at every system call that writes to its files, and killed there.

By ptrace, of a child that asked for it. The child is killed as the call is about to begin, or
right after it, so between any two there is a kill. And what a power cut leaves of a file is known:
what it was at its last sync.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from attrs import define, field

_TRACEME, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E
_TRACESYSGOOD, _EXITKILL = 1, 0x100000
_ENTRY = 1
# By number, which call it is; their first argument is the file's descriptor.
_CALLS = {
    "x86_64": {1: "write", 18: "pwrite", 20: "writev", 74: "sync", 75: "sync", 77: "truncate"},
    "aarch64": {64: "write", 68: "pwrite", 66: "writev", 82: "sync", 83: "sync", 46: "truncate"},
}[platform.machine()]
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


@define
class Killed:
    """How a child ended: its writes so far, its last words, and its files as of their last sync."""

    at: str | None
    said: bytes
    calls: int
    synced: dict[Path, bytes] = field(repr=False)


def killed(work: Callable[[Callable[[bytes], None]], None], folder: Path, point: int) -> Killed:
    """Fork, do the work, and end it by SIGKILL at a point, or let it end if it has fewer.

    Point 2n is before its nth call that writes to a file in the folder, point 2n + 1 after it. The
    work is given a function to say something by, which is there even if the next thing is a kill.
    """
    ears, mouth = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(ears)
            _ptrace(_TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            work(lambda words: _say(mouth, words))
        except BaseException:  # it is nobody else's: a fork has no caller to tell
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(mouth)
    with os.fdopen(ears, "rb") as heard:
        os.waitpid(child, 0)
        _ptrace(_SETOPTIONS, child, _TRACESYSGOOD | _EXITKILL)
        end = _run(child, folder, point)
        end.said = heard.read()
    return end


def _say(mouth: int, words: bytes) -> None:
    os.write(mouth, words)


def _run(child: int, folder: Path, point: int) -> Killed:
    end = Killed(None, b"", 0, {path: path.read_bytes() for path in folder.iterdir()})
    for call, path, after in _stops(child):
        if path.parent != folder:
            continue
        if after and call == "sync":
            end.synced[path] = path.read_bytes()
        if 2 * end.calls + after == point:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            end.at = f"{'after' if after else 'before'} {call} {end.calls} of {path.name}"
            return end
        end.calls += after
    return end


def _stops(child: int) -> Iterator[tuple[str, Path, bool]]:
    """Each call of the child that writes: which, to what file, and whether it is done."""
    running: tuple[str, Path] | None = None
    deliver = 0
    while True:
        _ptrace(_SYSCALL, child, deliver)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0, status
            return
        stopped_by = os.WSTOPSIG(status)
        deliver = 0 if stopped_by == signal.SIGTRAP | 0x80 else stopped_by
        if deliver:
            continue
        entered = _entered(child)
        if entered is not None:
            number, descriptor = entered
            call = _CALLS.get(number)
            running = (call, _file(child, descriptor)) if call else None
            if running:
                yield *running, False
        elif running:
            yield *running, True
            running = None


def _entered(child: int) -> tuple[int, int] | None:
    """The number and the first argument of the call that the child is about to make, if it is."""
    info = ctypes.create_string_buffer(88)
    size = _ptrace(_GET_SYSCALL_INFO, child, info, len(info))
    assert size > 0
    if info.raw[0] != _ENTRY:
        return None
    number, descriptor = struct.unpack_from("=QQ", info.raw, 24)
    return number, descriptor


def _file(child: int, descriptor: int) -> Path:
    return Path(f"/proc/{child}/fd/{descriptor}").readlink()


def _ptrace(request: int, child: int, data: object = 0, address: int = 0) -> int:
    pointer = data if isinstance(data, ctypes.Array) else ctypes.c_void_p(int(str(data)))
    done = _libc.ptrace(request, child, address, pointer)
    if done < 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x}")
    return int(done)


def cut_power(folder: Path, end: Killed) -> None:
    """Make the folder what it is once the power is back: of each file what its last sync had."""
    for path in folder.iterdir():
        if path in end.synced and not path.name.endswith("-shm"):
            path.write_bytes(end.synced[path])
        else:
            path.unlink()
