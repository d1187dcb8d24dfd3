"""Files that survive a kill at any instant, are checked when read, and never run code."""

import os
import pickle
import re
import secrets
import shutil
import socket
import sys
import warnings
import weakref
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

import torch
import torch.distributed as dist

if sys.platform != "win32":
    import fcntl

_T = TypeVar("_T")

_LOCK_NAME = ".lock"
_STEP_NAME = re.compile(r"step-(\d+)\.pt")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, is damaged, does not fit, or belongs to another run."""


class State(Protocol):
    """What :class:`Checkpoints` saves and resumes.

    The dictionary has an entry ``"model"`` with the names and tensors of the model. Everything in it must be of the
    types that a weights-only load accepts: tensors, numbers, strings, and lists, tuples and dictionaries of them.
    """

    step: int

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs."""

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Take over what ``state_dict()`` returned."""


def save(obj: object, path: str | os.PathLike[str]) -> Path:
    """Write `obj` so that `path` holds either the old file or the whole new one, whatever happens.

    The bytes go to a temporary file in the same folder, are read back and checked, forced to the disk, and only then
    take the place of `path`. Temporary files that killed processes left in the folder are removed first.

    Parameters
    ----------
    obj : object
        Tensors, numbers, strings, and lists, tuples and dictionaries of them: what a weights-only load accepts.
    path : path
        The file to write or to replace. Its folder must exist.

    Returns
    -------
    pathlib.Path
        `path`, on the disk.

    Raises
    ------
    CheckpointError
        If the disk is full, the folder is missing or read-only, `path` is not a regular file, or :func:`load` would
        refuse `obj`. The old file is intact then, and no temporary file is left.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save({"weight": torch.ones(2), "step": 3}, Path(folder, "state.pt"))
    ...     load(path)
    {'weight': tensor([1., 1.]), 'step': 3}
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise CheckpointError(f"cannot write {path}: it is not a regular file")
    try:
        _sweep(path.parent)
        with _temporary_beside(path) as (temporary, file):
            torch.save(obj, temporary)
            with temporary.open("rb") as written:
                _verify(written, path)
            os.fsync(file.fileno())
            if sys.platform == "win32":
                file.close()  # Windows cannot rename an open file.
            temporary.replace(path)
        _sync_folder(path.parent)
    except CheckpointError:
        raise
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"cannot write {path}{_free_space(path.parent)}: {error}") from error
    return path


def load(path: str | os.PathLike[str], map_location: str | torch.device = "cpu") -> Any:
    """Read what :func:`save` wrote, after checking every byte of it against its checksum.

    :func:`torch.load` alone skips the checksums: a flipped bit would silently become a wrong weight. No code in the
    file is ever run. A checksum guards against accidents, not against an attacker who can write a new one.

    Parameters
    ----------
    path : path
        The file.
    map_location : str or torch.device
        Where the tensors go.

    Returns
    -------
    object
        What was saved.

    Raises
    ------
    CheckpointError
        If the file is damaged, is not a file of :func:`torch.save`, or needs code to be read. The message says where.
    OSError
        If the file cannot be opened.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save({"weight": torch.ones(1000)}, Path(folder, "state.pt"))
    ...     data = bytearray(path.read_bytes())
    ...     data[2000] ^= 1
    ...     _ = path.write_bytes(data)
    ...     try:
    ...         load(path)
    ...     except CheckpointError as error:
    ...         print(str(error).removeprefix(str(path)))
     is damaged: wrong checksum or header in the entry checkpoint/data/0
    """
    path = Path(path)
    with path.open("rb") as file:
        _verify(file, path)
        file.seek(0)
        try:
            return torch.load(file, map_location=map_location, weights_only=True, mmap=False)
        except pickle.UnpicklingError:
            # Torch's own message advises to run the code, so it is not shown.
            raise CheckpointError(f"{path} cannot be read without running code, which is refused") from None
        except (MemoryError, Warning):
            raise
        except Exception as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error


