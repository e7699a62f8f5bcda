"""`grpc.health.v1.Health`: serving or not, of the node and of each service in the table.

Beside them stands what a node can do without for a while, a Redis for one, by names of their own:
one that fails does not keep the node from serving.
"""

from __future__ import annotations

import asyncio

from grpc_health.v1 import health_pb2

from sira.kernel.edge.door import Call
from sira.kernel.errors import NodeDraining, NotFound
from sira.kernel.methods import Catalog, Method, method

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthService:
    """Answers for "" (the node) and each service that has methods."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._serving = True
        self._ended = False
        self._limps: dict[str, bool] = {}  # name -> whether it fails
        self._changed: set[asyncio.Event] = set()
        catalog.changed.append(self._tell)

    def methods(self) -> list[Method]:
        """Return the entries for the table."""
        of = health_pb2.DESCRIPTOR.services_by_name["Health"].methods_by_name
        request, response = health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
        return [
            method(of["Check"], self.check, effects="read", public=True,
                   request=request, response=response,
                   summary="is the node, or one service, serving"),
            method(of["Watch"], self.watch, effects="read", public=True,
                   request=request, response=response,
                   summary="the same, and each change of it"),
        ] + ([
            method(of["List"], self.list_all, effects="read", public=True,
                   summary="the same of all services",
                   request=health_pb2.HealthListRequest, response=health_pb2.HealthListResponse),
        ] if "List" in of else [])  # fmt: skip

    def not_serving(self) -> None:
        """Say from now on that nothing is served: the node goes down."""
        self._serving = False
        self._tell()

    def limp(self, name: str, fails: bool) -> None:
        """Say whether something fails now that the node can do without."""
        self._limps[name] = fails
        self._tell()

    def end_watches(self) -> None:
        """End each watch once it has told what it had to: gRPC's server would wait for it."""
        self._ended = True
        self._tell()

    async def check(
        self, call: Call, request: health_pb2.HealthCheckRequest
    ) -> health_pb2.HealthCheckResponse:
        """Return the state of a service.

        Raises:
            NotFound: no such service.
        """
        status = self._status(request.service, _tenant(call))
        if status == _UNKNOWN:
            raise NotFound(f"this node has no service {request.service[:200]!r}")
        return health_pb2.HealthCheckResponse(status=status)

    async def watch(self, call: Call, request: health_pb2.HealthCheckRequest) -> None:
        """Write the state of a service, and each change, until the caller leaves.

        Raises:
            NodeDraining: the node goes before.
        """
        changed = asyncio.Event()
        self._changed.add(changed)
        told = None
        try:
            while True:
                changed.clear()
                status = self._status(request.service, _tenant(call))
                if status != told:
                    await call.write(health_pb2.HealthCheckResponse(status=status))
                    told = status
                if self._ended:
                    raise NodeDraining("the node has gone down in order", retry_after_ms=1_000)
                await changed.wait()
        finally:
            self._changed.discard(changed)

    async def list_all(
        self, call: Call, request: health_pb2.HealthListRequest
    ) -> health_pb2.HealthListResponse:
        """Return the state of the node and of each service."""
        del request
        tenant = _tenant(call)
        response = health_pb2.HealthListResponse()
        for service in ("", *self._catalog.services(tenant), *self._limps):
            response.statuses[service].status = self._status(service, tenant)
        return response

    def _status(self, service: str, tenant: str) -> int:
        if service and service not in self._catalog.services(tenant):
            if service not in self._limps:
                return int(_UNKNOWN)
            return int(_NOT_SERVING if self._limps[service] else _SERVING)
        return int(_SERVING if self._serving else _NOT_SERVING)

    def _tell(self) -> None:
        for event in self._changed:
            event.set()


def _tenant(call: Call) -> str:
    """Return whose services the caller sees; "": it has proved nothing."""
    return call.proved.principal.tenant if call.proved else ""
