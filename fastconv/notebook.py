"""What shows in a notebook: tables and pictures as HTML, and a display that is drawn anew."""

from __future__ import annotations

import base64
import html
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["Display", "image", "is_running", "table"]


def is_running() -> bool:
    """Whether this is a notebook's kernel; IPython is asked where something else has imported it, never imported."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return hasattr(get_shell(), "kernel") if get_shell is not None else False


def table(rows: Sequence[Sequence[str]], left: int = 1, *, above: str = "", below: str = "") -> str:
    """Rows, a heading first, as an HTML table: the first `left` columns to the left, others to the right."""

    def line(cells: Sequence[str], tag: str) -> str:
        sides = ("left" if column < left else "right" for column in range(len(cells)))
        made = (
            f'<{tag} style="text-align: {side}; white-space: pre">{html.escape(cell)}</{tag}>'
            for side, cell in zip(sides, cells, strict=True)
        )
        return f"<tr>{''.join(made)}</tr>"

    heading, *body = rows
    texts = [f"<p>{html.escape(text)}</p>" if text else "" for text in (above, below)]
    lines = "".join(line(cells, "td") for cells in body)
    return f"{texts[0]}<table><thead>{line(heading, 'th')}</thead><tbody>{lines}</tbody></table>{texts[1]}"


def image(png: bytes, alt: str) -> str:
    """A picture as a part of an HTML page."""
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


class Display:
    """A place below the cell that shows the latest HTML it was given."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        from IPython.display import HTML, display

        if self._handle is None:
            self._handle = display(HTML(text), display_id=True)
        else:
            self._handle.update(HTML(text))
