"""Data files read with a bound: no byte is allocated because a header claims it.

`Source` opens one regular file, decompresses it on the fly and turns whatever is wrong with it into one `FormatError`
that begins with the file's path.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any, NamedTuple

from fastconv.errors import FormatError
from fastconv.files import open_regular

__all__ = ["Source", "find", "need_folder", "read_tar"]

CHUNK = 1 << 20  # bytes per read
XZ_MEMORY = 256 << 20  # for the decoder's dictionary, whose size the file chooses; `xz -9` needs 65 MiB
TAR_MEMBERS = 1000

Errors = tuple[type[Exception], ...]


def need_folder(folder: str | os.PathLike[str]) -> Path:
    """`folder` as a Path; an OSError unless it is a folder."""
    path = Path(folder)
    if path.is_dir():
        return path
    if path.exists():
        raise NotADirectoryError(f"{path}: is not a folder; give the folder that holds the files")
    raise FileNotFoundError(f"{path}: no such folder")


def find(folder: Path, *names: str) -> Path | None:
    """The first of `names` that `folder` has, each plain, .gz or .xz; what is no regular file comes last."""
    candidates = (folder / (name + suffix) for name in names for suffix in ("", *_CODECS))
    there = [path for path in candidates if path.exists()]
    return next((path for path in there if path.is_file()), there[0] if there else None)


class Source:
    """The bytes of one file, decompressed by its suffix (.gz, .xz); used in a `with` statement.

    `wanted` says in messages what the file should be; `most` is the number of bytes that it can hold at most.
    """

    def __init__(self, path: Path, wanted: str) -> None:
        self.path = path
        self.wanted = wanted
        self._codec = _CODECS.get(path.suffix, _PLAIN)
        self._errors: Errors = ()
        self._file = self._stream = open_regular(path)
        self.most = os.fstat(self._file.fileno()).st_size * self._codec.expansion

    def __enter__(self) -> Source:
        try:
            self._expect(self._codec.content)
            if self._codec is not _PLAIN:
                self._stream, self._errors = self._codec.open(self._file)
                self._expect(None)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def error(self, text: str) -> FormatError:
        """A FormatError, for the caller to raise, that begins with this file's path."""
        return FormatError(f"{self.path}: {text}")

    def check(self, count: int, what: str) -> None:
        """A file of this size must be able to hold `count` bytes."""
        if count > self.most:
            raise self.error(f"{what} must have {count:,} bytes, a file of this size holds {self.most:,} at most")

    def take(self, count: int, what: str) -> bytearray:
        """The next `count` bytes."""
        self.check(count, what)
        data = self._gather(count)
        if len(data) < count:
            raise self.error(f"{what} must have {count:,} bytes, the file ends after {len(data):,} of them")
        return data

    def take_rest(self, limit: int, what: str) -> bytearray:
        """All remaining bytes, `limit` at most."""
        data = self._gather(limit + 1)
        if len(data) > limit:
            raise self.error(f"{what} may have {limit:,} bytes at most, the file holds more")
        return data

    def skip(self, count: int, what: str) -> None:
        """Leave out the next `count` bytes."""
        left = count
        while left:
            left -= len(self.take(min(left, CHUNK), what))

    def end(self, what: str) -> None:
        """Nothing may follow."""
        if self._guard(self._stream.read, 1):
            raise self.error(f"more data follows {what}")

    def _gather(self, count: int) -> bytearray:
        """Up to `count` bytes; memory grows with what was really read."""
        data = bytearray()
        while chunk := self._guard(self._stream.read, min(count - len(data), CHUNK)):
            data += chunk
        return data

    def _expect(self, content: str | None) -> None:
        """The bytes that follow must begin as `content` does, which is None for the data itself."""
        found = _recognise(self._guard(self._stream.peek, 16))
        if found != content:
            raise self.error(f"holds {found or 'something else'}, expected {content or self.wanted}")

    def _guard(self, read: Callable[[int], bytes], count: int) -> bytes:
        try:
            return read(count)
        except self._errors as error:
            raise self.error(f"damaged {self._codec.content}: {error}") from error


