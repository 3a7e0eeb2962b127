"""Files, opened safely and written whole.

`replace_whole` is how everything here is written: the bytes go to a temporary file in the target's own folder, reach
the disk, and take the target's name in one step. Whoever reads the target, at whatever moment, finds the old file or
the new one, whole, however many processes and threads write it and wherever one of them is killed.

A temporary file is called NAME.HOST.PROCESS.RANDOM.tmp, belongs to one save alone, and is locked (flock) while that
save lives. A save that was killed leaves its own behind; the next save of the same target on the same host removes it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from fastconv.errors import FormatError

__all__ = ["open_regular", "replace_text", "replace_whole"]

MOST_OF_HOST = 64  # bytes of a host's name
PROCESS_DIGITS = 10
OPEN = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # a pipe that was put in a file's place does not block

Pathlike = str | os.PathLike[str]


def open_regular(path: Pathlike, *, follow_links: bool = True) -> io.BufferedReader:
    """The file opened for reading.

    Raises FormatError for folders, pipes and devices, which could block for ever, and for a symbolic link where
    `follow_links` is False; OSError.
    """
    path = Path(path)
    _need_regular(path, path.stat() if follow_links else path.lstat())
    descriptor = os.open(path, os.O_RDONLY | OPEN | (0 if follow_links else os.O_NOFOLLOW))
    try:
        _need_regular(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")  # which closes it, also where an interrupt comes before it has returned


def _need_regular(path: Path, found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise FormatError(f"{path}: is a symbolic link, which is not followed here")
    if not stat.S_ISREG(found.st_mode):
        raise FormatError(f"{path}: is not a regular file")


def replace_text(path: Pathlike, text: str, *, follow_links: bool = True) -> None:
    """Write a text file (UTF-8); see `replace_whole`."""
    data = text.encode()
    replace_whole(path, lambda file: file.write(data), follow_links=follow_links)


def replace_whole(path: Pathlike, fill: Callable[[IO[bytes]], Any], *, follow_links: bool = True) -> None:
    """Have `fill` write a file's bytes; whoever reads `path` finds the old file or the new one, whole.

    A file that is replaced keeps its mode, and its owner where the system allows; a new one has the mode that the umask
    leaves. Behind a symbolic link the file that it leads to is written and the link stays; where `follow_links` is
    False a link is refused. Raises OSError that names `path`, for a folder, pipe or device too, and whatever `fill`
    raises; the old file then stays and no temporary is left.
    """
    target = Path(path)
    try:
        if follow_links:
            target = Path(os.path.realpath(target))
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _replace(folder, target.name, fill)
        finally:
            os.close(folder)
    except OSError as error:
        raise _naming(path, error) from error


def _naming(path: Pathlike, error: OSError) -> OSError:
    """The error of a save, with the name that the caller gave."""
    if error.errno is None:
        return OSError(f"{os.fspath(path)}: {error}")
    return OSError(error.errno, error.strerror or os.strerror(error.errno), os.fspath(path))


def _replace(folder: int, name: str, fill: Callable[[IO[bytes]], Any]) -> None:
    """`replace_whole` in an open folder, where no link is followed."""
    before = _present(folder, name)
    prefix = _prefix(folder, name)
    _remove_leftovers(folder, prefix)
    descriptor, temporary = _create(folder, prefix, 0o666 if before is None else 0o600)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:  # an interrupt may come before it has a name
            fill(file)
            file.flush()
            if before is not None:
                _take_after(descriptor, before)
            os.fsync(descriptor)
            os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)  # still locked: nobody takes it away
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
    finally:
        os.close(descriptor)
    with contextlib.suppress(OSError):  # not every file system can
        os.fsync(folder)


def _present(folder: int, name: str) -> os.stat_result | None:
    """The file that is to be replaced, if there is one; OSError for what is no regular file."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder, not a file to be replaced")
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, "is a symbolic link, which is not followed here")
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "is not a regular file")
    return found


def _take_after(descriptor: int, before: os.stat_result) -> None:
    """Give a file another's owner and mode. Where the group cannot be kept it may not do more than everybody may."""
    mode = stat.S_IMODE(before.st_mode)
    own = os.fstat(descriptor)
    if (own.st_uid, own.st_gid) != (before.st_uid, before.st_gid):
        with contextlib.suppress(OSError):
            os.fchown(descriptor, -1, before.st_gid)
        with contextlib.suppress(OSError):
            os.fchown(descriptor, before.st_uid, -1)
        own = os.fstat(descriptor)
        if own.st_gid != before.st_gid:
            mode &= ~0o070 | (mode & 0o007) << 3
    os.fchmod(descriptor, mode)


# --- temporaries -----------------------------------------------------------------------------------------------------


def _prefix(folder: int, name: str) -> str:
    """What the names of a target's temporaries begin with on this host."""
    host = re.sub(r"[^A-Za-z0-9-]", "-", os.uname().nodename)[:MOST_OF_HOST] or "localhost"
    try:
        most = os.fpathconf(folder, "PC_NAME_MAX")
    except OSError:
        most = 255
    room = most - len(f".{host}.{'9' * PROCESS_DIGITS}.{'f' * 8}.tmp")
    encoded = os.fsencode(name)
    if len(encoded) > room:  # what fits of it, and a digest of the whole
        digest = hashlib.blake2b(encoded, digest_size=8).hexdigest()
        name = f"{encoded[: room - len(digest) - 1].decode(errors='ignore')}~{digest}"
    return f"{name}.{host}."


def _create(folder: int, prefix: str, mode: int) -> tuple[int, str]:
    """A new temporary file, open and locked, and its name."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        temporary = f"{prefix}{os.getpid()}.{os.urandom(4).hex()}.tmp"
        try:
            descriptor = os.open(temporary, flags, mode, dir_fd=folder)
        except FileExistsError:
            continue
        if _lock(descriptor) is False or not os.fstat(descriptor).st_nlink:
            os.close(descriptor)  # another save took it for a dead one's before it was locked
            continue
        return descriptor, temporary


def _lock(descriptor: int) -> bool | None:
    """Whether the lock of an open file could be had; None where the file system has no locks."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove_leftovers(folder: int, prefix: str) -> None:
    """Remove the temporaries of saves of the same target that were killed on this host.

    A lock tells for certain whether its owner lives, whatever namespace its process number is from; only where the file
    system has no locks the number counts.
    """
    for name, process in _temporaries(folder, prefix):
        with contextlib.suppress(OSError):
            descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | OPEN, dir_fd=folder)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    continue
                locked = _lock(descriptor)
                if locked or (locked is None and not _is_alive(process)):
                    os.unlink(name, dir_fd=folder)
            finally:
                os.close(descriptor)


def _temporaries(folder: int, prefix: str) -> Iterator[tuple[str, int]]:
    """The names in the folder that are a temporary's, with the process."""
    pattern = re.compile(re.escape(prefix) + rf"([0-9]{{1,{PROCESS_DIGITS}}})\.[0-9a-f]{{8}}\.tmp")
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if found := pattern.fullmatch(name):
                yield name, int(found[1])


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True
