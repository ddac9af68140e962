"""The command `towline`: one module a command group, what is drawn apart from what it shows.

Modules here import what is heavy inside the command that needs it: `towline version` answers at once.
"""

from __future__ import annotations


def run() -> int:
    """The command's entry. Returns the exit code, also where Ctrl-C comes while modules are still loaded."""
    try:
        from towline.cli.main import main

        return main()
    except KeyboardInterrupt:
        return 130
