"""`docr config`: every setting, its value, and where it comes from."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from docr.cli.config import OUT, PROJECT_FILE, Value, configure, setting_names, user_file
from docr.cli.messages import emit

config_app = typer.Typer(
    help="Show the settings and where they come from.", invoke_without_command=True
)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Read this file instead of ./docr.toml and the user's.",
    ),
]


@config_app.callback()
def config(
    ctx: typer.Context,
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show every setting, its value and its origin.

    Flag, then DOCR_* variable, then ./docr.toml, then the user's config.toml, then the default.
    """
    if ctx.invoked_subcommand is not None:
        return
    configured = configure({}, config=config)
    values: dict[str, Value] = {**asdict(configured.settings), OUT: configured.out}
    if values["password"] is not None:
        values["password"] = "(set)"
    rows = [
        (name, values[name.replace("-", "_")], configured.origins[name.replace("-", "_")])
        for name in setting_names()
    ]
    if as_json:
        emit(json.dumps({n: {"value": v, "origin": o} for n, v, o in rows}, indent=2) + "\n")
        return
    width = max(len(name) for name, _, _ in rows)
    shown = [(name, _toml(value), origin) for name, value, origin in rows]
    value_width = max(len(value) for _, value, _ in shown)
    for name, value, origin in shown:
        emit(f"{name:<{width}}  {value:<{value_width}}  {origin}\n")


@config_app.command("path")
def config_path() -> None:
    """Print the paths of the configuration files, the strongest first."""
    for path in (PROJECT_FILE.absolute(), user_file()):
        emit(f"{path}{'' if path.is_file() else '  (not there)'}\n")


def _toml(value: Value) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return json.dumps(list(value))
    return json.dumps(value)  # TOML spells these like JSON
