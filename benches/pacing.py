"""Wake an event loop at an instant to within microseconds.

uvloop's own timers, and epoll's, round up to a whole millisecond, which would be most of the
latency of a small request. On Linux an `Alarm` is a timerfd that the loop watches; elsewhere it is
`asyncio.sleep`.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time

from benches.payload import now_ns

TFD_TIMER_ABSTIME = 1


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("it_interval", _Timespec), ("it_value", _Timespec))


class Alarm:
    """Belongs to the running loop; one waiter at a time."""

    def __init__(self) -> None:
        self._fd = -1
        self._waiter: asyncio.Future[None] | None = None
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            flags = os.O_NONBLOCK | os.O_CLOEXEC  # TFD_NONBLOCK and TFD_CLOEXEC are these
            self._fd = self._libc.timerfd_create(time.CLOCK_MONOTONIC, flags)
            if self._fd < 0:
                raise OSError(ctypes.get_errno(), "timerfd_create")
            asyncio.get_running_loop().add_reader(self._fd, self._rang)

    def _rang(self) -> None:
        os.read(self._fd, 8)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def until(self, due_ns: int) -> None:
        """Return at `due_ns` on CLOCK_MONOTONIC, or at once when that has passed."""
        if (early_ns := due_ns - now_ns()) <= 0:
            return
        if self._fd < 0:
            await asyncio.sleep(early_ns / 1e9)
            return
        self._waiter = asyncio.get_running_loop().create_future()
        when = _Itimerspec(_Timespec(0, 0), _Timespec(*divmod(due_ns, 10**9)))
        if self._libc.timerfd_settime(self._fd, TFD_TIMER_ABSTIME, ctypes.byref(when), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        await self._waiter

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
