"""Spans reach an OTLP collector when one is configured, and carry the caller's trace on."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from sira.kernel.logs import FIELDS, Logs
from sira.kernel.node import Node
from sira.kernel.settings import load
from sira.v1 import kernel_pb2

from .plain import Plain, message, session

pytestmark = pytest.mark.integration
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """A real OTLP endpoint that keeps what it gets."""

    def __init__(self) -> None:
        self.spans: list[object] = []
        self.got = threading.Event()
        self.server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def Export(self, request: object, context: object) -> object:
        for resource in request.resource_spans:  # type: ignore[attr-defined]
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        self.got.set()
        return trace_service_pb2.ExportTraceServiceResponse()


def test_calls_become_spans_of_the_callers_trace() -> None:
    collector = Collector()

    async def work(node: Node, plain: Plain) -> None:
        carried = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
        await plain.kernel.Negotiate(kernel_pb2.NegotiateRequest(), metadata=carried)
        with pytest.raises(grpc.aio.AioRpcError):
            await plain.bus.Request(message("nobody"), metadata=carried, timeout=5)

    try:
        session(work, otlp_endpoint=f"http://127.0.0.1:{collector.port}")
        assert collector.got.wait(30)  # the node shipped what it had when it stopped
        spans = {span.name: span for span in collector.spans}  # type: ignore[attr-defined]
        asked = spans["sira.v1.Kernel/Negotiate"]
        assert asked.trace_id.hex() == TRACE and asked.parent_span_id.hex() == PARENT
        attributes = {a.key: a.value.string_value for a in asked.attributes}
        assert attributes["rpc.method"] == "Negotiate"
        assert attributes["sira.principal"] == "sira://local/default/user/anonymous"
        failed = spans["sira.v1.Bus/Request"]
        assert failed.status.code == 2 and "NoMatch" in str(failed.events)
    finally:
        collector.server.stop(None)


def test_without_an_exporter_no_telemetry_is_loaded() -> None:
    code = (
        "import asyncio, sys\n"
        "from sira.kernel.node import Node\n"
        "from sira.kernel.settings import load\n"
        "async def main():\n"
        "    node = Node(load(environ={}, flags={'listen': '127.0.0.1:0', 'log_level': 'error'}))\n"
        "    await node.start(); await node.stop(0)\n"
        "asyncio.run(main())\n"
        "assert not [m for m in sys.modules if m.startswith('opentelemetry')]\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "SIRA_"))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_a_line_of_the_log_names_the_trace_and_who_asked() -> None:
    collector, out = Collector(), io.StringIO()

    async def work() -> None:
        endpoint = f"http://127.0.0.1:{collector.port}"
        flags = {"listen": "127.0.0.1:0", "data_dir": "/nonexistent", "otlp_endpoint": endpoint}
        node = Node(load(environ={}, flags=flags), logs=Logs(node="n1", level="debug", out=out))
        await node.start()
        try:
            async with Plain(node.address) as plain:
                carried = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
                with pytest.raises(grpc.aio.AioRpcError):
                    await plain.bus.Request(message("nobody"), metadata=carried, timeout=5)
        finally:
            await node.stop(0)
            node.logs.close()

    try:
        asyncio.run(work())
        lines = [json.loads(line) for line in out.getvalue().splitlines()]
        (refused,) = [line for line in lines if line["event"] == "refused"]
        assert set(FIELDS) <= set(refused)
        assert (refused["trace_id"], refused["node"], refused["code"]) == (TRACE, "n1", "NO_MATCH")
        assert refused["principal"] == "sira://local/default/user/anonymous"
        assert len(refused["span_id"]) == 16 and refused["span_id"] != PARENT
    finally:
        collector.server.stop(None)
