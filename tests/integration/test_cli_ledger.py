"""`sira ledger` believes its own sums: a node that lies about its ledger is found out.

No node of ours can be made to lose a message in silence, so this one is a gRPC server that answers
`Negotiate` and `Ledger` with what a broken node would say.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from sira.v1 import kernel_pb2, kernel_pb2_grpc
from tests.integration.command import sira

pytestmark = [pytest.mark.integration, pytest.mark.slow]


class _Liar(kernel_pb2_grpc.KernelServicer):
    def __init__(self, answer: kernel_pb2.LedgerResponse) -> None:
        self._answer = answer

    def Negotiate(self, request: Any, context: Any) -> kernel_pb2.NegotiateResponse:
        return kernel_pb2.NegotiateResponse(
            protocol=1,
            node="liar",
            version="0",
            lanes=["grpc"],
            principal="sira://local/default/user/anonymous",
            tenant="default",
        )

    def Ledger(self, request: Any, context: Any) -> kernel_pb2.LedgerResponse:
        return self._answer

    def Stats(self, request: Any, context: Any) -> kernel_pb2.StatsResponse:
        return kernel_pb2.StatsResponse(node="liar")


@contextmanager
def liar(balanced: bool, **row: Any) -> Iterator[str]:
    """Serve one ledger row; gives the URL."""
    rows = [kernel_pb2.LedgerRow(topic="lab.a", node="liar", **row)]
    server = grpc.server(futures.ThreadPoolExecutor(2))
    answer = kernel_pb2.LedgerResponse(rows=rows, balanced=balanced)
    kernel_pb2_grpc.add_KernelServicer_to_server(_Liar(answer), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"sira://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize(
    ("balanced", "row", "code", "unexplained"),
    [
        (True, {"published": 5, "owed": 5, "delivered": 3, "dropped": {"QUEUE_FULL": 2}}, 0, 0),
        (True, {"published": 5, "owed": 5, "delivered": 5, "unknown": {}}, 0, 0),
        (True, {"published": 5, "owed": 5, "delivered": 4}, 1, 1),
        (True, {"published": 5, "owed": 5, "delivered": 7}, 1, 2),
        (True, {"published": 5, "owed": 5, "delivered": 4, "unknown": {"": 1}}, 1, 1),
        (False, {"published": 5, "owed": 5, "delivered": 5}, 1, 0),
    ],
)
def test_the_exit_code_is_1_when_a_message_is_unexplained(
    balanced: bool, row: dict[str, Any], code: int, unexplained: int
) -> None:
    with liar(balanced, **row) as url:
        ended = sira("ledger", "--json", url=url)
        assert (ended.code, ended.data["unexplained"]) == (code, unexplained)
        assert ended.data["balanced"] == (code == 0)
        shown = sira("ledger", url=url)
        assert shown.code == code
        assert ("NOT balanced" in shown.out) == (code == 1)
        assert sira("status", "--json", url=url).code == code
