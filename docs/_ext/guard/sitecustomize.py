"""Python starts with this module while the book is built or tested: no network, and warnings are errors.

The folder stands first in PYTHONPATH, so lessons, notebook kernels and every process that they start obey it. Where
BOOK_JOURNAL names a file, they also write down there which files of the project they opened and what was refused to them.
"""

import os
import socket
import sys
import warnings

# Third-party warnings that no lesson can avoid: (message, category, module), each with its reason.
UNAVOIDABLE = (
    # Jupyter's kernel asks asyncio for a loop before there is one, as Python 3.12 and 3.13 note.
    ("There is no current event loop", DeprecationWarning, r"(tornado|ipykernel|asyncio)\b"),
    # Matplotlib's backend for notebooks listens to its own settings in an old way of its library.
    ("InlineBackend._figure_formats_changed", DeprecationWarning, r".*matplotlib_inline"),
    # Jupyter's kernel recommends to itself, as it shuts down, what a later version of it will do.
    ("For consistency across implementations", PendingDeprecationWarning, r"ipykernel"),
)

_written = set()


class NetworkRefusedError(OSError):
    """A lesson tried to reach another machine."""


def be_strict():
    """Turn warnings into errors, but for the short list above."""
    warnings.resetwarnings()
    warnings.simplefilter("error")
    for message, category, module in UNAVOIDABLE:
        warnings.filterwarnings("ignore", message, category, module)


def _is_local(host):
    """Whether a host name or address means this machine."""
    if host in (None, "", b"", "localhost", b"localhost", socket.gethostname()):
        return True
    text = host.decode() if isinstance(host, bytes) else str(host)
    return text.startswith("127.") or text in {"::1", "::", "0.0.0.0", "0:0:0:0:0:0:0:1"}


def _write(line):
    """Add a line to the journal, once."""
    if line not in _written:
        _written.add(line)
        descriptor = os.open(os.environ["BOOK_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(descriptor, f"{line}\n".encode())
        os.close(descriptor)


def watch():
    """Write down, from now on, every file of the project that this process opens."""
    root = os.environ["BOOK_ROOT"] + os.sep
    made = tuple(f"{root}docs{os.sep}{folder}{os.sep}" for folder in ("_build", "_ext", "lessons"))

    def hook(event, args):
        if event == "open" and "BOOK_JOURNAL" in os.environ and isinstance(args[0], (str, bytes, os.PathLike)):
            path = os.path.abspath(os.fsdecode(args[0]))  # noqa: PTH100 (quick: every file that is opened comes here)
            if path.startswith(root) and not path.startswith((*made, sys.prefix, sys.base_prefix)):
                _write(f"opened {path[len(root) :]}")

    _written.clear()
    sys.pycache_prefix = None  # byte code lies beside its source, which its name then tells
    sys.addaudithook(hook)


def _refuse(event, args):
    """Audit hook: raise when a socket is about to leave this machine, and leave a note for the build."""
    if event == "socket.getaddrinfo" or event.startswith("socket.gethostby"):
        host = args[0]
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg") and isinstance(args[1], tuple):
        host = args[1][0]
    else:
        return
    if sys._book_guarded and not _is_local(host):
        note = f"{event} {host!r}"
        if "BOOK_JOURNAL" in os.environ:
            _write(f"refused {note}")
        raise NetworkRefusedError(f"the book runs without a network, and this code asked for one: {note}")


def refuse_network():
    """Refuse every connection that leaves this machine, while ``sys._book_guarded`` is true."""
    if not getattr(sys, "_book_guarded", False):
        sys._book_guarded = True
        sys.addaudithook(_refuse)


if __name__ == "sitecustomize" and os.environ.get("BOOK_GUARD"):
    refuse_network()
    if "BOOK_JOURNAL" in os.environ:
        watch()
    if os.environ["BOOK_GUARD"] == "strict":
        be_strict()
