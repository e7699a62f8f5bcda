"""Live state shared by Redis: what this node tells goes there, what others tell is read there.

Keys begin with `sira:live:1:LENGTH:CLUSTER:`, LENGTH being that of CLUSTER: no name of a cluster
can be made to read as another's.

- `pulse`, a hash: node -> `LIFE TURN`, or `LIFE -` as a farewell.
- `told:NODE`, a stream: an entry `TURN-N` for each part of a turn, with one field, tenant -> part.
  A tenant is a field's name, which no other name can run into. What is older than a lease is
  trimmed: all of a node's agents are told again within.

Both expire `KEPT_LEASES` leases after the last turn of whoever writes them. A turn each second is
one round trip. Nobody waits for it but the task here: what is answered comes from memory. When
Redis fails, is full or refuses, that is said once, and tried again ever more seldom; what was told
there is never believed to be there still.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote, urlsplit

import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from sira.kernel.settings.urls import HIDDEN
from sira.kernel.slices import Pace
from sira.registry.live import TICK_MS
from sira.registry.sharing import Part, Sharing

PREFIX = "sira:live:1"
KEPT_LEASES = 2
_FAREWELL_S = 1.0
_CANCEL_S = 0.1
_WAIT_S_MIN, _WAIT_S_MAX = 0.5, 10.0
_SLICE_S = 0.002
_ENTRIES_AT_ONCE = 64
_TEXT_CHARS_MAX = 300
_ROUNDS_MAX = 64  # of reading in one turn; the rest is read in the next
_FAILURES = (exceptions.RedisError, OSError, TimeoutError)


class Impostor(Exception):
    """Another node writes under this one's name."""


