"""Connections between the launchers of several hosts: start, first failure and interruption of the job.

MindSpore's workers notice a lost host after twenty seconds or not at all, and do not name the host. So the launcher of
every node has a TCP connection to that of node 0, on the port above the scheduler's, and sends lines of JSON:

    {"node": 1, "nodes": 2, "devices": 8}      first, from node 1: it has started
    {"status": 1, "message": "rank 9 ..."}     how the job ends, passed on to all: it failed, or was interrupted
    {"status": 0, "message": ""}               to node 0: the sender's workers have finished; from it: everyone's have
"""

from __future__ import annotations

import dataclasses
import json
import socket
import time
from pathlib import Path
from typing import Iterator

from src.launching.cluster import Cluster

# A host that loses power is noticed after 5 + 3 x 5 s.
KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
SEND_SECONDS = 2
RETRY_SECONDS = 0.5
LONGEST_LINE = 2**16


@dataclasses.dataclass(frozen=True)
class Ending:
    """The end of a job: exit status, message to the user, and the log on this host that shows the reason."""

    status: int
    message: str = ""
    log: Path | None = None


class Nodes:
    """Connections of a launcher: node 0's to all others, another node's to node 0, none with a single host."""

    def __init__(self, cluster: Cluster):
        self._cluster = cluster
        self._others = {0} if cluster.node else set(range(1, cluster.nodes))
        self._peers: dict[int, _Line] = {}
        self._strangers: list[_Line] = []
        self._finished: set[int] = set()
        self._said_finished = False
        self._next_try = 0.0
        self._server = None
        if cluster.nodes > 1 and cluster.node == 0:
            self._server = socket.create_server((cluster.address, cluster.port + 1))
            self._server.setblocking(False)

    def poll(self) -> list[Ending]:
        """Return the ends of other nodes since the last call, announced by them or noticed by a lost connection."""
        heard = self._accept() if self._server else self._connect()
        for node, line in list(self._peers.items()):
            for message in line.receive():
                if message["status"] == 0:
                    self._finished.add(node)
                else:
                    heard.append(Ending(**message))
                    self._send(message, self._peers.keys() - {node})
            if line.closed:
                del self._peers[node]
                if node not in self._finished:
                    heard.append(Ending(1, f"the launcher of node {node} has gone, or its host; the job was stopped"))
        return heard

    def tell(self, ending: Ending) -> None:
        """Tell the other nodes the end of the job."""
        if not self._server:  # A job may end before the first try to connect, or between two.
            self._next_try = 0.0
            self._connect()
        self._send({"status": ending.status, "message": ending.message}, self._peers.keys())

    def missing(self) -> list[int]:
        """Return the nodes that have not started, as far as this node can know."""
        return sorted(self._others - self._peers.keys() - self._finished)

    def all_finished(self) -> bool:
        """Announce that this node's workers have finished; return whether those of all other nodes have, too."""
        complete = self._others <= self._finished
        if not self._said_finished and (complete or self._cluster.node > 0):
            self._said_finished = True
            self.tell(Ending(0))
        return complete

    def close(self) -> None:
        """Close all connections."""
        for connection in (*self._peers.values(), *self._strangers, *([self._server] if self._server else [])):
            connection.close()

    def _send(self, message: dict, nodes: set[int]) -> None:
        for node in nodes:
            self._peers[node].send(message)

    def _connect(self) -> list[Ending]:
        """Try to connect to node 0, which may start later."""
        if not self._peers and not self._finished and self._others and time.monotonic() >= self._next_try:
            self._next_try = time.monotonic() + RETRY_SECONDS
            cluster = self._cluster
            try:
                connection = socket.create_connection((cluster.address, cluster.port + 1), timeout=SEND_SECONDS)
            except OSError:
                return []
            self._peers[0] = _Line(connection)
            self._peers[0].send({"node": cluster.node, "nodes": cluster.nodes, "devices": cluster.devices})
        return []

    def _accept(self) -> list[Ending]:
        """Accept launchers that have started; return the reasons to refuse others, which end the job."""
        try:
            while True:
                self._strangers.append(_Line(self._server.accept()[0]))
        except OSError:  # No connection is waiting, or it was closed again.
            pass
        refusals = []
        for line in list(self._strangers):
            hello = next(line.receive(), None)
            if hello is None and not line.closed:
                continue
            self._strangers.remove(line)
            if not isinstance(hello, dict) or hello.keys() != {"node", "nodes", "devices"}:
                line.close()  # Not one of ours.
                continue
            wrong = self._contradiction(**hello)
            if wrong is None:
                self._peers[hello["node"]] = line
                continue
            refusals.append(Ending(2, wrong))
            self.tell(refusals[-1])
            line.send({"status": 2, "message": wrong})
            line.close()
        return refusals

    def _contradiction(self, node: int, nodes: int, devices: int) -> str | None:
        if nodes != self._cluster.nodes:
            return f"--nnodes is {nodes} on node {node} and {self._cluster.nodes} on node 0"
        if devices != self._cluster.devices:
            return (
                f"node {node} has {devices} devices and node 0 has {self._cluster.devices}; "
                "give every node the same number with --devices"
            )
        return f"two hosts were started with --node_rank {node}" if node in self._peers else None


class _Line:
    """A connection that carries one JSON value per line."""

    def __init__(self, connection: socket.socket):
        self._socket, self._buffer, self.closed = connection, b"", False
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def send(self, message: dict) -> None:
        try:
            self._socket.settimeout(SEND_SECONDS)
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            pass  # A lost connection is noticed when receiving.

    def receive(self) -> Iterator:
        """Yield received values; unconsumed ones come again. Sets `closed` at the end of the stream."""
        try:
            self._socket.setblocking(False)
            while not self.closed:
                received = self._socket.recv(4096)
                self._buffer += received
                self.closed = not received or len(self._buffer) > LONGEST_LINE
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True
        while b"\n" in self._buffer:
            line, _, self._buffer = self._buffer.partition(b"\n")
            try:
                yield json.loads(line)
            except ValueError:
                self.close()
                return

    def close(self) -> None:
        self.closed = True
        self._socket.close()
