"""`docr models`: which checkpoints there are, which are here, and getting them."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from docr.cli.messages import emit, say
from docr.errors import ModelError
from docr.models.catalogue import CATALOGUE, DEFAULT_MODEL
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
    from docr.models.files import resolve

    chosen = chosen_model()
    rows = []
    for entry in CATALOGUE.values():
        try:
            path = str(resolve(entry.name).directory)
        except ModelError:
            path = None
        rows.append(
            {
                "name": entry.name,
                "chosen": entry.name == chosen,
                "repo": entry.repo,
                "revision": entry.revision,
                "licence": entry.licence,
                "download_bytes": entry.download_bytes,
                "summary": entry.summary,
                "path": path,
            }
        )
    if as_json:
        emit(json.dumps(rows, indent=2) + "\n")
        return
    for row in rows:
        here = row["path"] or f"not here; docr models pull {row['name']}"
        emit(
            f"{'*' if row['chosen'] else ' '} {row['name']}  {row['summary']}\n"
            f"    {row['repo']}@{str(row['revision'])[:12]}, {row['licence']}, "
            f"{int(str(row['download_bytes'])) / 1e9:.1f} GB\n"
            f"    {here}\n"
        )
    if chosen not in CATALOGUE:
        emit(f"* {chosen}\n")


@models_app.command()
def pull(name: Name = None, revision: Revision = None) -> None:
    """Download a model, or go on with a broken download, and check its sha256."""
    from docr.models.fetch import pull as fetch

    with _bar() as progress:
        try:
            model = fetch(name or _chosen_name(), revision, progress=progress)
        except KeyboardInterrupt:
            say("stopped; what came is kept, the same command goes on")
            raise typer.Exit(130) from None
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

    model, count = compare(name or _chosen_name(), revision)
    emit(f"{model.name} at {model.revision}: {count} files are as they were fetched\n")


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
        f"name one of the list, such as {DEFAULT_MODEL}"
    )


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
