"""Ends every Python process that asks for the network; in force where this folder is on PYTHONPATH.

Python imports a module of this name before anything else. The hook cannot be removed, sees C extensions that call
Python's sockets, and applies to child processes. Sockets between processes of this machine (AF_UNIX) are allowed.
"""

import os
import socket
import sys
import traceback

ASKING = {"socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"}
LOOKING_UP = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "urllib.Request"}


def refuse_network(event, arguments):
    """Audit hook: see https://docs.python.org/3/library/audit_events.html."""
    is_network = event in LOOKING_UP or (event in ASKING and arguments[0].family != socket.AF_UNIX)
    if is_network or (event == "socket.__new__" and arguments[1] not in (-1, socket.AF_UNIX)):
        traceback.print_stack()
        sys.stderr.write(f"NETWORK: {event} {arguments}\n")
        sys.stderr.flush()
        os._exit(99)


sys.addaudithook(refuse_network)
