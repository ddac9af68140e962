"""The version of towline itself, which `User-Agent`, `/towline/info` and `towline version` tell."""

__version__ = "0.1.0"
