"""A process that makes a graph, or holds one: `python -m sira.registry.index.graph PARENT_PID ...`.

    build FOLDER DIMS      makes FOLDER/shard of FOLDER/ids.npy and FOLDER/vectors.npy, and ends
    serve FOLDER DIMS FD   opens FOLDER/shard and answers searches on the socket FD until it closes

Qdrant's engine holds the interpreter's lock while it loads and while it optimises, for minutes at
100,000 vectors: hence processes. A request is `<IH` (number, k) and f32[dims]; its answer `<IH`
(number, hits), u64[hits], f32[hits]. The first answer, number 0, says that the graph is open.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sira.kernel.supervisor.child import die_with
from sira.registry.index.interface import Vector

if TYPE_CHECKING:
    import qdrant_edge

HEAD = struct.Struct("<IH")
_BATCH = 512
# Qdrant's own defaults: 16 links a node, 100 candidates while building. 128 while searching: recall
# of 0.99 at 100,000 in research of the engine.
_LINKS, _BUILD_EF, SEARCH_EF = 16, 100, 128
_FULL_SCAN_KIB = 256
_NICE = 10


class Graph:
    """One shard of Qdrant's engine, open."""

    def __init__(self, shard: qdrant_edge.EdgeShard) -> None:
        """Search in `shard`."""
        self._shard = shard

    @classmethod
    def build(cls, folder: Path, dims: int) -> None:
        """Make the shard of the vectors that lie in `folder`. Takes a minute for 100,000."""
        import qdrant_edge as edge

        ids, vectors = np.load(folder / "ids.npy"), np.load(folder / "vectors.npy", mmap_mode="r")
        shutil.rmtree(folder / "shard", ignore_errors=True)
        (folder / "shard").mkdir()
        config = edge.EdgeConfig(
            vectors=edge.EdgeVectorParams(size=dims, distance=edge.Distance.Dot),
            hnsw_config=edge.HnswIndexConfig(
                m=_LINKS, ef_construct=_BUILD_EF, full_scan_threshold=_FULL_SCAN_KIB
            ),
            optimizers=edge.EdgeOptimizersConfig(
                default_segment_number=1, indexing_threshold=_FULL_SCAN_KIB
            ),
            wal_enabled=True,
        )
        shard = edge.EdgeShard.create(str(folder / "shard"), config)
        for start in range(0, len(ids), _BATCH):
            rows = range(start, min(start + _BATCH, len(ids)))
            shard.update(
                edge.UpdateOperation.upsert_points(
                    [edge.Point(id=int(ids[i]), vector=vectors[i].tolist()) for i in rows]
                )
            )
        shard.optimize()
        shard.flush()
        shard.close()

    @classmethod
    def load(cls, folder: Path) -> Graph:
        """Open the shard that lies in `folder`."""
        import qdrant_edge as edge

        return cls(edge.EdgeShard.load(str(folder / "shard")))

    def search(self, vector: Vector, k: int) -> tuple[list[int], list[float]]:
        """Return ids and scores of the nearest, best first."""
        import qdrant_edge as edge

        found = self._shard.query(
            edge.QueryRequest(
                limit=k,
                query=edge.Query.Nearest(vector.tolist()),
                params=edge.SearchParams(hnsw_ef=max(SEARCH_EF, k)),
            )
        )
        return [int(each.id) for each in found], [each.score for each in found]


def serve(sock: socket.socket, graph: Graph, dims: int) -> None:
    """Answer until the other end closes."""
    stream = sock.makefile("rb")
    size = HEAD.size + 4 * dims
    while len(request := stream.read(size)) == size:
        number, k = HEAD.unpack_from(request)
        ids, scores = graph.search(np.frombuffer(request, "<f4", dims, HEAD.size), k)
        sock.sendall(
            HEAD.pack(number, len(ids))
            + np.array(ids, "<u8").tobytes()
            + np.array(scores, "<f4").tobytes()
        )


def main(parent: str, mode: str, folder: str, dims: str, *fd: str) -> int:
    """Do what was asked."""
    die_with(int(parent))
    if mode == "build":
        os.nice(_NICE)
        Graph.build(Path(folder), int(dims))
        return 0
    sock = socket.socket(fileno=int(fd[0]))
    graph = Graph.load(Path(folder))
    sock.sendall(HEAD.pack(0, 0))
    serve(sock, graph, int(dims))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
