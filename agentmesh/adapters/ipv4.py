"""Keep a process and all its children on IPv4, by a filter that the kernel applies and nothing later can lift.

gRPC, which Ray is built on, binds a loopback address as an IPv4-mapped IPv6 socket wherever the machine has IPv6. Such a
listener is on loopback, but reads `[::ffff:127.0.0.1]` in `ss` and is missed, or suspected, by whoever checks with `127.`.
Without IPv6 sockets gRPC binds 127.0.0.1 itself.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import socket
import struct
import sys

PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
AUDIT_ARCH_X86_64 = 0xC000003E
SYS_SOCKET = 41
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
NUMBER, ARCH, FAMILY = 0, 4, 16  # offsets in struct seccomp_data


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def refuse_ipv6() -> bool:
    """From here on socket(AF_INET6) of this thread and its future children fails with EAFNOSUPPORT. False where it cannot be had.

    Call it before any thread is started. Source: Linux Documentation/userspace-api/seccomp_filter.rst.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    code = [
        (LOAD, 0, 0, ARCH),
        (JUMP_IF_EQUAL, 0, 5, AUDIT_ARCH_X86_64),
        (LOAD, 0, 0, NUMBER),
        (JUMP_IF_EQUAL, 0, 3, SYS_SOCKET),
        (LOAD, 0, 0, FAMILY),
        (JUMP_IF_EQUAL, 0, 1, int(socket.AF_INET6)),
        (RETURN, 0, 0, ERRNO | errno.EAFNOSUPPORT),
        (RETURN, 0, 0, ALLOW),
    ]
    packed = b"".join(struct.pack("HBBI", *instruction) for instruction in code)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    program = _Program(len(code), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0)
