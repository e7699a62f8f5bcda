"""Listens on `sira.sock` and keeps its connections."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

from sira.kernel.edge.door import Door
from sira.kernel.errors import AddressInUse, BadSetting, DataDirUnusable, SiraError
from sira.kernel.lent import Lent
from sira.kernel.local.direct import Direct
from sira.kernel.local.peer import peer_of
from sira.kernel.local.record import SOCKET_NAME
from sira.kernel.local.session import Session
from sira.kernel.logs import Logs
from sira.kernel.settings import Settings
from sira.kernel.trust.credential import Credential

PATH_BYTES_MAX = 107  # sockaddr_un, without its last zero
_BACKLOG = 1_024
_ACCEPTS_A_TURN = 64
_NO_FILES_S = 0.1  # without a free descriptor nothing is accepted for so long
_NO_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def socket_path(settings: Settings) -> Path:
    """Return where local clients reach the node.

    Raises:
        BadSetting: the data folder's path is longer than a socket's may be.
    """
    path = settings.data_path.absolute() / SOCKET_NAME
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise BadSetting(
            f"data_dir = {settings.data_dir!r} is too long for a Unix socket in it",
            details={"setting": "data_dir"},
        )
    return path


class Listener:
    """The socket and all that came by it. Belongs to the node's loop."""

    def __init__(
        self, settings: Settings, door: Door, logs: Logs, lent: Lent, direct: Direct
    ) -> None:
        """Take what serves the calls; nothing is opened before `listen`."""
        self._settings, self._door, self._logs = settings, door, logs
        self._lent, self._direct = lent, direct
        self._loop = asyncio.get_running_loop()
        self._sessions: dict[Session, None] = {}
        self._sock: socket.socket | None = None
        self._path: Path | None = None
        self._inode = (0, 0)
        self._resting: asyncio.TimerHandle | None = None
        self.refused = 0  # connections closed unheard: past the limit

    def __len__(self) -> int:
        """Return how many connections there are."""
        return len(self._sessions)

    @property
    def sessions(self) -> list[Session]:
        """The connections."""
        return list(self._sessions)

    def listen(self, path: Path) -> None:
        """Listen at `path`, in place of what a node before left there.

        Requires: nobody else listens there, which the lock of the data folder sees to.

        Raises:
            AddressInUse: something that is no socket has the name.
            DataDirUnusable: the folder takes no socket.
        """
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise AddressInUse(
                    f"{path} is there, and is no socket", details={"address": f"unix:{path}"}
                )
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.unlink(missing_ok=True)
            sock.bind(str(path))
            path.chmod(int(self._settings.socket_mode, 8))  # before it listens: nobody is in yet
            found = path.lstat()
            sock.setblocking(False)
            sock.listen(_BACKLOG)
        except OSError as error:
            sock.close()
            raise DataDirUnusable(
                f"no socket can be made at {path}: {error.strerror}",
                details={"data_dir": str(path.parent)},
            ) from error
        self._sock, self._path = sock, path
        self._inode = found.st_dev, found.st_ino
        self._loop.add_reader(sock.fileno(), self._accept)

    def adopt(self, sock: socket.socket, credential: Credential) -> None:
        """Serve one end of a socket pair whose other end was handed to a process (`SIRA_FD`).

        Args:
            credential: what whoever holds the other end acts with, unless it shows a token.
        """
        self._begin(sock, credential)

    async def close(self) -> None:
        """Listen no more, end every connection, and take the name away if it is still ours."""
        if self._resting is not None:
            self._resting.cancel()
        if self._sock is not None:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
            self._sock = None
        if self._path is not None:
            with contextlib.suppress(OSError):
                found = self._path.lstat()
                if (found.st_dev, found.st_ino) == self._inode:
                    self._path.unlink()
        for session in list(self._sessions):
            await session.close()
        self._direct.close()
        self._lent.close()

    # ---- connections -----------------------------------------------------------------------------

    def _accept(self) -> None:
        assert self._sock is not None, "called by its reader"
        for _ in range(_ACCEPTS_A_TURN):
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError as error:
                if error.errno not in _NO_FILES:
                    raise
                self._rest(error)
                return
            if len(self._sessions) >= self._settings.socket_connections_max:
                sock.close()
                self.refused += 1
                if self.refused.bit_count() == 1:  # 1, 2, 4, ...: a flood fills no log
                    self._logs.warning(
                        "local", "refused", "socket_connections_max is reached",
                        setting="socket_connections_max", refused=self.refused,
                    )  # fmt: skip
                continue
            self._begin(sock, None)

    def _begin(self, sock: socket.socket, handed: Credential | None) -> None:
        try:
            session = Session(
                sock,
                peer_of(sock, handed),
                door=self._door,
                settings=self._settings,
                lent=self._lent,
                direct=self._direct,
                over=self._over,
            )
        except OSError as error:  # gone again, or no descriptor left
            sock.close()
            self._logs.debug("local", "refused", str(error))
            return
        if not session.channel.closed:
            self._sessions[session] = None

    def _over(self, session: Session, error: SiraError | None) -> None:
        self._sessions.pop(session, None)
        if error is not None:
            self._logs.debug(
                "local", "refused", str(error), peer=str(session.peer), code=error.code
            )

    def _rest(self, error: OSError) -> None:
        """Accept nothing for a moment: there is no descriptor, and the loop would spin."""
        assert self._sock is not None, "it accepts"
        self._loop.remove_reader(self._sock.fileno())
        self._logs.warning("local", "no_files", f"no connection can be taken: {error.strerror}")
        self._resting = self._loop.call_later(_NO_FILES_S, self._accept_again)

    def _accept_again(self) -> None:
        self._resting = None
        if self._sock is not None:
            self._loop.add_reader(self._sock.fileno(), self._accept)
