"""Print what a shell needs to complete commands, options and their values: eval "$(fastconv completion bash)"

The line belongs into ~/.bashrc or ~/.zshrc, or, as `fastconv completion fish | source`, into config.fish. Needs
argcomplete: pip install "fastconv[completion]".
"""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["NAME", "add_arguments", "complete", "run"]

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


def _argcomplete() -> Any:
    try:
        import argcomplete
    except ImportError as error:
        raise ImportError('completion needs argcomplete: pip install "fastconv[completion]"') from error
    return argcomplete
