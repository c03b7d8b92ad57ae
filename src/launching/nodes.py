"""The launchers of a cluster keep in touch: who has started, who failed first, who was interrupted.

MindSpore's own workers notice a lost host after twenty seconds or not at all, and do not say which. So the launcher of
every node holds a TCP connection to that of node 0, on the port above the scheduler's, and sends lines of JSON:

    {"hello": {"node": 1, "nodes": 2, "devices": 8}}    node 1 has started
    {"done": true}                                      its workers have all finished
    {"failed": {"status": 1, "message": "rank 9 ..."}}  to all: the job has failed
    {"signal": 2}                                       to all: the job was interrupted
    {"end": true}                                       from node 0: every node is done
"""

from __future__ import annotations

import json
import socket
import time

# A host that loses power is noticed after 5 + 3 x 5 s.
KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
SEND_SECONDS = 2
RETRY_SECONDS = 0.5
LONGEST_LINE = 2**16


class Alone:
    """One host only: nobody to talk to."""

    def poll(self) -> list[dict]:
        """Return the messages that have come in. {"lost": node}: its launcher has gone without a word."""
        return []

    def tell(self, message: dict) -> None:
        """Send a message to the other nodes."""

    def missing(self) -> list[int]:
        """Return the nodes that have not started, as far as this one can know."""
        return []

    def released(self) -> bool:
        """Return whether this node, itself done, may end: every other one is done too."""
        return True

    def close(self) -> None:
        """Hang up."""


class Master(Alone):
    """Node 0, which passes on what one node says to the others."""

    def __init__(self, address: str, port: int, nodes: int, devices: int):
        self._nodes, self._devices = nodes, devices
        self._lines: dict[int, _Line] = {}
        self._strangers: list[_Line] = []
        self._done: set[int] = set()
        self._socket = listen(address, port)
        self._socket.setblocking(False)

    def poll(self) -> list[dict]:
        self._accept()
        messages = []
        for line in list(self._strangers):
            received = line.receive()
            if received or line.closed:
                self._strangers.remove(line)
            if received:
                messages += self._greet(line, *received)
        for node, line in list(self._lines.items()):
            messages += self._hear(node, line.receive())
            if line.closed:
                del self._lines[node]
                messages.append({"lost": node})
        return messages

    def tell(self, message: dict) -> None:
        self._pass_on(message, 0)

    def missing(self) -> list[int]:
        return sorted(set(range(1, self._nodes)) - set(self._lines))

    def released(self) -> bool:
        return len(self._done) == self._nodes - 1

    def close(self) -> None:
        for line in (*self._lines.values(), *self._strangers):
            line.close()
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # Nobody waits, or whoever did has gone.
                return
            self._strangers.append(_Line(connection))

    def _hear(self, node: int, received: list[dict]) -> list[dict]:
        if any("done" in message for message in received):
            self._done.add(node)
        news = [message for message in received if "failed" in message or "signal" in message]
        for message in news:
            self._pass_on(message, node)
        return news

    def _greet(self, line: _Line, first: dict, *rest: dict) -> list[dict]:
        hello = first.get("hello")
        if not isinstance(hello, dict) or set(hello) != {"node", "nodes", "devices"}:
            line.close()  # Not one of ours.
            return []
        node = hello["node"]
        if hello["nodes"] != self._nodes:
            wrong = f"--nnodes is {hello['nodes']} on node {node} and {self._nodes} on node 0"
        elif hello["devices"] != self._devices:
            wrong = (
                f"node {node} has {hello['devices']} devices and node 0 has {self._devices}; "
                "give every node the same number with --devices"
            )
        elif node in self._lines:
            wrong = f"two hosts were started with --node_rank {node}"
        else:
            self._lines[node] = line
            return self._hear(node, list(rest))
        refusal = {"failed": {"status": 2, "message": wrong}}
        line.send(refusal)
        line.close()
        self._pass_on(refusal, 0)
        return [refusal]

    def _pass_on(self, message: dict, origin: int) -> None:
        for node, line in self._lines.items():
            if node != origin:
                line.send(message)


class Member(Alone):
    """A node other than 0; it keeps trying to reach node 0, which may be started later."""

    def __init__(self, address: str, port: int, node: int, nodes: int, devices: int):
        self._address = (address, port)
        self._hello = {"hello": {"node": node, "nodes": nodes, "devices": devices}}
        self._line: _Line | None = None
        self._next_try = 0.0
        self._released = False

    def poll(self) -> list[dict]:
        if self._line is None:
            self._connect()
            return []
        if self._line.closed:
            return []
        messages = self._line.receive()
        self._released = self._released or any("end" in message for message in messages)
        heard = [message for message in messages if "failed" in message or "signal" in message]
        if self._line.closed and not self._released and not heard:
            heard.append({"lost": 0})
        return heard

    def tell(self, message: dict) -> None:
        if self._line is not None:
            self._line.send(message)

    def missing(self) -> list[int]:
        return [0] if self._line is None else []

    def released(self) -> bool:
        return self._released

    def close(self) -> None:
        if self._line is not None:
            self._line.close()

    def _connect(self) -> None:
        if time.monotonic() < self._next_try:
            return
        self._next_try = time.monotonic() + RETRY_SECONDS
        try:
            self._line = _Line(socket.create_connection(self._address, timeout=SEND_SECONDS))
        except OSError:
            return
        self._line.send(self._hello)


def listen(address: str, port: int) -> socket.socket:
    """Return a listening socket; OSError says why there is none. A port that was in use a moment ago is no obstacle."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


class _Line:
    """A connection that carries one JSON object a line."""

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
            pass  # Whoever has gone is noticed when receiving.

    def receive(self) -> list[dict]:
        """Return the messages that have arrived, and set `closed` when there will be no more."""
        messages = []
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
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if not isinstance(message, dict):
                self.close()
                break
            messages.append(message)
        if self.closed:
            self._socket.close()
        return messages

    def close(self) -> None:
        self.closed = True
        self._socket.close()
