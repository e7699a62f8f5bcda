"""Files that hold secrets: read only where nobody else can, written so that nobody else ever could.

Errors tell the path and the reason, never a byte of what is in the file.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from tempfile import mkstemp

from sira.kernel.errors import BadSetting, Conflict
from sira.kernel.folders import sync_folder

SECRET_BYTES_MAX = 64 << 10
_HELP = (
    "a secret is a plain file, or a link to one, of mode 0600 (chmod 600; Kubernetes: defaultMode "
    "0400), whose owner is the user that runs the node, or root"
)


def read_secret(path: Path | str) -> bytes:
    """Return the bytes of a secret file.

    Raises:
        BadSetting: it is missing, a folder or a device, of another owner, longer than
            SECRET_BYTES_MAX, or more people than its owner may read or write it. Where root owns
            it and we are not root, its group may read it: so systems hand secrets to services.

    A link is followed, as Kubernetes mounts secrets: what is looked at is the file that was opened,
    whoever made the link. Who can place a link to a secret of ours can make us read that one and no
    other's.
    """
    try:
        # NONBLOCK: a pipe with no writer must not hold us.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise _bad(path, error.strerror or "cannot be opened") from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise _bad(path, "is no plain file")
        user = os.geteuid()
        if found.st_uid not in (0, user):
            raise _bad(path, f"belongs to user {found.st_uid}, not to {user} or root")
        handed_over = found.st_uid == 0 and user != 0
        if stat.S_IMODE(found.st_mode) & (0o037 if handed_over else 0o077):
            mode = stat.S_IMODE(found.st_mode)
            raise _bad(path, f"is of mode {mode:04o}: others than its owner may open it")
        data = b""
        while len(data) <= SECRET_BYTES_MAX and (part := os.read(fd, SECRET_BYTES_MAX)):
            data += part
    finally:
        os.close(fd)
    if len(data) > SECRET_BYTES_MAX:
        raise _bad(path, f"is longer than {SECRET_BYTES_MAX} bytes")
    return data


def read_secret_text(path: Path | str) -> str:
    """Return a secret file as text, without white space around it.

    Raises:
        BadSetting: as `read_secret`, or it is not UTF-8.
    """
    try:
        return read_secret(path).decode().strip()
    except UnicodeDecodeError:
        raise _bad(path, "is not UTF-8") from None


def write_secret(path: Path | str, data: bytes, *, replace: bool = False) -> None:
    """Write a file that only its owner may open; whole or not at all, also at a power cut.

    Raises:
        Conflict: it exists, and `replace` is not set.
        BadSetting: it cannot be written.
    """
    write_whole(path, data, mode=0o600, replace=replace)


def write_whole(path: Path | str, data: bytes, *, mode: int, replace: bool) -> None:
    """Write a file, whole or not at all. Never through a link: a link at `path` is replaced.

    Raises:
        Conflict: something is there, and `replace` is not set.
        BadSetting: it cannot be written.
    """
    path = Path(path)
    made = ""
    try:
        fd, made = mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600 from the start
        with open(fd, "wb") as opened:
            opened.write(data)
            opened.flush()
            os.fchmod(fd, mode)
            os.fsync(fd)
        if replace:
            os.rename(made, path)
            made = ""
        else:
            os.link(made, path)  # fails where something is, whoever was faster
        sync_folder(path.parent)
    except FileExistsError:
        raise Conflict(
            f"{path} is already there", details={"path": str(path)}, help="--force replaces it"
        ) from None
    except OSError as error:
        raise BadSetting(
            f"{path} cannot be written: {error.strerror or error}", details={"path": str(path)}
        ) from None
    finally:
        if made:
            with contextlib.suppress(OSError):
                os.unlink(made)


def _bad(path: Path | str, why: str) -> BadSetting:
    return BadSetting(f"{path}: {why}", details={"file": str(path)}, help=_HELP)