class Checkpoints:
    """The checkpoints of one run, in one folder: the newest few, one file per step.

    The folder belongs to the process from the first call until this object is gone or the process ends, however it
    ends. A second process is refused. With :mod:`torch.distributed` initialised, every rank must call the methods:
    only rank 0 writes, every rank reads, and an error on one rank is raised on all. On Windows the folder is not
    locked.

    Parameters
    ----------
    root : path
        The folder. The first call makes it.
    keep : int
        How many undamaged checkpoints to keep, at least 1.

    Examples
    --------
    >>> import tempfile
    >>> class Counter:
    ...     step = 0
    ...     def state_dict(self):
    ...         return {"model": {}, "step": self.step}
    ...     def load_state_dict(self, state):
    ...         self.step = state["step"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     counter, checkpoints = Counter(), Checkpoints(folder, keep=2)
    ...     for counter.step in (10, 20, 30):
    ...         _ = checkpoints.save(counter)
    ...     sorted(path.name for path in Path(folder).glob("*.pt")), checkpoints.resume(Counter())
    (['step-000000020.pt', 'step-000000030.pt'], 30)
    """

    def __init__(self, root: str | os.PathLike[str], keep: int = 3) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}, expected at least 1")
        self.root = Path(root)
        self.keep = keep
        self._damaged: set[Path] = set()
        self._lock: _FolderLock | None = None

    def save(self, state: State) -> Path:
        """Write the state under its step, then remove the oldest files.

        Parameters
        ----------
        state : State
            Its ``state_dict()`` is called on every rank.

        Returns
        -------
        pathlib.Path
            The new file.

        Raises
        ------
        CheckpointError
            As :func:`save`; or if another process uses the folder; or if the folder holds an undamaged checkpoint of
            a later step, because then the run was not resumed and belongs elsewhere. Nothing has been removed then.
        """
        snapshot = state.state_dict()
        return _on_rank_zero(lambda: self._write(snapshot, state.step))

    def resume(self, state: State) -> int:
        """Load the newest undamaged checkpoint into `state`.

        Parameters
        ----------
        state : State
            Changed only if everything fits.

        Returns
        -------
        int
            Its step, or 0 if the folder holds no checkpoint.

        Raises
        ------
        CheckpointError
            If every checkpoint is damaged; if another process uses the folder; or if the model has another
            architecture, with all names that are missing, unexpected or of another shape.

        Warns
        -----
        UserWarning
            If damaged files were stepped over, with their names.
        """
        loaded = None

        def choose() -> Path | None:
            nonlocal loaded
            path, loaded = self._newest()
            return path

        path = _on_rank_zero(choose)
        if path is None:
            return 0
        data = _on_every_rank(lambda: load(path) if loaded is None else loaded)
        _require_fit(data, state.state_dict(), path)
        try:
            state.load_state_dict(data)
        except Exception as error:
            error.add_note(f"while resuming from {path}")
            raise
        return state.step

    def _write(self, snapshot: dict[str, Any], step: int) -> Path:
        self._own_folder()
        newer = [later for later, path in self._files() if later > step and path not in self._damaged]
        if newer:
            raise CheckpointError(
                f"{self.root} holds step {newer[-1]}, later than step {step}: resume from it, or choose another folder"
            )
        path = save(snapshot, self.root / f"step-{step:09d}.pt")
        self._damaged.discard(path)
        undamaged = [earlier for earlier, path in self._files() if earlier <= step and path not in self._damaged]
        for earlier, old in self._files():
            if earlier < undamaged[-self.keep :][0]:
                old.unlink(missing_ok=True)
        return path

    def _newest(self) -> tuple[Path | None, Any]:
        self._own_folder()
        self._damaged.clear()
        problems: list[str] = []
        for _, path in reversed(self._files()):
            try:
                data = load(path)
            except (CheckpointError, OSError) as error:
                self._damaged.add(path)
                problems.append(str(error))
                continue
            if problems:
                warnings.warn(f"stepped over damaged checkpoints: {'; '.join(problems)}", stacklevel=5)
            return path, data
        if problems:
            raise CheckpointError(
                f"every checkpoint in {self.root} is damaged, move them away to start again: {'; '.join(problems)}"
            )
        return None, None

    def _files(self) -> list[tuple[int, Path]]:
        """Steps and files, oldest first."""
        matches = ((_STEP_NAME.fullmatch(path.name), path) for path in self.root.iterdir())
        return sorted((int(match[1]), path) for match, path in matches if match)

    def _own_folder(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock = _lock_folder(self.root.resolve() / _LOCK_NAME)
        except OSError as error:
            raise CheckpointError(f"cannot use {self.root}: {error}") from error


def _require_fit(data: Any, current: Mapping[str, Any], path: Path) -> None:
    """Raise one error with everything that keeps the model in `data` from fitting the current one."""
    saved, model = data.get("model") if isinstance(data, Mapping) else None, current["model"]
    if not isinstance(saved, Mapping):
        raise CheckpointError(f"{path} is not the checkpoint of a training state: it has no entry 'model'")
    shapes = {
        name: (tuple(getattr(saved[name], "shape", ())), tuple(getattr(model[name], "shape", ())))
        for name in sorted(saved.keys() & model.keys())
    }
    problems = {
        "missing": sorted(model.keys() - saved.keys()),
        "unexpected": sorted(saved.keys() - model.keys()),
        "of another shape": [
            f"{name} {there} instead of {here}" for name, (there, here) in shapes.items() if there != here
        ],
    }
    lines = [f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names]
    if lines:
        raise CheckpointError("\n  ".join([f"{path} is of another architecture, nothing was changed", *lines]))


def _verify(file: IO[bytes], path: Path) -> None:
    """Check the checksum of every entry, and that nothing in the file asks for code."""
    try:
        with zipfile.ZipFile(file) as archive:
            # Torch reads nothing of an entry that is marked as a folder, and the tensor holds whatever was in memory.
            folders = [entry.filename for entry in archive.infolist() if entry.external_attr & 16]
            bad = folders[0] if folders else archive.testzip()
    except Exception as error:  # Damaged headers make zipfile raise almost anything.
        raise CheckpointError(f"{path} is damaged: {type(error).__name__} {error}") from error
    if bad is not None:
        raise CheckpointError(f"{path} is damaged: wrong checksum or header in the entry {bad}")
    file.seek(0)
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception as error:
        raise CheckpointError(f"{path} is not a file that torch.save wrote: {error}") from error
    if unsafe:
        raise CheckpointError(f"{path} would need code to be read, which is refused: {', '.join(sorted(unsafe))}")


@contextmanager
def _temporary_beside(path: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """Open a new file beside `path`, locked so that nobody takes it for a stray, and gone at the end."""
    while True:
        # Torch names the entries after the part before the dot, so the bytes do not depend on the random part.
        temporary = path.with_name(f"checkpoint.{secrets.token_hex(8)}-unfinished")
        try:
            with temporary.open("xb") as file:
                # Between open and lock, another process may have swept the file away: then try another one.
                if _try_lock(file) and os.fstat(file.fileno()).st_nlink:
                    yield temporary, file
                    return
        finally:
            temporary.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove the temporary files whose writers are dead: those that nobody has locked."""
    if sys.platform == "win32":
        return
    for stray in folder.glob("checkpoint.*-unfinished"):
        with suppress(OSError), stray.open("rb+") as file:
            if _try_lock(file):
                stray.unlink()


def _sync_folder(folder: Path) -> None:
    """Force a rename in `folder` to the disk."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free_space(folder: Path) -> str:
    with suppress(OSError):
        return f" ({shutil.disk_usage(folder).free:,} bytes are free)"
    return ""


def _try_lock(file: IO[bytes]) -> bool:
    """Lock an open file without waiting. The kernel unlocks it when the process ends, even by a kill."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _FolderLock:
    """A locked file, shared by everything in this process that uses the same folder.

    A process id alone would not do: after a kill it may belong to another process, and in a container the new run
    often has the same one. The file names the process only for people.
    """

    def __init__(self, path: Path) -> None:
        self.file = path.open("a+b", buffering=0)
        weakref.finalize(self, self.file.close)
        if not _try_lock(self.file):
            self.file.seek(0)
            owner = self.file.read().decode(errors="replace").strip() or "unknown"
            raise CheckpointError(f"another run uses {path.parent} ({owner}): stop it, or choose another folder")
        self.file.truncate(0)
        self.file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def holds(self, path: Path) -> bool:
        """Whether the locked file is still the one at `path`: someone may have removed the folder and made it anew."""
        return path.exists() and os.path.samestat(os.fstat(self.file.fileno()), path.stat())


_LOCKS: weakref.WeakValueDictionary[Path, _FolderLock] = weakref.WeakValueDictionary()


def _lock_folder(path: Path) -> _FolderLock:
    lock = _LOCKS.get(path)
    if lock is None or not lock.holds(path):
        lock = _LOCKS[path] = _FolderLock(path)
    return lock


def _forget_locks() -> None:
    """In a forked child: a data worker that outlives its killed run must not keep the folder locked."""
    for lock in list(_LOCKS.values()):
        lock.file.close()
    _LOCKS.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_locks)


def _on_rank_zero(action: Callable[[], _T]) -> _T:
    """Run `action` on rank 0 only. Every rank returns its result, or raises if it failed."""
    if not _distributed():
        return action()
    box: list[Any] = [None, None]
    failure = None
    if dist.get_rank() == 0:
        try:
            box[0] = action()
        except Exception as error:
            failure, box[1] = error, f"{type(error).__name__}: {error}"
    dist.broadcast_object_list(box, src=0)
    if failure is not None:
        raise failure
    if box[1] is not None:
        raise CheckpointError(f"rank 0 failed with {box[1]}")
    result: _T = box[0]
    return result


def _on_every_rank(action: Callable[[], _T]) -> _T:
    """Run `action` on every rank. If it fails on one, all of them raise."""
    if not _distributed():
        return action()
    result, failure = None, None
    try:
        result = action()
    except Exception as error:
        failure = error
    texts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(texts, None if failure is None else f"{type(failure).__name__}: {failure}")
    if failure is not None:
        raise failure
    for rank, text in enumerate(texts):
        if text is not None:
            raise CheckpointError(f"rank {rank} failed with {text}")
    return result  # type: ignore[return-value]


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
