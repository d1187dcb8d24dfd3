"""Run a command without a network, in a namespace in which only the loopback device is up.

The ways are tried in order: as root, as a user who may make namespaces of users, with sudo. Where none is allowed, the
command runs with the network in place, but under CI, where the proof is wanted, this is an error.
"""

import fcntl
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1
HERE = [sys.executable, str(Path(__file__).resolve()), "--inside"]
KEPT = [
    f"{name}={value}" for name, value in os.environ.items() if name in ("HOME", "LD_LIBRARY_PATH", "PATH")
]  # from sudo
SAME_USER = ["setpriv", f"--reuid={os.getuid()}", f"--regid={os.getgid()}", "--clear-groups"]
WAYS = [
    ["unshare", "--net", *HERE],
    ["unshare", "--user", "--map-root-user", "--net", *HERE],
    ["sudo", "--non-interactive", "--preserve-env", "env", *KEPT, "unshare", "--net", *HERE, *SAME_USER],
]


def raise_loopback():
    """Bring the loopback device up, unless it is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        request = struct.pack("16sH14s", b"lo", 0, b"")
        flags = struct.unpack("16sH14s", fcntl.ioctl(handle, SIOCGIFFLAGS, request))[1]
        if not flags & IFF_UP:
            fcntl.ioctl(handle, SIOCSIFFLAGS, struct.pack("16sH14s", b"lo", flags | IFF_UP, b""))


def works(way):
    """Return whether a way ends in a command that runs."""
    try:
        return subprocess.run([*way, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


if sys.argv[1] == "--inside":
    raise_loopback()
    command = sys.argv[2:]
else:
    way = next(filter(works, WAYS), None)
    if way is None and os.environ.get("CI"):
        sys.exit("neither unshare nor sudo may take the network away here, so nothing proves that this needs none")
    if way is None:
        print("no right to take the network away here: running with the network in place", file=sys.stderr, flush=True)
    command = [*(way or []), *sys.argv[1:]]
os.execvp(command[0], command)
