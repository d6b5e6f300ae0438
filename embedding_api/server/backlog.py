"""How many connections wait in the backlog of a listening socket, which all workers share."""

import os
import socket
import struct

# <linux/tcp.h>: tcpi_unacked of a listening socket is the length of its backlog. Before it are 24 bytes.
_TCP_INFO = struct.Struct("=24xI")
# <linux/netlink.h>, <linux/unix_diag.h>: the request asks for the length of the receive queue of the socket with an
# inode. The answer has two headers of 16 bytes and one attribute.
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST = 4, 20, 1
_ALL_STATES, _SHOW_QUEUE_LENGTH, _NO_COOKIE = 0xFFFFFFFF, 0x10, (0xFFFFFFFF, 0xFFFFFFFF)
_UNIX_REQUEST = struct.Struct("=IHHII BBHIIIII".replace(" ", ""))
_UNIX_ANSWER = struct.Struct("=32xHHI")


def backlog(listener: socket.socket) -> int:
    """The number of connections that no worker has accepted yet; 0 where the operating system does not say."""
    try:
        return _unix_backlog(listener) if listener.family == socket.AF_UNIX else _tcp_backlog(listener)
    except (OSError, struct.error):
        return 0


def _tcp_backlog(listener):
    return _TCP_INFO.unpack(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size))[0]


def _unix_backlog(listener):
    inode = os.fstat(listener.fileno()).st_ino
    header = _UNIX_REQUEST.size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0
    request = socket.AF_UNIX, 0, 0, _ALL_STATES, inode, _SHOW_QUEUE_LENGTH, *_NO_COOKIE
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(1)
        netlink.send(_UNIX_REQUEST.pack(*header, *request))
        _, _, length = _UNIX_ANSWER.unpack(netlink.recv(4096)[: _UNIX_ANSWER.size])
    return length
