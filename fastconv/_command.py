"""The command line before its first line runs.

`python -m fastconv` and the script `fastconv` import this package before any code of theirs could catch what goes wrong
in an import. `begin`, the package's first statement, sees to it in a process that is the command line and leaves others
alone: Ctrl-C, and a setting in the environment that cannot be, are one line and an exit status. `end` is called when
`cli.main` looks after itself.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # typing's own would have to be imported first
if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import NoReturn

__all__ = ["begin", "end"]

SCRIPTS = ("fastconv", "fastconv.exe", "fastconv-script.py")


def begin() -> None:
    """Have what interrupts or stops the imports be one line, where this process is the command line."""
    if _is_command():
        sys.excepthook = _refuse
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _interrupted)


def end() -> None:
    """Undo `begin`."""
    if sys.excepthook is _refuse:
        sys.excepthook = sys.__excepthook__
    if signal.getsignal(signal.SIGINT) is _interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_command() -> bool:
    name = sys.argv[0] if sys.argv else ""
    if name == "-m":  # Python looks for the module still: it is the argument before the program's own
        module = sys.orig_argv[-len(sys.argv)]
        return module == "fastconv" or (module.startswith("-") and module.endswith("mfastconv"))
    return name.rpartition(os.sep)[2] in SCRIPTS


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:
    """At once: an import that catches KeyboardInterrupt, or makes something else of it, is not asked."""
    os.write(2, b"fastconv: interrupted\n")
    os._exit(130)


def _refuse(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if kind is not ValueError:
        sys.__excepthook__(kind, error, trace)
        return
    print(f"fastconv: {' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(2)
