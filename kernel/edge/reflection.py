"""`grpc.reflection.v1alpha.ServerReflection`: what the table holds, for grpcurl and its like."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2

from sira.kernel.edge.door import Call
from sira.kernel.methods import Catalog, Method, method

_NOT_FOUND, _INVALID_ARGUMENT = 5, 3


class ReflectionService:
    """Reads services from the table, files from the descriptor pools."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._pool: Any = descriptor_pool.Default()

    def methods(self) -> list[Method]:
        """Return the entries for the table."""
        of = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].methods_by_name
        return [
            method(of["ServerReflectionInfo"], self.info, effects="read",
                   summary="services, and the .proto files they are written in",
                   request=reflection_pb2.ServerReflectionRequest,
                   response=reflection_pb2.ServerReflectionResponse),
        ]  # fmt: skip

    async def info(self, call: Call, _: None) -> None:
        """Answer each question of the stream."""
        while (request := await call.read()) is not None:
            await call.write(self._answer(request, call.principal.tenant))

    def _answer(self, request: Any, tenant: str) -> Any:
        response = reflection_pb2.ServerReflectionResponse(
            valid_host=request.host, original_request=request
        )
        asked = request.WhichOneof("message_request")
        try:
            if asked == "list_services":
                for name in self._catalog.services(tenant):
                    response.list_services_response.service.add(name=name)
            elif asked == "file_by_filename":
                name = request.file_by_filename
                self._add(response, self._find(tenant, lambda pool: pool.FindFileByName(name)))
            elif asked == "file_containing_symbol":
                name = request.file_containing_symbol
                found = self._find(tenant, lambda pool: pool.FindFileContainingSymbol(name))
                self._add(response, found)
            elif asked == "file_containing_extension":
                extension = request.file_containing_extension
                found = self._find(tenant, lambda pool: _extension(pool, extension))
                self._add(response, found.file)
            elif asked == "all_extension_numbers_of_type":
                name = request.all_extension_numbers_of_type
                found = self._find(tenant, lambda pool: _extensions(pool, name))
                numbers = response.all_extension_numbers_response
                numbers.base_type_name = name
                numbers.extension_number.extend(sorted(each.number for each in found))
            else:
                response.error_response.error_code = _INVALID_ARGUMENT
                response.error_response.error_message = "an empty question"
        except KeyError:
            response.error_response.error_code = _NOT_FOUND
            response.error_response.error_message = f"{asked}: not found"
        return response

    def _find(self, tenant: str, look: Callable[[Any], Any]) -> Any:
        """Return what is found first: among the node's own files, then in each service's.

        Raises:
            KeyError: nowhere.
        """
        for pool in (self._pool, *(each.pool for each in self._catalog.brought(tenant))):
            with contextlib.suppress(KeyError):
                return look(pool)
        raise KeyError

    def _add(self, response: Any, file: Any) -> None:
        """Add a file and all that it imports, each once."""
        seen: dict[str, None] = {}
        waiting = [file]
        while waiting:
            each = waiting.pop()
            if each.name in seen:
                continue
            seen[each.name] = None
            proto = descriptor_pb2.FileDescriptorProto()
            each.CopyToProto(proto)
            files = response.file_descriptor_response.file_descriptor_proto
            files.append(proto.SerializeToString())
            waiting.extend(each.dependencies)


def _extension(pool: Any, asked: Any) -> Any:
    holder = pool.FindMessageTypeByName(asked.containing_type)
    return pool.FindExtensionByNumber(holder, asked.extension_number)


def _extensions(pool: Any, name: str) -> Any:
    return pool.FindAllExtensions(pool.FindMessageTypeByName(name))
