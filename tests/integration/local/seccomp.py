"""A process that takes syscalls away from itself, by seccomp. Imports nothing of Sira."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

_NO_NEW_PRIVS, _SET_MODE_FILTER, _TSYNC = 38, 1, 1
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF: a word of the call; equal to k; the verdict
# Of linux/audit.h and the syscall tables; a machine that is not here has no test.
_MACHINES = {
    "x86_64": (0xC000003E, 317, {"open": 2, "openat": 257, "openat2": 437, "creat": 85,
                                 "socket": 41, "connect": 42, "bind": 49, "listen": 50}),
    "aarch64": (0xC00000B7, 277, {"openat": 56, "openat2": 437,
                                  "socket": 198, "connect": 203, "bind": 200, "listen": 201}),
}  # fmt: skip


def supported() -> bool:
    """Whether this machine's numbers are known."""
    return platform.machine() in _MACHINES


def confine() -> None:
    """From now on no thread of this process opens a file or makes, binds or connects a socket.

    Such calls fail with EACCES.

    Raises:
        OSError: the kernel takes no filter.
    """
    arch, seccomp, forbidden = _MACHINES[platform.machine()]
    program = [(_LOAD, 0, 0, 4), (_JUMP_EQUAL, 1, 0, arch), (_RETURN, 0, 0, _KILL)]
    program.append((_LOAD, 0, 0, 0))
    for left, number in zip(range(len(forbidden), 0, -1), forbidden.values(), strict=True):
        program.append((_JUMP_EQUAL, left, 0, number))
    program += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | errno.EACCES)]
    code = b"".join(struct.pack("=HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    head = ctypes.create_string_buffer(
        struct.pack("@HP", len(program), ctypes.addressof(buffer)), struct.calcsize("@HP")
    )
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    if libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(
        ctypes.c_long(seccomp), ctypes.c_ulong(_SET_MODE_FILTER), ctypes.c_ulong(_TSYNC), head
    ):
        raise OSError(ctypes.get_errno(), f"seccomp: {os.strerror(ctypes.get_errno())}")