def read_tar(source: Source, names: Container[str], limit: int) -> dict[str, bytearray]:
    """The contents of the regular files called `names`, in whichever folder of the archive.

    `limit` is the number of bytes that all of the archive's files may have. tarfile itself would read extended headers
    of any size into memory; here only the 512-byte headers are parsed, and every other payload is skipped.
    """
    import tarfile

    contents: dict[str, bytearray] = {}
    room = limit
    for _ in range(TAR_MEMBERS):
        header = source.take(tarfile.BLOCKSIZE, "a tar header")
        if not any(header):
            if any(source.take_rest(CHUNK, "the padding of an archive")):
                raise source.error("more data follows the end of the archive")
            return contents
        try:
            member = tarfile.TarInfo.frombuf(header, "utf-8", "replace")
        except tarfile.TarError as error:
            raise source.error(f"damaged tar archive: {error}") from error

        name = member.name.rpartition("/")[2]
        size = 0 if member.type in b"123456" else member.size  # links, devices and folders have no payload
        if not 0 <= size <= room:
            raise source.error(f"an archive's files may have {limit:,} bytes, its {name!r} declares {size:,}")
        room -= size
        padding = -size % tarfile.BLOCKSIZE
        if name not in names or member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            source.skip(size + padding, name)
        elif name in contents:
            raise source.error(f"holds {name} twice")
        else:
            contents[name] = source.take(size, name)
            source.skip(padding, name)
    raise source.error(f"an archive may have {TAR_MEMBERS:,} members, this one has more")


class _Codec(NamedTuple):
    """A way to store bytes: what it is called, how far it can expand, and how it opens with the errors it raises."""

    content: str | None
    expansion: int
    open: Callable[[io.BufferedReader], tuple[io.BufferedReader, Errors]]


def _open_gzip(file: io.BufferedReader) -> tuple[io.BufferedReader, Errors]:
    import gzip
    import zlib

    stream: Any = gzip.GzipFile(fileobj=file, mode="rb")
    return io.BufferedReader(stream), (gzip.BadGzipFile, zlib.error, EOFError)


def _open_xz(file: io.BufferedReader) -> tuple[io.BufferedReader, Errors]:
    import lzma

    return io.BufferedReader(_XZ(file)), (lzma.LZMAError, EOFError)


class _XZ(io.RawIOBase):
    """lzma.LZMAFile for reading, with the limit on the decoder's memory that LZMAFile lacks."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._start()

    def _start(self) -> None:
        import lzma

        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data:
            if self._decoder.eof:  # another stream may follow
                packed = self._decoder.unused_data.lstrip(b"\0") or self._file.read(CHUNK).lstrip(b"\0")
                if not packed:
                    break
                self._start()
            else:
                packed = self._file.read(CHUNK) if self._decoder.needs_input else b""
                if self._decoder.needs_input and not packed:
                    raise EOFError("the file ends before its end-of-stream marker")
            data = self._decoder.decompress(packed, len(buffer))
        buffer[: len(data)] = data
        return len(data)


_PLAIN = _Codec(None, 1, lambda file: (file, ()))
_CODECS = {
    ".gz": _Codec("gzip data", 1032, _open_gzip),  # what deflate can reach
    ".xz": _Codec("xz data", 8192, _open_xz),  # LZMA stays below 7,100
}

_SIGNATURES = {
    b"\x1f\x8b": "gzip data",
    b"\xfd7zXZ\0": "xz data",
    b"BZh": "bzip2 data",
    b"PK\3\4": "a zip archive",
    b"\x89PNG": "a PNG image",
    b"<": "a web page",
    **{bytes([0x80, protocol]): "a Python pickle, which is never read (it can run code)" for protocol in range(2, 6)},
}


def _recognise(head: bytes) -> str | None:
    """What bytes that begin with `head` are, when that is nothing a data file of ours begins with."""
    if not head:
        return "nothing"
    return next((content for signature, content in _SIGNATURES.items() if head.startswith(signature)), None)
