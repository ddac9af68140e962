"""The command `towline`: one module a command group, what is drawn apart from what it shows.

Modules here import what is heavy inside the command that needs it: `towline version` answers at once.
"""
