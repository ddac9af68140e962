"""Gets models onto machines: pulls them from a registry into Ollama's own store, and tells where they lie.

    >>> import towline
    >>> model = towline.pull("llama3.2")              # doctest: +SKIP
    >>> model.path                                    # doctest: +SKIP
    PosixPath('/home/me/.ollama/models/blobs/sha256-dde5aa3fc5ff…')

    >>> for event in towline.stream("llama3.2"):      # doctest: +SKIP
    ...     print(event.status)

    >>> async for event in towline.astream("llama3.2"):   # doctest: +SKIP
    ...     print(event.status)

Everything is loaded when it is first used: `import towline` alone costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # type checkers take it for True; importing `typing` takes longer than all else here

if TYPE_CHECKING:
    from towline._version import __version__
    from towline.api import Model, astream, pull, stream
    from towline.errors import (
        Cancelled,
        DigestMismatch,
        InvalidManifest,
        InvalidName,
        InvalidRequest,
        NoSpace,
        NotFound,
        RegistryError,
        Starved,
        StoreError,
        TowlineError,
        TransferError,
    )
    from towline.model.events import Event, Progress, Status

__all__ = [
    "Cancelled",
    "DigestMismatch",
    "Event",
    "InvalidManifest",
    "InvalidName",
    "InvalidRequest",
    "Model",
    "NoSpace",
    "NotFound",
    "Progress",
    "RegistryError",
    "Starved",
    "Status",
    "StoreError",
    "TowlineError",
    "TransferError",
    "__version__",
    "astream",
    "pull",
    "stream",
]

_HOMES = {
    "__version__": "towline._version",
    **dict.fromkeys(("Model", "astream", "pull", "stream"), "towline.api"),
    **dict.fromkeys(("Event", "Progress", "Status"), "towline.model.events"),
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'towline' has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "towline.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
