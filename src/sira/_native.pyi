"""The C core as Python sees it: codec, message views, client and node data planes.

No policy, no sockets, no threads, no clocks beyond ids: every call that depends on time takes
`now_ns` (CLOCK_MONOTONIC). All types belong to the GIL; none may be shared by two event loops
without a lock. Errors are raised through the factory given to `bind`: `factory(code, message,
details)` returns the exception.
"""

import asyncio
from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextvars import ContextVar
from typing import Any, Final, Literal, Self, final

import numpy as np
from numpy.typing import NDArray

# ---- module (native/module.c) -------------------------------------------------------------------
def version() -> str: ...
def bind(
    *,
    error: Callable[[str, str, dict[str, str]], Exception],
    dtypes: Mapping[
        int, np.dtype[Any]
    ],  # wire code -> NumPy dtype (i4/u4: ml_dtypes, one byte an element)
    tensor_type: type,  # subclass of ndarray for decoded tensors
) -> None: ...
def new_id() -> bytes: ...
def now_ns() -> int: ...  # CLOCK_MONOTONIC
def keep_memory_warm() -> bool:
    """Let this process keep freed buffers of up to 1 GiB (mallopt). False: not glibc.

    Large messages then meet memory that is there already, for about 15 % less CPU. The node does
    it by itself; a client is asked first, since it changes the whole process.
    """

# ---- topics (native/topic.c) --------------------------------------------------------------------
def check_topic(name: str) -> None: ...  # raises BAD_TOPIC
def check_pattern(pattern: str) -> None: ...
def topic_match(pattern: str, name: str) -> bool: ...

