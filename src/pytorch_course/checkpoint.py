"""Files that survive a kill at any instant, are checked when read, and never run code."""

import os
import pickle
import re
import secrets
import shutil
import socket
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

import torch
import torch.distributed as dist

_T = TypeVar("_T")
_CONTENT = "a checkpoint holds tensors, numbers, strings, and lists, tuples and dictionaries of them"
_HOST = re.sub(r"\W", "_", socket.gethostname())
_TOKEN = secrets.token_hex(4)  # A process in a restarted container often has the id of the killed one.


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, is damaged, does not fit, or belongs to another run."""


class State(Protocol):
    """What :class:`Checkpoints` saves and resumes."""

    step: int

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, in types that :func:`save` accepts."""

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Take over what ``state_dict()`` returned; if it does not fit, raise CheckpointError and change nothing."""


def save(obj: object, path: str | os.PathLike[str]) -> Path:
    """Write `obj` so that `path` holds either the old file or the whole new one, whatever happens; return `path`.

    The bytes go to a temporary file beside it, are read back and checked, forced to the disk, and only then take the
    place of the old file, with its mode. Temporary files that killed processes left in the folder are removed first.

    Parameters
    ----------
    obj : object
        Tensors, numbers, strings, and lists, tuples and dictionaries of them: what a weights-only load accepts.
    path : path
        The file to write or to replace. A link stays, and its target is replaced.

    Raises
    ------
    CheckpointError
        If it cannot be written, or :func:`load` would refuse it. The old file is intact, no temporary one is left.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     load(save({"weight": torch.ones(2), "step": 3}, Path(folder, "state.pt")))
    {'weight': tensor([1., 1.]), 'step': 3}
    """
    target = Path(os.path.realpath(path))
    try:
        if os.path.lexists(target) and not target.is_file():
            raise CheckpointError(f"cannot write {path}: it is not a regular file")
        _sweep(target.parent)
        _replace(target, obj, path)
    except (CheckpointError, MemoryError, Warning):
        raise
    except (OSError, RuntimeError) as error:
        space = ""
        with suppress(OSError):
            space = f" ({shutil.disk_usage(target.parent).free:,} bytes are free)"
        raise CheckpointError(f"cannot write {path}{space}: {error}") from error
    except Exception as error:  # Pickling raises almost anything.
        raise CheckpointError(f"cannot write {path}: {error}; {_CONTENT}") from error
    return Path(path)


def load(path: str | os.PathLike[str], map_location: str | torch.device = "cpu") -> Any:
    """Read what :func:`save` wrote, after checking every byte of it against its checksum.

    :func:`torch.load` alone skips the checksums: a flipped bit would silently become a wrong weight. No code in the
    file is ever run. Checksums guard against accidents, not attackers. The tensors go to the device `map_location`.

    Raises
    ------
    CheckpointError
        If the file is damaged, is not a file of :func:`torch.save`, or needs code to be read. The message says where.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save(torch.full((9,), 65, dtype=torch.uint8), Path(folder, "state.pt"))
    ...     flipped = path.write_bytes(path.read_bytes().replace(b"AAAAAAAAA", b"AAAAAAAAC"))
    ...     load(path)
    Traceback (most recent call last):
    pytorch_course.checkpoint.CheckpointError: ... is damaged: wrong checksum or header in the entry checkpoint/data/0
    """
    with Path(path).open("rb") as file:
        _verify(file, path)
        file.seek(0)
        try:
            return torch.load(file, map_location=map_location, weights_only=True, mmap=False)
        except pickle.UnpicklingError:  # Torch's own message advises to run the code, so it is not shown.
            raise CheckpointError(f"{path} cannot be read without running code, which is refused") from None
        except (MemoryError, Warning):
            raise
        except Exception as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error


class Checkpoints:
    """The checkpoints of one run, in one folder: the newest few, one file per step.

    The `folder` belongs to this run alone, and the first call makes it. It keeps so many undamaged checkpoints. With
    :mod:`torch.distributed` initialised, every rank must call the methods: only rank 0 writes, every rank reads, and an
    error on one rank is raised on all.

    Examples
    --------
    >>> import tempfile
    >>> class Counter:
    ...     def state_dict(self): return {"step": self.step}
    ...     def load_state_dict(self, state): self.step = state["step"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     counter, checkpoints = Counter(), Checkpoints(folder, keep=2)
    ...     saved = [checkpoints.save(counter) for counter.step in (10, 20, 30)]
    ...     sorted(path.name for path in Path(folder).iterdir()), checkpoints.resume(Counter())
    (['step-000000020.pt', 'step-000000030.pt'], 30)
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int = 3) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}, expected at least 1")
        self.folder, self.keep = Path(folder), keep
        self._damaged: dict[Path, str] = {}  # What is wrong with files. Rank 0 looks, so it alone warns.

    def save(self, state: State) -> Path:
        """Write the state under its step, remove the oldest files, and return the new one.

        It raises CheckpointError as :func:`save`, and if there is an undamaged later step: the run was not resumed.
        """
        snapshot = state.state_dict()
        return _together(lambda: self._write(snapshot, state.step), rank_zero=True)

    def resume(self, state: State) -> int:
        """Load the newest undamaged checkpoint and return its step, or 0 without one; warn of damaged ones after it.

        It raises CheckpointError if every checkpoint is damaged, or if the newest undamaged one does not fit `state`.
        """
        path = _together(self._newest, rank_zero=True)
        if self._damaged:
            warnings.warn(f"stepped over damaged checkpoints: {'; '.join(self._damaged.values())}", stacklevel=2)
        if path is None:
            return 0
        data = _together(lambda: load(path))
        try:
            _together(lambda: state.load_state_dict(data))
        except Exception as error:
            error.add_note(f"while resuming from {path}")
            raise
        return state.step

    def _write(self, snapshot: dict[str, Any], step: int) -> Path:
        later = [there for there, path in self._files() if there > step and path not in self._damaged]
        if later:
            raise CheckpointError(
                f"{self.folder} holds the later step {later[-1]}: resume from it, or choose another folder"
            )
        path = save(snapshot, self.folder / f"step-{step:09d}.pt")
        self._damaged.pop(path, None)
        undamaged = [there for there, file in self._files() if file not in self._damaged]
        for there, file in self._files():
            if there < undamaged[-self.keep :][0]:
                file.unlink(missing_ok=True)
        return path

    def _newest(self) -> Path | None:
        """The newest undamaged file. The damaged ones after it are noted."""
        self._damaged.clear()
        for _, path in reversed(self._files()):
            try:
                with path.open("rb") as file:
                    _verify(file, path)
                return path
            except (CheckpointError, OSError) as error:
                self._damaged[path] = str(error)
        if self._damaged:
            problems = "; ".join(self._damaged.values())
            raise CheckpointError(f"every checkpoint in {self.folder} is damaged, move them away: {problems}")
        return None

    def _files(self) -> list[tuple[int, Path]]:
        """Steps and files, oldest first."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            matches = [(re.fullmatch(r"step-(\d+)\.pt", path.name), path) for path in self.folder.iterdir()]
        except OSError as error:
            raise CheckpointError(f"cannot use {self.folder}: {error}") from error
        return sorted((int(match[1]), path) for match, path in matches if match)


def _verify(file: IO[bytes], path: str | os.PathLike[str]) -> None:
    """Check the checksum of every entry, and that nothing in the file asks for code."""
    try:
        with zipfile.ZipFile(file) as archive:
            # Torch reads nothing of an entry that is marked as a folder, and the tensor holds whatever was in memory.
            bad = next((entry.filename for entry in archive.infolist() if entry.external_attr & 16), archive.testzip())
        file.seek(0)
        unsafe = [] if bad else sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    except Exception as error:  # Damaged headers make zipfile raise almost anything.
        raise CheckpointError(f"{path} is damaged, or not by torch.save: {type(error).__name__} {error}") from error
    if bad is not None:
        raise CheckpointError(f"{path} is damaged: wrong checksum or header in the entry {bad}")
    if unsafe:
        raise CheckpointError(f"{path} needs code to be read, which is refused: {', '.join(unsafe)}; {_CONTENT}")


def _replace(target: Path, obj: object, path: str | os.PathLike[str]) -> None:
    """Write a temporary file, check it, force it to the disk, and rename it to `target`, which messages call `path`."""
    # Torch names the entries after what stands before the last dot: so the bytes do not depend on the rest.
    temporary = target.with_name(f"checkpoint.{_HOST}-{os.getpid()}-{_TOKEN}-{secrets.token_hex(4)}-unfinished")
    try:
        temporary.touch(0o600 if target.exists() else 0o666, exist_ok=False)  # The old file may be private.
        torch.save(obj, temporary)
        with temporary.open("rb+") as file:
            _verify(file, path)
            if target.exists():
                shutil.copymode(target, temporary)
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    if sys.platform != "win32":
        folder = os.open(target.parent, os.O_RDONLY)  # The rename, too, must reach the disk.
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _sweep(folder: Path) -> None:
    """Remove the temporary files of dead processes."""
    # Some network file systems have no locks, which would tell who is alive. So a file stays for a day if its writer
    # runs on another host, or if its process id is another's by now. A living writer may look dead (in a container
    # with the name of its host, after a day of sleep): then its save fails with an error, and the old file stays whole.
    for stray in folder.glob("checkpoint.*-unfinished"):
        with suppress(OSError):  # Others sweep, too. Not being allowed to ask shows that the process is alive.
            if time.time() - stray.stat().st_mtime > 24 * 60 * 60 or _is_dead(stray.name):
                stray.unlink()


def _is_dead(temporary: str) -> bool:
    """Whether the process that wrote the temporary file of this name is known to be dead."""
    writer = re.fullmatch(r"checkpoint\.(\w+)-(\d{1,9})-(\w+)-\w+-unfinished", temporary)
    if sys.platform == "win32" or writer is None or writer[1] != _HOST:
        return False
    if int(writer[2]) == os.getpid():
        return writer[3] != _TOKEN
    with suppress(ProcessLookupError):
        os.kill(int(writer[2]), 0)
        return False
    return True


def _together(action: Callable[[], _T], rank_zero: bool = False) -> _T:
    """Run `action` on every rank, or on rank 0 for all of them. If it fails on one, all raise."""
    if not (dist.is_available() and dist.is_initialized()):
        return action()
    result, failure = None, None
    try:
        result = None if rank_zero and dist.get_rank() else action()
    except Exception as error:
        failure = error
    answers: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(answers, (failure and f"{type(failure).__name__}: {failure}", result if rank_zero else None))
    for rank, (text, _) in enumerate(answers):
        if text is not None:
            raise failure or CheckpointError(f"rank {rank} failed with {text}")
    return answers[0][1] if rank_zero else result  # type: ignore[return-value]
