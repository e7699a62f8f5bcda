"""From what an application asks for to a DiscoverRequest, and to the key it is remembered by. Pure.

Who sends tensors of a shape is only given to who takes them: `specs` says of a body what the
registry is asked.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from sira.client.capability import vector
from sira.kernel.binding import DTYPES
from sira.kernel.errors import BadRequest
from sira.v1 import registry_pb2, tensor_pb2

# As contracts name them.
_DTYPE_NAMES = {
    dtype: tensor_pb2.DType.Name(code).removeprefix("DTYPE_").lower()
    for code, dtype in DTYPES.items()
}
K_MAX = 1_000


def request_of(
    text: str,
    *,
    capability: str = "",
    vector_given: Any = None,
    k: int = 0,
    labels: Mapping[str, str] | None = None,
    takes: Mapping[str, str] | None = None,
    kind: str = "",
    version: str = "",
    any_status: bool = False,
) -> registry_pb2.DiscoverRequest:
    """Return what the node is asked.

    Raises:
        BadRequest: not one of words, capability and vector, or `k` is no count.
    """
    ways = bool(text), bool(capability), vector_given is not None
    if sum(ways) != 1:
        raise BadRequest(
            "ask by words, by capability= or by vector=, by one of them",
            help='bus.discover("find the lungs") or bus.discover(capability="segment")',
        )
    if not 0 <= k <= K_MAX:
        raise BadRequest(f"k is {k}", help=f"1 to {K_MAX}")
    request = registry_pb2.DiscoverRequest(
        k=k, labels=labels, takes=takes, kind=kind, version=version, any_status=any_status
    )
    if text:
        request.text = text
    elif capability:
        request.capability = capability
    else:
        request.vector.CopyFrom(vector(vector_given))
    return request


def specs(body: Any) -> tuple[tuple[str, Any, tuple[int, ...]], ...] | None:
    """Return name, dtype and shape of each tensor of a body; None: it is not all of arrays."""
    if type(body) is not dict:
        return None
    try:
        return tuple([(name, array.dtype, array.shape) for name, array in body.items()])
    except AttributeError:
        return None


def takes_of(found: tuple[tuple[str, Any, tuple[int, ...]], ...] | None) -> dict[str, str]:
    """Return the contract that tensors of `specs` meet and no others; {}: nothing is known."""
    takes: dict[str, str] = {}
    for name, dtype, shape in found or ():
        word = _DTYPE_NAMES.get(dtype) if isinstance(dtype, np.dtype) else None
        if word is None:
            return {}
        takes[name] = f"{word}[{', '.join(map(str, shape))}]"
    return takes


def key_of(
    text: str, capability: str, vector_given: Any, version: str, kind: str,
    labels: Mapping[str, str] | None, takes: Mapping[str, str] | None,
    of_body: Hashable,
) -> Hashable:  # fmt: skip
    """Return what a resolution is remembered by."""
    if vector_given is None and not labels and not takes:
        return (text, capability, version, kind, of_body)
    row = None if vector_given is None else vector(vector_given).SerializeToString()
    return (text, capability, version, kind, of_body, row,
            frozenset((labels or {}).items()), frozenset((takes or {}).items()))  # fmt: skip
