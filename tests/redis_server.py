"""A redis-server of a test's own, on a Unix socket: started, killed, stopped in the middle."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

WATCHDOG_S = 60.0
MISSING = "redis-server is not installed: sudo apt-get install -y redis-server"


class RedisServer:
    """Keeps nothing on disk."""

    def __init__(self, folder: Path, *options: str) -> None:
        """Put its socket into `folder`; options as on its command line."""
        self.socket, self._options = folder / "redis.sock", options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.socket))}"

    def start(self) -> None:
        """Return when it answers."""
        program = shutil.which("redis-server")
        assert program is not None, MISSING
        self._process = subprocess.Popen(
            [
                program, "--port", "0", "--unixsocket", str(self.socket), "--save", "",
                "--appendonly", "no", "--dir", str(self.socket.parent), *self._options,
            ],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        until_s = time.monotonic() + WATCHDOG_S
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return
            except redis.AuthenticationError:
                return
            except redis.ConnectionError:
                assert self._process.poll() is None, "redis-server has ended"
                assert time.monotonic() < until_s, "redis-server does not answer"
                time.sleep(0.01)

    def client(self, **given: Any) -> redis.Redis:
        once = Retry(NoBackoff(), 0)
        return redis.Redis(unix_socket_path=str(self.socket), retry=once, **given)

    def kill(self) -> None:
        """End it at once; what it held is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self.socket.unlink(missing_ok=True)
        self._process = None

    def pause(self) -> None:
        """Let it answer nothing, and close nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None:
            self.kill()


@contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    """Run one in a folder of its own, whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="sira-redis-") as folder:
        server = RedisServer(Path(folder), *options)
        server.start()
        try:
            yield server
        finally:
            server.stop()
