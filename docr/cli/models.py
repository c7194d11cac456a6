"""`docr models`: which checkpoints there are, which are here, and getting them."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from docr.cli.messages import count, emit, say
from docr.errors import ModelError
from docr.models.catalogue import CATALOGUE, FULL_MODEL, BundledModel, CatalogueEntry, HubModel
from docr.models.choice import choose, chosen_model

models_app = typer.Typer(help="List, fetch and check models.", no_args_is_help=True)


def _complete_name(incomplete: str) -> list[str]:
    return [name for name in CATALOGUE if name.startswith(incomplete)]


Name = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME]",
        show_default=False,
        autocompletion=_complete_name,
        help="A model of `docr models list`; the chosen one if left out.",
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(
        metavar="REV", show_default=False, help="Commit, branch or tag instead of the pinned one."
    ),
]


@models_app.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """List the models: where they come from, and whether they are here."""
    chosen = chosen_model()
    models = [_listed(entry, chosen) for entry in CATALOGUE.values()]
    if as_json:
        emit(json.dumps([asdict(model) for model in models], indent=2) + "\n")
        return
    for model in models:
        if model.repo is None:
            origin, absent = "comes with docr", "not here; install docr anew"
        else:
            origin = f"{model.repo}@{str(model.revision)[:12]}"
            absent = f"not here; docr models pull {model.name}"
        emit(
            f"{'*' if model.chosen else ' '} {model.name}  {model.summary}\n"
            f"    {origin}, {model.licence}, {_size(model.size_bytes)}\n"
            f"    {model.path or absent}\n"
        )
    if chosen not in CATALOGUE:
        emit(f"* {chosen}\n")


@dataclass(frozen=True, slots=True)
class _Listed:
    """A model of the list.

    `repo` is null for one that comes with docr; `path` where it is not here.
    """

    name: str
    chosen: bool
    repo: str | None
    revision: str | None
    licence: str
    size_bytes: int
    summary: str
    path: str | None


def _listed(entry: CatalogueEntry, chosen: str) -> _Listed:
    from docr.models.files import resolve

    try:
        files = resolve(entry.name)
    except ModelError:
        files = None
    repo: str | None = None
    revision = None if files is None else files.revision
    if isinstance(entry, HubModel):
        repo, revision = entry.repo, entry.revision
    return _Listed(
        name=entry.name,
        chosen=entry.name == chosen,
        repo=repo,
        revision=revision,
        licence=entry.licence,
        size_bytes=entry.size_bytes,
        summary=entry.summary,
        path=None if files is None else str(files.directory),
    )


@models_app.command()
def pull(name: Name = None, revision: Revision = None) -> None:
    """Download a model, or go on with a broken download, and check its sha256."""
    from docr.models.fetch import pull as fetch

    name = name or _chosen_name()
    with _bar() as progress:
        try:
            model = fetch(name, revision, progress=progress)
        except KeyboardInterrupt:
            say("stopped; what came is kept, the same command goes on")
            raise typer.Exit(130) from None
    if isinstance(CATALOGUE[name], BundledModel):
        say(f"{name} comes with docr: there is nothing to fetch")
    else:
        say(f"{model.name} at {model.revision} is complete")
    emit(f"{model.directory}\n")


@models_app.command()
def path(name: Name = None, revision: Revision = None) -> None:
    """Print the folder of a model that is here."""
    from docr.models.files import resolve

    emit(f"{resolve(name or chosen_model(), revision).directory}\n")


@models_app.command()
def verify(name: Name = None, revision: Revision = None) -> None:
    """Read a model's files and compare them with their sha256."""
    from docr.models.fetch import verify as compare

    model, compared = compare(name or chosen_model(), revision)
    what = f"{count(compared, 'file')} compared, unchanged" if compared else "no digests are known"
    emit(f"{model.name} at {model.revision}: {what}\n")


@models_app.command()
def use(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|DIR",
            autocompletion=_complete_name,
            help="A model of `docr models list`, or a folder with a checkpoint.",
        ),
    ],
) -> None:
    """Choose the model for runs that do not name one."""
    from docr.models.files import resolve

    if name in CATALOGUE:
        choose(name)
        try:
            resolve(name)
        except ModelError as error:
            say(f"note: {error}")
    else:
        model = resolve(name)  # a typo is better found now
        choose(str(model.directory))
    say(f"{name} is used where --model is not given")


def _chosen_name() -> str:
    """The chosen model, for what only works with models of the catalogue."""
    chosen = chosen_model()
    if chosen in CATALOGUE:
        return chosen
    raise ModelError(
        f"the chosen model is a folder ({shlex.quote(chosen)}) and comes from nowhere else; "
        f"name one of the list, such as {FULL_MODEL}"
    )


def _size(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes on a terminal, nothing elsewhere."""
    from tqdm import tqdm

    with tqdm(
        unit="B",
        unit_scale=True,
        disable=None,  # off where stderr is no terminal
        file=sys.stderr,
        dynamic_ncols=True,
        leave=False,
    ) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