class RedisLive:
    """Follows and tells, from `start` to `stop`. Belongs to the node's loop."""

    def __init__(
        self,
        sharing: Sharing,
        url: str,
        *,
        cluster: str,
        password: str | None = None,
        said: Callable[[str, str], None],
        turn_s: float = TICK_MS / 1e3,
        answer_s: float = 2.0,
    ) -> None:
        """Begin unconnected.

        Args:
            url: redis://, rediss:// or unix://; see `sira.kernel.settings.urls`.
            cluster: nodes of others are not heard.
            password: None: that of the URL, if it has one.
            said: told once when it fails (why, as a stable word; and for the log), and once when it
                is well again ("", "").
            turn_s: a turn each so many seconds.
            answer_s: a command that is not answered for so long has failed; a turn may have twice
                that.
        """
        self._sharing, self._url, self._password = sharing, url, password
        self._prefix = f"{PREFIX}:{len(cluster)}:{cluster}:"
        self._said, self._turn_s, self._answer_s = said, turn_s, answer_s
        self._read: dict[str, str] = {}  # node -> id of its last entry
        self._life, self._turn = "", 0
        self._task: asyncio.Task[None] | None = None
        self.is_well = False
        self.failures = 0  # turns that failed, since the start
        self.flushes = 0  # how often what was told had vanished

    @property
    def turns(self) -> int:
        """How many turns there were since it connected."""
        return self._turn if self.is_well else 0

    def start(self) -> None:
        """Begin to follow and tell."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="sira-redis")

    async def stop(self) -> None:
        """End; the others are told so, where that can be said at once."""
        if self._task is None:
            return
        while not self._task.done():  # redis-py may swallow a cancellation
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_CANCEL_S)
        self._task = None
        if self.is_well:
            self.is_well = False
            client = self._open()
            with contextlib.suppress(*_FAILURES):
                async with asyncio.timeout(_FAREWELL_S):
                    pipe = client.pipeline(transaction=False)
                    pipe.hset(self._pulse, self._sharing.node, f"{self._life} -")
                    pipe.delete(self._told(self._sharing.node))
                    await pipe.execute()
            await _close(client)

    # ---- turns -----------------------------------------------------------------------------------

    async def _run(self) -> None:
        wait_s, loop = _WAIT_S_MIN, asyncio.get_running_loop()
        failing_since_s: float | None = None
        while True:
            client = self._open()
            try:
                await self._join(client)
                while True:
                    async with asyncio.timeout(2 * self._answer_s):
                        is_flushed = await self._take_turn(client)
                    failing_since_s = None
                    if self._turn > 1:  # and nobody has written over the first
                        wait_s = _WAIT_S_MIN
                        self._say("", "")
                    if is_flushed:
                        self.flushes += 1
                        await _paced(self._sharing.tell_all())
                    else:
                        await asyncio.sleep(self._turn_s)
            except Exception as error:  # whatever comes from there, it ends nothing here
                self.failures += 1
                self._say(
                    _word_of(error), self._without_password(f"{type(error).__name__}: {error}")
                )
            finally:
                await _close(client)
            failing_since_s = failing_since_s or loop.time()
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _WAIT_S_MAX)
            if loop.time() - failing_since_s >= self._sharing.rules.lease_ms / 1e3:
                await _paced(self._sharing.cut("what its node thinks of it cannot be heard"))

    async def _join(self, client: Any) -> None:
        """Begin a life: what was told in another one is taken away, and all is told and heard."""
        self._life, self._turn = secrets.token_hex(8), 0
        self._read.clear()
        self._sharing.joined()
        await client.delete(self._told(self._sharing.node))
        await _paced(self._sharing.tell_all())

    async def _take_turn(self, client: Any) -> bool:
        """Tell and hear once; return whether what was told before has vanished.

        Raises:
            RedisError, OSError, TimeoutError: it failed; nothing of it counts.
            Impostor: another node has this one's name.
        """
        node, turn = self._sharing.node, self._turn + 1
        kept_ms = KEPT_LEASES * self._sharing.rules.lease_ms
        pipe = client.pipeline(transaction=False)
        pipe.hget(self._pulse, node)
        pipe.hset(self._pulse, node, f"{self._life} {turn}")
        pipe.pexpire(self._pulse, kept_ms)
        pace, number = Pace(slice_s=_SLICE_S), 0
        oldest = max(0, turn - self._sharing.kept_turns)
        for part in self._sharing.parts(turn):
            if part is not None:
                number += 1
                pipe.execute_command(
                    "XADD", self._told(node), "MINID", "=", f"{oldest}-0", f"{turn}-{number}", *part
                )
            await pace.step()
        pipe.pexpire(self._told(node), kept_ms)
        pipe.hgetall(self._pulse)
        before, *_, pulses = await pipe.execute()
        if turn > 1 and before is not None and not before.startswith(self._life.encode()):
            raise Impostor(f"another node calls itself {node}, too")
        self._turn = turn
        await self._hear(client, pulses)
        return turn > 1 and before is None

    async def _hear(self, client: Any, pulses: dict[bytes, bytes]) -> None:
        """Read what is new of all nodes, then which of them live."""
        told: dict[str, tuple[str, int | None]] = {}
        for field, value in pulses.items():
            try:
                life, turn = value.decode("ascii").split(" ")
                told[field.decode()] = (life, None if turn == "-" else int(turn))
            except ValueError:  # of UnicodeDecodeError, too
                self._sharing.counts.garbled += 1
        # First which live: what a node tells after it was lost, or in a new life, is read anew.
        homes = self._sharing.homes
        known = set(homes)
        await _paced(self._sharing.pulses(told))
        if forgotten := known - homes.keys():
            await client.hdel(self._pulse, *forgotten)
        believed = {name for name, home in homes.items() if home.is_believed}
        for name in self._read.keys() - believed:
            del self._read[name]
        for name in believed - self._read.keys():  # all that is kept of it
            self._read[name] = "0-0"
        for _ in range(_ROUNDS_MAX):
            if not await self._read_some(client):
                break
        else:
            return
        await _paced(self._sharing.heard_all())

    async def _read_some(self, client: Any) -> bool:
        """Read and take some of each node; return whether there may be more."""
        names = {self._told(name).encode(): name for name in self._read}
        if not names:
            return False
        after = {key: self._read[name] for key, name in names.items()}
        is_more = False
        for key, entries in await client.xread(after, count=_ENTRIES_AT_ONCE):
            name = names[key]
            is_more = is_more or len(entries) == _ENTRIES_AT_ONCE
            for at, fields in entries:
                self._read[name] = at.decode()
                turn = int(at.partition(b"-")[0])
                for part in _parts(fields):
                    await _paced(self._sharing.hear(name, part, turn))
        return is_more

    # ----------------------------------------------------------------------------------------------

    def _open(self) -> Any:
        secret: dict[str, Any] = {} if self._password is None else {"password": self._password}
        return redis.asyncio.Redis.from_url(
            self._url, socket_timeout=self._answer_s, socket_connect_timeout=self._answer_s,
            retry=Retry(NoBackoff(), 0), client_name="sira", protocol=2, **secret,
        )  # fmt: skip

    def _without_password(self, text: str) -> str:
        secrets_ = (self._password, unquote(urlsplit(self._url).password or ""))
        for each in filter(None, secrets_):
            text = text.replace(each, HIDDEN)
        return text[:_TEXT_CHARS_MAX]

    @property
    def _pulse(self) -> str:
        return f"{self._prefix}pulse"

    def _told(self, node: str) -> str:
        return f"{self._prefix}told:{node}"

    def _say(self, word: str, text: str) -> None:
        is_well = not word
        if is_well != self.is_well or (not is_well and self.failures == 1):
            self.is_well = is_well
            self._said(word, text)


def _parts(fields: dict[bytes, bytes]) -> Iterable[Part]:
    for tenant, body in fields.items():
        with contextlib.suppress(UnicodeDecodeError):
            yield tenant.decode(), body


def _word_of(error: BaseException) -> str:
    """Return what is wrong, as one of a few words that say nothing of the server to strangers."""
    text = str(error)
    if isinstance(error, Impostor):
        return "NAME_TAKEN"
    # What redis-py makes of a refusal depends on its version and on where it meets it.
    if isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError) or any(
        each in text for each in ("Authentication", "username-password", "NOAUTH", "NOPERM")
    ):
        return "REFUSED"
    if isinstance(error, exceptions.TimeoutError | TimeoutError):
        return "SLOW"
    if isinstance(error, exceptions.OutOfMemoryError) or "maxmemory" in text:
        return "FULL"
    if isinstance(error, exceptions.ConnectionError | OSError):
        return "UNREACHABLE"
    return "FAILED"


async def _paced(steps: Iterable[None]) -> None:
    pace = Pace(slice_s=_SLICE_S)
    for _ in steps:
        await pace.step()


async def _close(client: Any) -> None:
    with contextlib.suppress(*_FAILURES):
        await client.aclose()