# ---- searching texts (native/search_py.c) -------------------------------------------------------
# A text of ASCII alone is a str; any other is the list of its words, as `features.words` has them.
def text_features(text: str | list[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Places, ascending, and how often each: as registry/embed/features.py says."""

def fold_places(
    places: NDArray[np.int32], values: NDArray[np.float32], dims: int, unit: bool = False, /
) -> NDArray[np.float32]:
    """Project one sparse row to f32[dims]: as registry/embed/hashed.py says. unit: of length 1."""

def text_stems(text: str | list[str]) -> list[str]:
    """Stems of its words but for function words, in their order."""

@final
class Features:
    """Those of texts, a row each, packed: of one feature no more than 16,383 in a text count."""

    def __new__(cls, rows: list[tuple[NDArray[np.int32], NDArray[np.int32]]]) -> Features: ...
    def __len__(self) -> int: ...  # rows
    def row(self, i: int, /) -> tuple[NDArray[np.int32], NDArray[np.int32]]: ...  # places, counts

def count_features(
    have: NDArray[np.int32],
    logs: NDArray[np.float32],
    kept: NDArray[np.float32],
    features: Features,
    by: int,
    /,
) -> None:
    """Add `by` to `have` of each place; one that stands twice counts twice.

    logs: ln(1 + have) of all places. kept: the same of 0, 1, 2, ...; of more it is worked out.
    """

def cosines(
    all: list[Features],
    rows: int,
    logs: NDArray[np.float32],
    most: float,
    is_sharp: bool,
    spread: NDArray[np.float32],
    places: NDArray[np.int32],
    values: NDArray[np.float32],
    /,
) -> NDArray[np.float32]:
    """Cosines of all rows with a request, both weighed by `most - logs[place]`.

    is_sharp: that to the power of 1.5. spread: zeros of all places, before and after.
    """

@final
class Bm25:
    """Who has which stem or pair of stems. Entries stand in slots of the caller's choice."""

    def __new__(cls, seed: int) -> Bm25: ...
    def __len__(self) -> int: ...  # entries
    def put(self, slot: int, fields: list[tuple[float, str | list[str]]], /) -> None: ...
    def drop(self, slot: int, /) -> bool: ...
    # f32[slots]
    def scores(
        self, text: str | list[str], pair_weight: float, k1: float, b: float, /
    ) -> NDArray[np.float32]: ...
    def have(self, stem: str, /) -> int: ...
    def has(self, slot: int, stem: str, /) -> bool: ...

# ---- scanning vectors (native/index_py.c) -------------------------------------------------------
def code_words(dims: int, /) -> int:
    """Words of 64 bits in the code of a vector."""

def code_vector(vector: NDArray[np.float32], code: NDArray[np.uint64], /) -> None:
    """Write the code of a vector: as native/codes.h says. It is finite."""

def likely_rows(
    vectors: list[NDArray[np.float32]],
    codes: list[NDArray[np.uint64]],
    rows: int,
    rows_a_part: int,
    query: NDArray[np.float32],
    likely: int,
    /,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows that may be the nearest, and their products with the request.

    vectors, codes: parts, f32[n, dims] and u64[n, words], each `rows_a_part` rows but for the last.
    likely: so many rows, and those whose codes are as near as the last of them.
    """

# ---- contracts (native/contract.c) --------------------------------------------------------------
@final
class Contract:
    """Compiled tensor contract. Raises BAD_REQUEST when a text does not parse."""

    def __new__(cls, texts: Mapping[str, str]) -> Contract: ...
    def check(self, message: Message) -> str | None: ...  # why it does not fit; None: fits
    # two-line diff; None: some message fits both
    def unify(self, other: Contract) -> str | None: ...

# ---- message (native/message.c, tensor.c, dlpack.c) ---------------------------------------------
class Message:
    """A received or built message: lazy view of one encoded Message. Immutable.

    Subclasses add methods only (`__slots__ = ()`).
    """

    context: Any  # whoever owns the reply path; set by Mailbox, else None
    @classmethod
    def decode(
        cls, data: bytes | memoryview, *, message_bytes_max: int = ..., context: Any = None
    ) -> Message: ...
    @property
    def topic(self) -> str: ...
    @property
    def id(self) -> str: ...  # canonical UUID text
    @property
    def id_bytes(self) -> bytes: ...
    correlation_id_bytes: Final[bytes]  # b"" when absent, as the next
    stream_id_bytes: Final[bytes]
    # strings: "" when absent
    type: Final[str]
    content_type: Final[str]
    schema: Final[str]
    source: Final[str]
    reply_to: Final[str]
    traceparent: Final[str]
    dedupe_key: Final[str]
    key: Final[str]
    principal: Final[str]
    tenant: Final[str]
    # ids: UUID text or "" when absent
    correlation_id: Final[str]
    causation_id: Final[str]
    intent_id: Final[str]
    stream_id: Final[str]
    time_ns: Final[int]
    ttl_ns: Final[int]
    priority: Final[int]
    stream_seq: Final[int]
    stream_end: Final[bool]
    reply_kind: Final[int]
    attempt: Final[int]
    offset: Final[int | None]
    error: Final[bytes]  # encoded sira.v1.Error, b"" when absent
    @property
    def headers(self) -> dict[str, str]: ...
    @property
    def payload_bytes(self) -> int: ...
    @property
    # for an inline message: the Message; for a reassembled one: its head
    def encoded(self) -> memoryview: ...
    @property
    # body of bytes or text; BAD_REQUEST when the body is tensors
    def bytes(self) -> memoryview: ...
    @property
    def text(self) -> str: ...
    def keys(self) -> tuple[str, ...]: ...
    def values(self) -> list[NDArray[Any]]: ...
    def items(self) -> list[tuple[str, NDArray[Any]]]: ...
    def __getitem__(self, name: str, /) -> NDArray[Any]: ...  # read-only view; KeyError
    def __contains__(self, name: object, /) -> bool: ...
    def __len__(self) -> int: ...  # tensors; a message is true also when it has none
    def __bool__(self) -> Literal[True]: ...
    def __iter__(self) -> Iterator[str]: ...
    def specs(self) -> dict[str, tuple[str, tuple[int, ...]]]: ...  # name -> (dtype name, shape)
    # i4/u4 as they travel, two a byte, no copy
    def packed(self, name: str) -> NDArray[np.uint8]: ...

def dlpack(
    array: NDArray[Any],
    *,
    stream: Any = None,
    max_version: tuple[int, int] | None = None,
    dl_device: tuple[int, int] | None = None,
    copy: bool | None = None,
) -> Any:
    """DLPack capsule of any CPU array, read-only ones too (flag for consumers of 1.x, plain capsule
    else).
    """

@final
class Options:
    """Everything of an envelope that a publisher may set, checked once; reusable over many
    messages.
    """

    def __new__(
        cls,
        *,
        id: bytes | None = None,
        reply_to: str = "",
        type: str = "",
        content_type: str = "",
        schema: str = "",
        source: str = "",
        correlation_id: bytes = b"",
        causation_id: bytes = b"",
        intent_id: bytes = b"",
        traceparent: str = "",
        headers: Mapping[str, str] | None = None,
        dedupe_key: str = "",
        key: str = "",
        priority: int = 0,
        ttl_ns: int = 0,
        stream_id: bytes = b"",
        stream_seq: int = 0,
        stream_end: bool = False,
        reply_kind: int = 0,
        error: bytes = b"",
        fence_lease: str = "",
        fence_token: int = 0,
        quiet: bool = False,
        wait_ms: int | None = None,
        grade: int = 0,
    ) -> Options: ...

# A body: mapping of name -> array-like (NumPy, DLPack producer, buffer, scalar, list), bytes- like,
# str, Message (its body is sent again without decoding), or None (empty).
Body = Mapping[str, Any] | bytes | bytearray | memoryview | str | Message | None

def encode_message(topic: str, body: Body, options: Options | None = None) -> bytes: ...
def encode_iovec(topic: str, body: Body, options: Options | None = None) -> list[memoryview]:
    """The encoded Message as slices: payloads are the callers' own memory (gathered once if
    strided).
    """

def join_frame(messages: Sequence[bytes]) -> bytes: ...  # encoded Messages -> one Frame
def split_frame(frame: bytes) -> list[Message]: ...  # the inline messages of a Frame

# An encoded Frame with one control item; `body` is the encoded submessage (Open, Ended, ...).
def control_frame(kind: int, body: bytes) -> bytes: ...

@final
class Receipt:
    def __new__(
        cls,
        *,
        id: bytes,
        matched: int = 0,
        grade: str = "accepted",
        offset: int | None = None,
        lanes: Iterable[str] = (),
        copies: int = 0,
        bytes: int = 0,
        nodes: int = 0,
        spooled: bool = False,
    ) -> Receipt: ...
    id: Final[str]
    grade: Final[str]
    offset: Final[int | None]
    matched: Final[int]
    nodes: Final[int]
    lanes: Final[list[str]]
    copies: Final[int]
    bytes: Final[int]
    spooled: Final[bool]

# ---- client data plane (native/outbox.c, inbox.c, mailbox.c, pool.c) ----------------------------
class Outbox:
    """What a client has to publish on one Publish stream: batches, large transfers, windows,
    receipts.

    Small bodies (<= inline_bytes_max) are copied into the batch at once. Larger ones become
    transfers (head, chunks) that hold the caller's memory until their last chunk is taken.

    In shared memory: a body of lend_bytes_min or more for which `placer(topic, bytes)` gives a
    chunk of at least `bytes` is copied there by `push`, on whatever thread that is, and is a
    transfer of any size. A placer that gives the chunk in which the body lies already costs no
    copy. While the stream `lends`, its tensors leave by reference (segment, offset, lease), with
    their head and without credit, unless the chunk's arena was closed; else they leave as any
    other's. Memory is held until the message is answered and `returned` has named its leases.
    """

    placer: Callable[[str, int], ShmChunk | None] | None
    lends: bool  # set it when a stream begins; rewind() and clear() make it False
    lend_bytes_min: Final[int]
    leases: Final[int]  # chunks sent by reference that have not been returned

    def __new__(
        cls,
        *,
        source: str = "",
        window_messages: int = 4096,
        window_bytes: int = 8 << 20,
        batch_bytes: int = 224 << 10,
        inline_bytes_max: int = 256 << 10,
        chunk_bytes: int = (2 << 20) - (8 << 10),
        chunk_bytes_busy: int = 252 << 10,
        transfer_window_bytes: int = 8 << 20,
        wake: Callable[[], None] | None = None,
        placer: Callable[[str, int], ShmChunk | None] | None = None,
        lend_bytes_min: int = 64 << 10,
    ) -> Outbox: ...
    def push(
        self,
        topic: str,
        body: Body,
        options: Options | None = None,
        ticket: Any = None,
        *,
        loan: ShmChunk | None = None,
    ) -> bytes:
        """Queue one message; returns its id. `ticket` (any object) comes back from `feed` with the
        outcome; None: outcomes are only counted. Calls `wake` when the outbox was idle.

        A body whose tensors all lie in `loan` is that chunk: it is copied nowhere, whatever its
        size, and the receipt says copies 0 where all of it left by reference. One that does not
        lie there is as without a loan. What the placer raises is raised, and nothing is queued.
        """
    # False: window or batch buffer full, the caller should wait until `feed`/`take` makes room
    room: bool
    # False: window_bytes of large messages wait to be taken; wait until `take` makes room. Apart
    # from `room`, so that a 1 GiB tensor on its way keeps no small message waiting. Nor is there
    # where 448 of them are not answered. Past twice as much `push` of a large message raises
    # QUEUE_FULL.
    transfer_room: bool
    transfer_bytes: int  # bytes of large messages that wait to be taken
    ready: bool  # take() would return a frame now
    # messages sent or queued whose receipt has not come (quiet ones are not counted)
    unanswered: int
    accepted: int  # receipts without error so far
    refused: int
    def take(self, now_ns: int) -> bytes | None:
        """Next Frame to write, or None. Smaller messages by priority first, then chunks of
        transfers by (priority, deadline), alternating when both wait.
        """
    def feed(self, frame: bytes) -> list[tuple[Any, Receipt | bytes]]:
        """Take a Frame from the node. (ticket, Receipt) or (ticket, encoded Error) of messages with
        a ticket, in order; quiet messages come back only when refused. A Sender takes its receipts
        by itself: (sender, None) says so where somebody waits.
        """
    def rewind(self) -> tuple[int, list[Any]]:
        """The connection was lost. Unanswered messages are queued again, verbatim and first.
        Returns how many they are (for the `sira-resume` metadata) and tickets of transfers that
        cannot be repeated (their memory was given back): these are dropped from the queue, outcome
        unknown. Leases are forgotten, and their segments taken out of their arenas: nothing that
        somebody may still read is written again.
        """
    # nobody reads these any more; PROTOCOL_ERROR: a number that is not out (a forgotten one is let
    # go). Those before it count
    def returned(self, leases: Sequence[int], /) -> None: ...
    # forget a queued or unanswered message; an unfinished transfer is aborted
    def cancel(self, ticket: Any) -> bool: ...
    # drop everything, returns tickets; leases as in rewind()
    def clear(self) -> list[Any]: ...

    # ---- past the node: docs/shm.md. Each topic has a route of its own, or none.
    # Messages may go past the node; False drops all routes, as drop_routes() does. After the second
    # message on a topic that went by the node within 10 s, take() gives an Item.ask behind all that
    # was pushed before it.
    links: bool
    routes_live: Final[int]  # topics that have one now
    routes_granted: Final[int]
    routes_left: Final[int]
    routes_ended: Final[int]  # asks that asked_ended() would give
    posted: Final[int]  # messages that went past the node
    def direct(
        self,
        topic: str,
        body: Body,
        options: Options | None = None,
        loan: ShmChunk | None = None,
        wait_s: float = 0,
    ) -> Receipt | None:
        """Post one message to all targets of its topic's route, at once. For any thread.

        wait_s: how long it may wait for room at targets that wait, without the GIL; at most 20 ms
        and 1 ns a byte, and not again before something was posted. Not on an event loop's thread.

        None: nobody has it. It goes by the node then (`push`, which leaves the route), or is tried
        again where `blocked` says so. A quiet push, and Sender.send, try it by themselves. A
        `grade` past accepted, a `dedupe_key` and a fence always go by the node.
        """
    # post a request past the node, or its final answer, with what these always say and no more; as
    # `direct`, and waits for room as that does. False: nobody has it. A message that is traced, or
    # whose topic somebody waits for, is not answered here
    def ask(
        self,
        topic: str,
        body: Body,
        id: bytes,
        reply_to: str,
        timeout_s: float | None,
        loan: ShmChunk | None = None,
        /,
    ) -> bool: ...
    def answer(self, message: Message, body: Body, wait_s: float = ..., /) -> bool: ...
    # the end that has no room for the last message that direct() did not take on this topic: wait
    # for it to be taken from, then try again. None: it has, or there is no route any more
    def blocked(self, topic: str, /) -> ShmWriter | None: ...
    # the same, for an event loop: its `bell` rings when enough was taken. Ask again then
    def sleeps(self, topic: str, /) -> ShmWriter | None: ...
    # how long to wait for that at most: 20 ms, and 1 ns for each byte that waits
    def room_s(self, topic: str, /) -> float: ...
    # an answer of the node is expected, or the ask is about to leave: wait for it before sending on
    # this topic, but not for long. A push in the meantime ends it, and voids the grant
    def asking(self, topic: str, /) -> bool: ...
    # somebody waits for this topic's route: Sender.send asks `_send_later` until nobody does
    def line(self, topic: str, stands: bool, /) -> None: ...
    # idle, refused, wanted, asked or live; None: not known
    def route_state(self, topic: str, /) -> str | None: ...
    def route(
        self,
        ask: int,
        page: ShmPage,
        word: int,
        value: int,
        targets: list[
            tuple[ShmWriter, int, int, int]
            | tuple[ShmWriter, int, int, int, bool]
            | tuple[ShmWriter, int, int, int, bool, int]
        ],
        segments: list[int],
        matched: int,
    ) -> bool:
        """Take a grant; targets are (writer, cell, window, held_bytes_max, waits=True,
        window_bytes=no limit), their cells are opened. Who has no room at one that `waits` may
        wait for it, else goes by the node.

        False: it is void (a message went by the node since, the word has moved, or nothing was
        asked), and the caller is to give it back. PROTOCOL_ERROR: word or cell is out of range.
        """
    def refuse(self, ask: int, page: ShmPage | None, word: int, value: int, again_ms: int) -> None:
        """Take a refusal: nothing is asked for `again_ms`; 0: before the word has moved."""
    def asked_ended(self) -> list[int]: ...  # asks whose routes were left, each told once
    def broken_links(self) -> list[ShmWriter]: ...  # LINK_CORRUPT; each told once
    def drop_routes(self) -> None: ...  # nothing is to be told of them

class Sender:
    """What every message of a publisher passes, in C; it is the ticket of its messages. The Python
    subclass gives `_send_later(body)` (awaitable), `_caused()` (Options of a message that a handler
    sends), and is called with each outcome that is no receipt, and with None where `awaited`.
    """

    sent: int
    accepted: int
    refused: int
    receipts_dropped: int  # beyond 16,384 that nobody had asked for
    receipts_here: int
    held: bool  # `send` asks `_send_later`
    awaited: bool  # the next receipt is told, once
    def __new__(cls, *args: Any, **kwargs: Any) -> Self: ...
    def configure(
        self,
        *,
        outbox: Outbox,
        topic: str,
        options: Options | None,
        connection: Any,  # `ended` is not None once nothing is sent any more
        handling: ContextVar[Message | None],
        next_turn: Awaitable[None],
    ) -> None: ...
    def send(self, body: Body = None) -> Awaitable[None]:
        """Queue one message; awaiting suspends only while there is no room.

        Args:
            body: tensors by name, bytes or text. Bodies up to 256 KiB are copied at once; the
                memory of larger ones must not change before `flush`.
        Raises:
            SiraError: the body cannot be sent, or the node refused an earlier message.
            Unreachable: closed.
        """
    # as `send`, from a thread that may wait, up to wait_s, for room past the node. None: it is
    # sent; else to be awaited on the event loop
    def send_here(self, body: Body, wait_s: float, /) -> Awaitable[None] | None: ...
    # for `_send_later`, which has waited for a way past the node: whether it went there
    def direct(self, body: Body, options: Options | None = None, /) -> bool: ...
    def take_receipt(self) -> Receipt | None: ...  # the oldest

class Mailbox:
    """Messages of one subscription, waiting for the application. Python subclass gives `_wait`
    (coroutine that returns the next message) and may be async-iterated: `__anext__` answers at once
    from the buffer.
    """

    message_type: type[Message]
    context: Any  # becomes Message.context
    over: bool  # no thread waits here without a look at why nothing comes
    def __new__(cls, *args: Any, **kwargs: Any) -> Self: ...
    def configure(
        self,
        *,
        message_type: type[Message],
        context: Any,
        credit_every: int,
        wake: Callable[[], None] | None,
        on_credit: Callable[[], None] | None,
        credit_bytes: int = 0,
    ) -> None:
        """`wake()` on empty -> not empty while armed (see `arm`); `on_credit()` whenever
        `credit_every` more messages were taken since the last `take_credit`, or `credit_bytes` of
        messages since it was called (0: never for that).
        """
    # highest priority first; order holds per (source, topic, priority)
    def pop(self) -> Message | None: ...
    # the next arrival calls wake() once; now, if a message is here already
    def arm(self) -> None: ...
    # messages to confirm: contiguous oldest ones taken; resets the count
    def take_credit(self) -> int: ...
    depth: int  # messages here, and those known in bound cells
    held_bytes: int  # of those here
    # Messages past the node: cells of links (ShmReader). What the mailbox holds when a cell is
    # bound comes before what lies in it; what a frame brings, behind what lay there before.
    cells: int  # that are bound
    # `stamp`: encoded fields of Message that the node vouches for. PROTOCOL_ERROR: was bound before
    def bind(self, reader: ShmReader, cell: int, topic: str, stamp: bytes, /) -> None: ...
    # what lies there, or still comes, is passed over; False: it was not bound here
    def unbind(self, reader: ShmReader, cell: int, /) -> bool: ...
    def unbind_all(self) -> None: ...
    # gives out nothing of links from now on; it stays where it lies until it is unbound
    def close_cells(self) -> None: ...
    def __aiter__(self) -> Mailbox: ...
    def __anext__(self) -> Awaitable[Message]: ...

class Inbox:
    """Everything that comes down one Subscribe stream: split, reassembled, put into mailboxes.

    A chunk by reference is a span of `maps`; a tensor that comes as one is handed out where it
    lies, and its lease is over when the last view of it goes. FRAME_CORRUPT: a segment that is
    not mapped, or not within it; PROTOCOL_ERROR: none is expected (`maps` is None).
    """

    maps: ShmMaps | None
    def __new__(
        cls, *, message_bytes_max: int = 16 << 30, warm_bytes_max: int = 256 << 20
    ) -> Inbox: ...
    def attach(self, subscription: int, mailbox: Mailbox) -> None: ...
    def detach(self, subscription: int) -> None: ...
    # feed() binds and unbinds cells of this link itself; those of others come out as controls
    def link(self, number: int, reader: ShmReader, /) -> None: ...
    def unlink(self, number: int, /) -> None: ...  # what is bound stays bound
    def feed(self, frame: bytes) -> list[tuple[int, bytes]] | None:
        """None: messages only. Else control items for Python: (kind, encoded submessage)."""
    def reset(self) -> None: ...  # connection lost: unfinished transfers are dropped
    transfers: int  # unfinished
    aborted: int
    stray: int  # messages for subscriptions that are not attached
    warm_bytes: int  # memory kept for the next large messages
    buffers_mapped: int  # reassembly buffers made so far, reused ones not counted

def ready(value: Any) -> Awaitable[Any]: ...  # awaiting it gives `value` without suspending; once

# (subscription, taken) -> Frame; totals: taken since the subscription was opened
def credit_frame(credits: Sequence[tuple[int, int]], *, totals: bool = False) -> bytes: ...

# ---- both (native/stepper.c) --------------------------------------------------------------------
@final
class Stepper:
    """Runs one coroutine from the loop's callbacks, as a task does; its waker can run it at once.

    Inside the coroutine `await stepper` rests until `wake` or `go`. Neither is remembered: look for
    work, and rest when there was none. It may await futures, what is made of them and
    `asyncio.sleep(0)`; it is no task, so nothing that asks for the current one (`asyncio.timeout`).
    What it raises goes to the loop's exception handler. Belongs to its loop.
    """

    resting: bool
    ended: asyncio.Future[None]  # done when the coroutine is over, however it ended
    def __new__(cls, name: str, loop: asyncio.AbstractEventLoop) -> Stepper: ...
    def __await__(self) -> Generator[Any]: ...
    def begin(self, coroutine: Coroutine[Any, Any, None], /) -> None: ...  # in the next turn; once
    def wake(self) -> None: ...  # to go on in the next turn, if it rests
    def go(self) -> None: ...  # to go on inside this call, if it rests
    def cancel(self) -> None: ...  # CancelledError is raised where it waits, in a later turn

# ---- records of the Unix socket (native/record*.c) ----------------------------------------------
@final
class RecordReader:
    """Splits what a socket brings into records. A writable buffer itself, of where the next bytes
    belong: `count = socket.recv_into(reader)`, then `feed(count)`.
    """

    partial: bool  # the beginning of a record waits for its end
    room: int  # bytes that the next receive may bring, at most
    def __new__(cls, bytes_max: int) -> RecordReader: ...
    # (kind, call, descriptors, body) of each that is whole now; raises PROTOCOL_ERROR, for good
    def feed(self, count: int, /) -> list[tuple[int, int, int, bytes]]: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

# ---- node data plane (native/hub*.c) ------------------------------------------------------------
@final
class Hub:
    """Topics, queues, flow control and the ledger of one node. Deterministic: time comes in as
    now_ns.
    """

    def __new__(
        cls,
        *,
        message_bytes_max: int = 16 << 30,
        queue_messages_max: int = 8192,
        queue_bytes_max: int = 64 << 20,
        stall_ns: int = 10_000_000_000,
        block_ns: int = 5_000_000_000,
        transfer_window_bytes: int = 8 << 20,
        # large messages under way of one Publish stream; one more is refused (QUOTA_EXCEEDED). More
        # than a client's window, or honest ones are refused; each costs the node up to 2 KiB.
        transfers_per_stream_max: int = 8192,
        encode_error: Callable[[BaseException], bytes],  # SiraError -> encoded sira.v1.Error
    ) -> Hub: ...
    def topic(self, name: str) -> HubTopic | None: ...
    def declare(
        self,
        name: str,
        *,
        retain: bool = False,
        contract: Contract | None = None,
        owner: int = 0,
        group: str = "",
    ) -> HubTopic:
        """Create or get. `group`: the class row that the counts fold into when the topic is
        dropped.
        """
    def drop(self, name: str) -> None: ...  # forget a topic, fold its row; routes to it are invalid
    # routes of this topic (None: all) are resolved anew
    def touch(self, topic: str | None = None) -> None: ...
    def tick(self, now_ns: int) -> list[tuple[str, Any]]:
        """Expire, time out what is blocked, mark stalls. Events: ("stalled", Sub), ("resumed",
        Sub).
        """
    # what waits and has room now goes on, for about a millisecond
    def release(self, now_ns: int) -> None: ...
    # when release() has something to do; 0: nothing waits, or not for time to pass
    due_ns: int
    hurry: Callable[[], object] | None  # called when due_ns is 1, and no time made it so
    def topics(self) -> list[HubTopic]: ...
    def row(self, topic: str) -> dict[str, Any] | None: ...  # the row of one topic
    # from the start, or from the `position` of another walk; 1: only the classes
    def walk(self, position: int = 0) -> RowWalk: ...
    # A page of 4096 words (u64) that clients map read-only, for the names that hash to them. One
    # moves with each touch(), declare() and drop() of such a name, before that returns; touch()
    # moves all.
    def open_page(self) -> int: ...  # its memfd, a new descriptor: the caller's to close
    def word_of(self, name: str, /) -> int: ...  # which word moves with a name
    def word(self, index: int, /) -> int: ...  # UNSUPPORTED: no page was opened
    def account(
        self,
        topic: HubTopic,
        *,
        published: int = 0,
        owed: int = 0,
        delivered: int = 0,
        pending: int = 0,
        expired: int = 0,
        superseded: int = 0,
        dropped: dict[str, int] | None = None,
        sub: Sub | None = None,
        now_ns: int = 0,
    ) -> None:
        """Count what passed the node by on links; all are differences, `pending` may be negative.

        `sub`: whose deliveries these are; `now_ns`: when the topic was used. ValueError, and
        nothing is counted: owed is not the sum of the rest, or less would be pending than was said
        to be on links.
        """

    def close(self) -> None: ...  # forget all topics: the node stops
    order: int  # grows with each message posted
    # at least: topics, messages_held, parked, transfers; of these transfers_kept wait for nobody,
    # but are the last message of a `latest` topic
    dropped: dict[str, int]  # deliveries dropped since the start, by reason
    stats: dict[str, int]

HISTOGRAM_BOUNDS_NS: tuple[int, ...]

@final
class RowWalk:
    """A walk over the ledger's rows in slices, while rows come, fold and go: topics, then classes.

    A row that is there from the start to the end is met once, one that comes later may be left out.
    A row that folds before it is met counts in its class's, which comes later; one that folds
    afterwards is there as well (`Hub.stats["topics_folded"]` has moved then). Each slice takes at
    most `count` entries and looks at most at 32 times as many rows.
    """

    # fields of LedgerRow; a (checked) pattern leaves out topics that it does not match, no class
    def rows(self, count: int, pattern: str = "") -> list[dict[str, Any]]: ...
    def topics(self, count: int) -> list[str]: ...  # names
    # of classes: (class, counts per bucket, sum_ns); bounds: HISTOGRAM_BOUNDS_NS
    def histograms(self, count: int) -> list[tuple[str, list[int], int]]: ...
    done: Final[bool]
    position: Final[int]  # for `Hub.walk`; 0: done

@final
class HubTopic:
    name: Final[str]
    retain: Final[bool]
    contract: Final[Contract | None]
    owner: Final[int]
    group: Final[str]
    published: int
    has_retained: bool
    def count_refused(self, code: str, messages: int = 1) -> None: ...

@final
class Route:
    """Where the messages of one publisher on one topic go. Python decides, C remembers it."""

    def __new__(
        cls,
        topic: HubTopic,
        targets: Sequence[Sub | Group],
        *,
        admit: Callable[[int, int], None] | None = None,
        buckets: tuple[Bucket, ...] = (),
    ) -> Route: ...
    # admit(messages, bytes) is asked before each message; it returns None or raises a SiraError.
    # `buckets`: limits that each message must pass, all or none of them (RATE_LIMITED,
    # QUOTA_EXCEEDED). Whether one limits the bytes held is looked at when the route is made.

@final
class Bucket:
    """What is left of one limit for one holder, shared by all the routes that it holds for.

    Two token buckets and a counter of bytes; 0: unlimited. What is larger than the burst passes
    when the bucket is full.
    """

    def __new__(
        cls,
        limit: str,
        key: str,
        *,
        messages_per_s: float = 0,
        bytes_per_s: float = 0,
        burst_s: float = 1,
        held_bytes: int = 0,
        on_refusal: Callable[[], None] | None = None,
    ) -> Bucket:
        """`limit`, `key`: its name and whose bucket this is, as refusals tell. `on_refusal` is
        called after each refusal by this bucket; it must not refer to who holds the bucket.
        """
    def configure(
        self,
        *,
        messages_per_s: float = 0,
        bytes_per_s: float = 0,
        burst_s: float = 1,
        held_bytes: int = 0,
    ) -> None:
        """Put other limits in force. What is held, and what is owed to the rates, stays."""
    def idle(self, now_ns: int) -> bool: ...  # no route asks it, and a new one would be the same
    limit: Final[str]
    key: Final[str]
    held_bytes: int  # of messages on the node: waiting, retained, or large and on their way
    refused: int

# One call, message or batch that is none of a route's: counted by all buckets, or refused.
def admit(
    buckets: tuple[Bucket, ...], resource: str, messages: int, bytes: int, now_ns: int
) -> None: ...

@final
class Ingress:
    """A Publish stream on the node."""

    def __new__(
        cls,
        hub: Hub,
        *,
        client: int,
        stamp: bytes,
        resolve: Callable[[str], Route],
        wake: Callable[[], None],
        window_messages: int = 4096,
        window_bytes: int = 16 << 20,
        history: History | None = None,
        resume: int = 0,
        waits: bool = False,
    ) -> Ingress:
        """`stamp`: encoded fields (principal, tenant) appended to every Message. `resolve(topic)`
        gives the route or raises a SiraError (the refusal). `wake()`: next_frame() has something.
        `resume`: the first so many messages were sent before on a lost stream; those in `history`
        get their first receipt. `waits`: what a limit refuses for the moment waits, in order.
        """
    # Raises only for a Frame that cannot be split. Stops between two items when it has worked for
    # `work_ns` (0: at the end); returns where to go on, `at` of the next call; 0: all is taken.
    def feed(self, frame: bytes, now_ns: int, at: int = 0, work_ns: int = 0, /) -> int: ...
    def next_frame(self, now_ns: int) -> bytes | None: ...  # receipts and chunk credits
    full: bool  # stop reading this stream until `drained` fires
    drained: Callable[[], None] | None
    # takes (frame, now_ns) of an aside for the client's Subscribe stream; None: asides are skipped.
    # What it raises ends the stream.
    aside: Callable[[bytes, int], None] | None
    # takes (segment, offset, bytes, lease, topic) of a chunk that names shared memory and gives the
    # span; topic None: its message was refused meanwhile. What it raises gives that message up.
    # None: such a chunk is refused.
    lender: Callable[[int, int, int, int, str | None], ShmSpan] | None
    # takes (ask, topic) of a route that is asked for, behind all that was sent before. What it
    # raises ends the stream. None: PROTOCOL_ERROR.
    asked: Callable[[int, str], None] | None
    def waits(self, topic: str, /) -> bool: ...  # something of it is parked here, or not whole
    lane: int  # number of sira.v1.Lane that its receipts tell; at first that of gRPC
    # messages whose receipt next_frame() has not given out yet (quiet ones too, until settled)
    unanswered: int
    parked: int  # messages that wait for room at a subscriber or within a limit
    held_bytes: int  # payload bytes that wait here or in transfers
    # answer all that waits here with this error: the stream is to end
    def refuse_parked(self, error: BaseException, now_ns: int) -> None: ...
    def close(self, now_ns: int) -> None: ...  # unfinished transfers are aborted (PEER_LOST)
    published: int
    bytes: int
    # when all rate limits that refused messages of the last frame have room; 0: none did
    limited_until_ns: int

@final
class History:
    """Receipts of a client's last messages, for retries by id."""

    def __new__(cls, *, messages_max: int = 4096, window_ns: int = 60_000_000_000) -> History: ...

@final
class Egress:
    """A Subscribe stream on the node."""

    def __new__(
        cls, hub: Hub, *, client: int, wake: Callable[[], None], batch_bytes: int = 224 << 10
    ) -> Egress: ...
    def open(
        self,
        subscription: int,
        *,
        pattern: str,
        group: Group | None = None,
        overflow: int = 1,
        window_messages: int = 1024,
        window_bytes: int = 64 << 20,
    ) -> Sub: ...
    # queue one control item, ahead of messages
    def control(self, kind: int, body: bytes) -> None: ...
    def feed(self, frame: bytes, now_ns: int) -> list[tuple[int, bytes]] | None:
        """Credits are taken in C; other items come back: (kind, encoded submessage)."""
    def next_frame(self, now_ns: int) -> bytes | None: ...
    def close_sub(self, sub: Sub, now_ns: int, *, reason: str = "UNSUBSCRIBED") -> None: ...
    def close(self, now_ns: int, *, reason: str = "PEER_LOST") -> None: ...
    pending: int  # messages waiting to be sent
    in_flight: int  # sent, not confirmed
    queued_bytes: int
    # takes a span that the subscriber is to look at itself and gives its lease; 0: its bytes are
    # copied. Called within next_frame(): it must not close this stream. None: all are copied
    lend: Callable[[ShmSpan], int] | None

@final
class Sub:
    subscription: Final[int]
    pattern: Final[str]
    client: Final[int]
    overflow: Final[int]
    group: Final[Group | None]
    pending: int
    in_flight: int
    delivered: int
    dropped: int
    stalled: bool
    idle: bool  # open, not stalled, and all that it was given has been sent, chunks too
    def deliver_retained(self, topic: HubTopic, now_ns: int, order_max: int = 2**64 - 1) -> None:
        """Owe it the last message of a `latest` topic, if its order is at most `order_max`."""

    def waiting_topics(self) -> set[str]:
        """Return the topics of which something waits here, or is on its way in chunks."""

    def withhold(self, names: set[str], now_ns: int, *, reason: str = "REVOKED") -> int:
        """Drop what waits here of these topics, unfinished large messages too; return how many."""

@final
class Group:
    """A queue group: one delivery goes to the member with most free credit."""

    def __new__(cls, name: str) -> Group: ...
    name: Final[str]
    members: int

# ---- shared memory (native/shm_*_py.c); what it is: native/shm_link.h, native/shm_arena.h --------
def shm_bell() -> int:
    """A new eventfd, nonblocking and close-on-exec; the caller's to close."""

@final
class ShmArena:
    """A publisher's memory for one topic and audience, in sealed memfds.

    After fork() the child gets CONNECTION_CLOSED from whatever would change it.
    """

    def __new__(cls, bytes_max: int, *, warm_bytes: int = 8 << 20) -> ShmArena: ...
    bytes_max: Final[int]
    warm_bytes: Final[int]
    segment_bytes: Final[int]  # of all segments now
    asked_bytes: Final[int]  # of all chunks now: what was asked for
    chunk_bytes: Final[int]  # and what they take
    asked_bytes_total: Final[int]  # the same, ever
    chunk_bytes_total: Final[int]
    made_total: Final[int]  # segments
    retired_total: Final[int]
    def take(self, bytes: int, /) -> ShmChunk:
        """QUEUE_FULL: the limit is reached until readers give back; MESSAGE_TOO_LARGE: past it."""
    def reuse(self, bytes: int, /) -> ShmChunk | None: ...  # None: it would need another segment
    def warm(self, bytes: int, /) -> None:
        """Have `bytes` in one piece ready, pages included: off the hot path, without the GIL."""
    def segments(self) -> list[tuple[int, int, int]]: ...  # (id, borrowed descriptor, bytes)
    def retire(self, now_ns: int, idle_ns: int = ..., /) -> int:
        """Close what is idle beyond the reserve. How many empty ones still wait for their time."""
    def retired(self) -> list[int]: ...  # ids of closed segments, each told once

@final
class ShmChunk:
    """Writable memory of an arena, aligned to 64 bytes, by the buffer protocol."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class ShmPost:
    """One message, written once: inline up to 448 bytes, else its tensors in one chunk.

    The tensors lie one behind the other, each at the next multiple of 64 bytes. With `loan` they
    must lie so in that chunk already, and none is copied. BAD_REQUEST otherwise. Collect from
    the arena's writers first: what has come back is warm in the cache and used next.
    """

    def __new__(
        cls,
        topic: str,
        body: object,
        options: Options | None = None,
        arena: ShmArena | None = None,
        loan: ShmChunk | None = None,
        source: str | None = None,
    ) -> ShmPost: ...
    id_bytes: Final[bytes]
    copies: Final[int]  # of the payload, 0 or 1; an inline message counts none
    chunk_bytes: Final[int]  # in shared memory; 0: inline
    segment: Final[int]  # where; 0: inline
    priority: Final[int]

@final
class ShmLink:
    """Memory of the link of an ordered pair: made new, or mapped from `fd`, which it takes over.

    LINK_CORRUPT: `fd` is not the sealed memfd of this shape and generation.
    """

    def __new__(
        cls,
        generation: int,
        *,
        slots: int = 96,
        holds: int = 128,
        cells: int = 128,
        fd: int = -1,
        writable: bool = True,
    ) -> ShmLink: ...
    bytes: Final[int]
    slots: Final[int]
    holds: Final[int]
    cells: Final[int]
    def fileno(self) -> int: ...  # borrowed
    def counts(self) -> tuple[dict[int, tuple[int, int, int, tuple[int, ...]]], bool]:
        """{cell: (posted, taken, pending, withdrawn by reason)} of cells in use; do they add up?

        Reasons in order: EXPIRED, CANCELLED, REVOKED, SUPERSEDED, PEER_LOST, moved, dropped.
        Exact once nobody writes, also when an end was killed between two stores.
        """

    def news(self, cells: int, /) -> dict[int, tuple[int, int, int, tuple[int, ...]]]:
        """Counts of those of the first `cells` that differ from what it returned before."""

    def moved(self, cells: int, /) -> bool:
        """Whether `news` of as many cells may have some: a post since, or something waited then.

        A few words are read, no slot: what a writer that is stopped between its post and its count
        has posted is not seen.
        """

    def pieces(self) -> list[tuple[int, int, int, int, bool]]:
        """(segment, offset, bytes, since_ns, taken) of each chunk that is out: taken, or yet to be.

        Also of a writer that is dead or has closed its end, until the reader gives them back.
        `since_ns`: when it was posted, CLOCK_MONOTONIC. Words of a writer, believed no further.
        """

@final
class ShmWriter:
    """The publisher's end. Takes over both descriptors. Refusals are negative numbers:

    -2 no slot, -3 no credit, -4 no hold, -5 held bytes. LINK_CORRUPT ends the link for ever;
    CONNECTION_CLOSED: it belongs to the parent process.
    """

    def __new__(cls, link: ShmLink, peer_bell: int, bell: int, /) -> ShmWriter: ...
    bell: Final[int]  # rung by the reader; borrowed
    holds: int  # chunks that are out, and not collected; read only
    waiting: Final[int]  # threads that sleep there
    def open_cell(
        self, cell: int, window: int, held_bytes_max: int, window_bytes: int = ..., /
    ) -> None: ...
    def room(self, cell: int, priority: int, chunk_bytes: int, planned: int = 0, /) -> int: ...
    # `supersedes`: a ticket to withdraw as SUPERSEDED once the new one is there
    def post(
        self, post: ShmPost, cell: int, supersedes: int = 0, flags: int = ..., /
    ) -> int: ...  # ticket
    def pending(self, ticket: int, /) -> bool: ...
    def withdraw(self, ticket: int, reason: int, /) -> bool: ...  # False: taken first
    def withdraw_all(self, reason: int, cell: int = ..., /) -> int: ...
    def collect(self, all: bool = False, /) -> tuple[int, int]: ...  # free slots, live holds
    # blocks without the GIL; True: something came back. One thread at a time for each writer
    def wait(self, timeout_s: float, wants: int = 1, /) -> bool: ...
    def sleep(self, wants: int = 1, /) -> bool: ...  # for an event loop: the bell will ring
    def end(self) -> None: ...  # the reader is gone: all chunks it held come back
    # Nobody will say that the reader is gone: what it has is written never again.
    def forsake(self) -> None: ...

@final
class ShmReader:
    """The subscriber's end. Takes over both descriptors. Arrays of its messages read the
    publisher's memory; when the last of a message goes, its chunk goes back."""

    def __new__(cls, link: ShmLink, peer_bell: int, bell: int, /) -> ShmReader: ...
    bell: Final[int]  # rung by the writer; borrowed
    depth: Final[int]  # messages known and not taken, in all cells
    bound: Final[int]  # cells that mailboxes take from
    broken: str | None  # why the link is corrupt; the reader's own bell is rung when that is found
    # look (all: the writer is dead); mailboxes get to know what came, and wake. How many messages
    def distribute(self, all: bool = False, /) -> int: ...
    def unbind_all(self) -> None: ...  # see Mailbox
    # pass over what lies in a cell and still comes: the node has closed its books of it
    def discard(self, cell: int, /) -> None: ...
    # takes `fd` over; `forwarded`: the segment's id on links that relay() posts to
    def map(self, segment: int, fd: int, bytes: int, forwarded: int = ..., /) -> None: ...
    def drop(self, segment: int, /) -> None: ...
    def look(self, all: bool = False, /) -> list[int]: ...  # cells with something to take
    def peek(self, cell: int, /) -> int: ...  # highest priority queued, -1: none
    def take(self, cell: int, context: object = None, now_ns: int = ..., /) -> Message | None: ...
    # the next message unopened, over the same memory, to be posted to other links
    def relay(self, cell: int, /) -> ShmPost | None: ...

@final
class ShmPage:
    """The node's generation page, mapped read-only. Takes `fd` over; LINK_CORRUPT: no such page."""

    def __new__(cls, fd: int, words: int) -> ShmPage: ...
    words: Final[int]
    def word(self, index: int, /) -> int: ...

@final
class ShmMaps:
    """Segments of others, mapped read-only, and the spans of them that live.

    `bell` (an eventfd, borrowed) is rung when a lease is over and none was waiting to be asked for.
    """

    def __new__(cls, bell: int = -1) -> ShmMaps: ...
    spans: Final[int]  # that live
    lent_bytes: Final[int]  # of them
    # takes `fd` over; LINK_CORRUPT: not a sealed memfd of that size, or a segment twice
    def map(self, segment: int, fd: int, bytes: int, /) -> None: ...
    def drop(self, segment: int, /) -> None: ...
    # FRAME_CORRUPT: no such segment, or not within it; the lease is over then
    def span(self, segment: int, offset: int, bytes: int, lease: int, /) -> ShmSpan: ...
    def ended(self) -> list[int]: ...  # leases whose spans have gone since the last call
    def silence(self) -> None: ...  # ring no more; before the bell is closed

@final
class ShmSpan:
    """Bytes of a segment, read-only; its end gives its lease back."""

    segment: Final[int]
    offset: Final[int]
    lease: Final[int]
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class ShmBells:
    """One descriptor to wait at for many ends. `spin_us_max` inf: never sleep."""

    def __new__(cls, *, spin_us_max: float = 50.0) -> ShmBells: ...
    def fileno(self) -> int: ...  # borrowed; for an event loop, after sleep() said True
    def add(self, member: ShmReader | ShmWriter | int, /) -> int: ...  # token
    def remove(self, token: int, /) -> None: ...
    def sleep(self) -> bool: ...  # False: something is there, call wait(0)
    # end the wait of another thread, or the next one that may block; for one such thread at a time
    def kick(self) -> None: ...
    # tokens that rang or have something; empty: timeout, kick or signal. Negative: no limit
    def wait(self, timeout_s: float, /) -> list[int]: ...
    # as wait, and all that rang is given to its mailboxes: the message that came to this one, or
    # tokens of links that are broken; none: as above
    def take(self, mailbox: Mailbox, timeout_s: float, /) -> Message | list[int]: ...
    def close(self) -> None: ...  # the descriptors go when nobody leads any more

    # who takes what rings for all: one thread at a time
    is_led: bool  # read only
    turns: int  # read only; how often somebody began to
    def lead(self) -> bool: ...  # False: another thread does
    def leave(self) -> None: ...  # once for each lead()
    def wake(self) -> None: ...  # kick(), where another thread leads
    is_watched: bool  # by the loop
    followers: dict[Any, None] | None  # who waits beside who leads
    waiting: dict[bytes, Any] | None  # the requests that wait for a reply
    # lead, wait once and leave in one call, for a thread that waits while nobody else does
    left: Callable[[], None] | None  # called at the end where others wait
    # None: nothing came, or that cannot be now
    def next(self, mailbox: Mailbox, timeout_s: float, /) -> Message | None: ...
    # the reply to a request that is in `waiting` until then; a list: it is asked, and waits there
    # for its reply, as others do for these; None: it is not asked
    def ask(
        self,
        outbox: Outbox,
        topic: str,
        body: Body,
        id: bytes,
        mailbox: Mailbox,
        reply_to: str,
        timeout_s: float | None,
        pending: Any,
        /,
    ) -> Message | list[Message] | None: ...
    # the same of what was posted, unless `pending.answer` or `pending.error` is not None; None:
    # that cannot be now
    def reply(
        self, id: bytes, mailbox: Mailbox, timeout_s: float, pending: Any, /
    ) -> Message | list[Message] | None: ...

@final
class Files:
    """Which file each descriptor of this process was, when it was looked at."""

    def __new__(cls) -> Files: ...
    def look(
        self, first: int, open: int, span: int, most: int, /
    ) -> tuple[int, int, list[tuple[int, int, int]]]:
        """(next, open, [(descriptor, inode, mode)]) of those that are another file than before.

        Of `span` descriptors from `first` on; mode 0: closed. Stops when `open` files were met or
        `most` have changed: `next` is where, and the second how many are yet to be met.
        """

    def end(self, first: int, /) -> list[int]:
        """Take those from `first` on for closed; return which were open."""
