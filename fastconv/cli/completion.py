"""Print what a shell needs to complete commands, options and their values: eval "$(fastconv completion bash)"

The line belongs into ~/.bashrc or ~/.zshrc, or, as `fastconv completion fish | source`, into config.fish. Needs
argcomplete: pip install "fastconv[completion]".
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["NAME", "add_arguments", "complete", "models", "offer", "run"]

NAME = "completion"
SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, metavar="{" + ",".join(SHELLS) + "}", help="which shell")


def run(args: argparse.Namespace) -> int:
    print(_argcomplete().shellcode(["fastconv"], shell=args.shell))
    return 0


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell that asks, and end the process."""
    _argcomplete().autocomplete(parser)


def offer(action: argparse.Action, words: Callable[[], Iterable[str]], *, files: bool = False) -> None:
    """Have the shell complete an argument with these words, and with files and folders where it may be one; what
    stands before a comma stays."""

    def completions(prefix: str = "", **_: Any) -> list[str]:
        before = prefix[: prefix.rfind(",") + 1]
        found = [before + word for word in words()]
        return [*found, *_argcomplete().completers.FilesCompleter()(prefix)] if files else found

    action.completer = completions  # type: ignore[attr-defined]


def models() -> list[str]:
    """The nets of fastconv.models."""
    from fastconv.models import MODELS

    return list(MODELS)


def _argcomplete() -> Any:
    try:
        import argcomplete
    except ImportError as error:
        raise ImportError('completion needs argcomplete: pip install "fastconv[completion]"') from error
    return argcomplete
