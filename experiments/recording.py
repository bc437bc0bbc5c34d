"""The recording of the demo: what `lunar demo` prints, line by line, as an SVG of the terminal that moves.

    python experiments/recording.py docs/demo.svg

The command runs in a process of its own and in a temporary folder; what it writes to standard output is drawn as it
came, with rich's own export, and replayed at the pace of a reader. Nothing is typed in, and nothing left out but the
minute of waiting and the fonts that it would fetch from the web. Whoever asks for less motion, or prints it, sees all
at once.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

COMMAND = ("lunar", "demo")
COLUMNS = 100
FIRST, EACH = 1.0, 0.15
"""Seconds until the output begins, and from line to line."""
MOTION = """
    @keyframes appear { from { visibility: hidden } to { visibility: visible } }
    @media screen and (prefers-reduced-motion: no-preference) { text[style] { animation: appear 1ms both } }
"""


def printed() -> str:
    """What the demo prints to a terminal of `COLUMNS` columns, with its escape sequences."""
    environment = os.environ | {"COLUMNS": str(COLUMNS), "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", *COMMAND], cwd=folder, env=environment, stdout=subprocess.PIPE, check=True
        )
    return done.stdout.decode("utf-8")


def drawn(output: str) -> str:
    """An SVG of the command and its output; `output` may hold escape sequences of colour and style."""
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True, highlight=False)
    console.print(Text("$ " + " ".join(COMMAND)))
    console.print(Text.from_ansi(output))
    svg = console.export_svg(title=" ".join(COMMAND))
    svg = re.sub(r"@font-face\s*\{.*?\}\s*", "", svg, flags=re.DOTALL)
    return _moving(svg)


def _moving(svg: str) -> str:
    """The same picture with its lines appearing one after another, from the second line of the terminal on."""

    def delayed(text: re.Match[str]) -> str:
        line = int(text["line"])
        return f'{text[0]} style="animation-delay:{FIRST + EACH * line:.2f}s"' if line else text[0]

    svg = re.sub(r'<text [^>]*clip-path="url\(#[\w-]*-line-(?P<line>\d+)\)"', delayed, svg)
    return svg.replace("</style>", MOTION + "    </style>", 1)


def main(arguments: Sequence[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("output", type=Path)
    path: Path = parser.parse_args(arguments).output
    path.write_text(drawn(printed()), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
