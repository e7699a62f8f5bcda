"""`grpc.reflection.v1alpha.ServerReflection`: what the table holds, for grpcurl and its like."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2

from sira.kernel.edge.door import Call
from sira.kernel.methods import Catalog, Method, method

_NOT_FOUND, _INVALID_ARGUMENT = 5, 3


class ReflectionService:
    """Reads services from the table and files from the descriptor pool."""

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
            await call.write(self._answer(request))

    def _answer(self, request: Any) -> Any:
        response = reflection_pb2.ServerReflectionResponse(
            valid_host=request.host, original_request=request
        )
        asked = request.WhichOneof("message_request")
        try:
            if asked == "list_services":
                for name in self._catalog.services():
                    response.list_services_response.service.add(name=name)
            elif asked == "file_by_filename":
                self._add(response, self._pool.FindFileByName(request.file_by_filename))
            elif asked == "file_containing_symbol":
                symbol = request.file_containing_symbol
                self._add(response, self._pool.FindFileContainingSymbol(symbol))
            elif asked == "file_containing_extension":
                extension = request.file_containing_extension
                holder = self._pool.FindMessageTypeByName(extension.containing_type)
                found = self._pool.FindExtensionByNumber(holder, extension.extension_number)
                self._add(response, found.file)
            elif asked == "all_extension_numbers_of_type":
                name = request.all_extension_numbers_of_type
                found = self._pool.FindAllExtensions(self._pool.FindMessageTypeByName(name))
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
