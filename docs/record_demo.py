"""Draws `docs/demo.svg`: what `towline demo` leaves on a terminal. Needs tmux.

.venv/bin/python docs/record_demo.py [--generated]
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
COLUMNS, ROWS = 100, 40


def main() -> None:
    """Runs the demonstration in a terminal of its own and draws its last screen."""
    command = (
        f"{Path(sys.prefix) / 'bin' / 'towline'} demo {' '.join(sys.argv[1:])}; tmux wait-for -S towline-demo; sleep 9"
    )
    tmux = ["tmux", "-L", "towline-demo"]
    size = ["-x", str(COLUMNS), "-y", str(ROWS)]
    subprocess.run([*tmux, "new-session", "-d", *size, command.replace("tmux ", " ".join(tmux) + " ")], check=True)
    subprocess.run([*tmux, "wait-for", "towline-demo"], check=True)
    time.sleep(0.5)
    screen = subprocess.run([*tmux, "capture-pane", "-e", "-p"], check=True, capture_output=True, text=True).stdout
    subprocess.run([*tmux, "kill-server"], check=True)
    draw(screen.rstrip())


def draw(screen: str) -> None:
    """Writes the picture of a screen with its colours."""
    console = Console(record=True, width=COLUMNS, file=open("/dev/null", "w"))  # noqa: SIM115 - lives as long as this
    console.print(Text.from_ansi("\x1b[1m$ \x1b[0mmake demo\n" + screen))
    console.save_svg(str(HERE / "demo.svg"), title="towline")


if __name__ == "__main__":
    main()
