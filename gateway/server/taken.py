"""How much of what was written a client has taken: what its kernel has acknowledged, which no buffer on the way hides.

The transport's own buffer tells little: under it are TLS's and the kernel's, of megabytes, which take from it in lumps.
A slow client seems to take nothing for minutes, and then a lot.
"""

import asyncio
import fcntl
import os
import socket
import struct
import sys
import termios

# struct tcp_info (linux/tcp.h): 8 bytes, 24 words of four, two of eight; then `tcpi_bytes_acked`, since Linux 4.1.
_ACKED = struct.Struct("=120xQ")


def taken_of(transport: asyncio.Transport) -> int:
    """Bytes, TLS's own too, to be compared with an earlier count. Without a socket: by what the transport's buffer has
    lost, as a count below zero."""
    opened = transport.get_extra_info("socket")
    if opened is None:
        return -transport.get_write_buffer_size()
    with socket.socket(fileno=os.dup(opened.fileno())) as same:  # uvloop's own has no getsockopt
        info = same.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED.size)
    (acked,) = _ACKED.unpack(info)
    return int(acked)


def has_taken_all(transport: asyncio.Transport) -> bool:
    """The client has acknowledged all that was written."""
    if transport.get_write_buffer_size():
        return False
    opened = transport.get_extra_info("socket")
    if opened is None:
        return True
    # tcp(7), SIOCOUTQ. TLS's buffer is emptied into the kernel's, which is then the one that is full.
    left = fcntl.ioctl(opened.fileno(), termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(left, sys.byteorder) == 0
