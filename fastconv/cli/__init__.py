# PYTHON_ARGCOMPLETE_OK
"""The command line: `fastconv COMMAND …`, each command a module with NAME, `add_arguments(parser)` and `run(args)`.

    train     train a net on a data set, into a run folder        compare   naive loops, plain NumPy and fastconv, timed
    predict   read image files with a trained net                 bench     the benchmark suite as a table and a picture
    info      what the kernels run on                         summary   a net's layers: shapes, FLOPs, receptive fields
    export    write a run's weights for other programs          onnx      nets to and from ONNX files
    completion  what a shell needs to complete commands and options
    evaluate  what a net gets right, class by class

Exit status: 0; 1 where the work failed; 2 where the call is wrong; 130 after Ctrl-C. Errors are one line on standard
error.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from fastconv import _command, distributed
from fastconv.cli import bench, compare, completion, evaluate, export, info, onnx, predict, summary, train
from fastconv.cli.common import Failure, UsageError, one_line
from fastconv.errors import nearest
from fastconv.version import __version__

__all__ = ["main"]

COMMANDS = (train, evaluate, predict, export, onnx, compare, bench, summary, info, completion)


class _Parser(argparse.ArgumentParser):
    """Errors in one line that names the nearest of what is known; no abbreviated options, which would change their
    meaning when another is added; what is no option may stand between options."""

    def __init__(self, **options: object) -> None:
        super().__init__(allow_abbrev=False, **options)  # type: ignore[arg-type]
        self._given: list[str] = []
        self._inside = False

    def error(self, message: str) -> NoReturn:
        if message.startswith("the following arguments are required") and (unknown := self._unknown_option()):
            message = self._unrecognized([unknown])
        text = f"{self.prog}: {' '.join(message.split())} (see {self.prog} --help)\n"
        self.exit(2, text if distributed.speaks() else None)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """What is left over is an error of the command that left it, not of the whole program."""
        if self._inside:  # up to Python 3.11 the method below calls this one
            return super().parse_known_args(args, namespace)
        self._given = sys.argv[1:] if args is None else list(args)
        self._inside = True
        try:
            commands = self._subparsers is not None
            parse = super().parse_known_args if commands else self.parse_known_intermixed_args
            found, rest = parse(self._given, namespace)
        finally:
            self._inside = False
        if rest:
            self.error(self._unrecognized(rest))
        return found, rest

    def _unrecognized(self, rest: Sequence[str]) -> str:
        option = next((text.partition("=")[0] for text in rest if text.startswith("--")), "")
        there = list(self._option_string_actions)
        begins = [each for each in there if option and each.startswith(option)]  # no abbreviations, but they are meant
        meant = f"; did you mean {begins[0]!r}?" if begins else nearest(option, there) if option else ""
        return f"unrecognized arguments: {' '.join(rest)}{meant}"

    def _unknown_option(self) -> str | None:
        """The first long option that there is not."""
        if self._subparsers is not None:
            return None
        for text in itertools.takewhile(lambda text: text != "--", self._given):
            if text.startswith("--") and text.partition("=")[0] not in self._option_string_actions:
                return text
        return None

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = list(map(str, action.choices))
            meant = nearest(value, choices)
            raise argparse.ArgumentError(action, f"invalid choice: {value!r} (choose from {', '.join(choices)}){meant}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fastconv", description="Train convolutional networks on the CPU.")
    parser.add_argument("-V", "--version", action="version", version=f"fastconv {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        summary = (command.__doc__ or "").strip().partition("\n")[0]  # `python -OO` has no docstrings
        own = commands.add_parser(command.NAME, help=summary.rstrip("."), description=summary)
        command.add_arguments(own)
        own.set_defaults(run=command.run, prog=own.prog)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. `argv`: the arguments, default the process's."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        status = _run(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:  # nobody reads standard output any more, or it cannot be written
        _drop_output()
        if not isinstance(error, BrokenPipeError):
            _complain("fastconv", error)
        return 1
    return status


def _run(argv: Sequence[str] | None) -> int:
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:
        with contextlib.suppress(ImportError):
            completion.complete(parser)
    given = sys.argv[1:] if argv is None else list(argv)
    if not given:
        parser.print_help()
        return 0
    try:
        args = parser.parse_args(given)
    except SystemExit as end:  # argparse: help, version, or an error that was told
        return end.code if isinstance(end.code, int) else 2
    try:
        _command.end()
        return int(args.run(args))
    except UsageError as error:
        _complain(args.prog, error, 2)
        return 2
    except BrokenPipeError:
        raise
    except (Failure, OSError, ValueError, ArithmeticError, MemoryError, ImportError) as error:
        _complain(args.prog, error)
        return 1
    except KeyboardInterrupt as stop:
        _complain(args.prog, stop, 130, f"interrupted{stop}")
        return 130


def _complain(prog: str, error: BaseException, status: int = 1, text: str | None = None) -> None:
    """An error in one line; of several ranks once, and those that go on end."""
    line = f"{prog}: {one_line(error if text is None else text)}"
    with contextlib.suppress(OSError, AttributeError):
        if not distributed.fail(error, line, status):
            print(line, file=sys.stderr, flush=True)


def _drop_output() -> None:
    """Have the interpreter's last flush of standard output go nowhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
