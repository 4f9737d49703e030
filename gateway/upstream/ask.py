"""A question to a service beside the model servers, and its whole answer: who decides, who introspects.

The same connections as toward endpoints, so that a question costs what a forwarded request does.
"""

from time import monotonic

from gateway.errors import ClientLeft, StaleConnection, UpstreamInvalid
from gateway.model import Answer, Exchange
from gateway.upstream.connection import Connection
from gateway.upstream.connections import Connections

_STALE_BOUND = 2  # kept-alive connections that prove stale before a new one is opened


async def ask(connections: Connections, question: bytes, timeout: float, exchange: Exchange, longest: int) -> Answer:
    """Send the bytes of a request, within `timeout` seconds; -> the answer, of whose body there are at most `longest`
    bytes. A client that leaves ends it. Raises UpstreamError, ClientLeft."""
    end = monotonic() + timeout
    for _ in range(_STALE_BOUND):
        connection = connections.take()
        if connection is None:
            break
        try:
            return await _exchange(connections, connection, (question, longest), end, exchange)
        except StaleConnection:
            continue
    connection = await connections.open(max(end - monotonic(), 0.001))
    return await _exchange(connections, connection, (question, longest), end, exchange)


async def _exchange(
    connections: Connections, connection: Connection, what: tuple[bytes, int], end: float, exchange: Exchange
) -> Answer:
    question, longest = what
    try:
        if exchange.departed:
            raise ClientLeft
        exchange.on_leave = connection.cancel
        connection.begin(question, is_head=False)
        reply = await connection.head(end)
        status, headers = reply.status, reply.headers
        body = bytearray()
        while not reply.is_complete or reply.chunks:
            body += await connection.read(end - monotonic(), end)
            if len(body) > longest:
                raise UpstreamInvalid(f"An answer is longer than {longest} bytes.")
        return Answer(status, headers, bytes(body))
    finally:
        exchange.on_leave = None
        connections.give_back(connection, is_sent=True)
