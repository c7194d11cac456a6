"""Settings in layers: flag > DOCR_* > ./docr.toml > the user's config.toml > default.

The only place where docr reads its environment. A key that no layer knows is an error: a typo
must not silently mean the default. Files hold one table:

    [convert]
    mode = "base"            # long option names, with - or _
    header-footer = false
    include = ["reports/*"]
"""

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

import platformdirs

from docr.errors import IncompatibleError, UsageError
from docr.settings import DTYPE_ALIASES, MODEL_SETTINGS, Settings

Value = str | int | float | bool | tuple[str, ...] | None

PROJECT_FILE = Path("docr.toml")
ENV_PREFIX = "DOCR_"
OUT = "out"
"""The one setting that is not the run's: where the output goes."""

_FIELDS = {field.name: field for field in dataclasses.fields(Settings)}
_TYPES: dict[str, object] = get_type_hints(Settings) | {OUT: str | None}
_AUTO = ("batch_size", "gpus", "render_workers")  # None is spelled "auto" there
_WORDS = {"1": True, "true": True, "yes": True, "on": True}
_WORDS |= {"0": False, "false": False, "no": False, "off": False}
# Whether these are right depends on each other, so they are only checked together.
_DEPENDENT = ("task", "query", OUT)


@dataclass(frozen=True, slots=True)
class Configured:
    """What the layers add up to.

    Attributes:
        settings: for the run.
        out: where the output goes; None: nobody said.
        origins: where each value comes from: "flag", "DOCR_MODE", a file's path, "default" or,
            where nobody said and the model chooses, "the model's".
        files: the configuration files that were read.
    """

    settings: Settings
    out: str | None
    origins: Mapping[str, str]
    files: tuple[Path, ...]


def user_file() -> Path:
    """The user's own configuration: ~/.config/docr/config.toml on Linux."""
    return platformdirs.user_config_path("docr") / "config.toml"


def config_files(config: Path | None) -> tuple[Path, ...]:
    """The files to read, the weakest first: `config` alone, or the user's and the project's."""
    if config is not None:
        return (config,)
    return tuple(path for path in (user_file(), PROJECT_FILE) if path.is_file())


def configure(
    flags: Mapping[str, Value],
    *,
    config: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Configured:
    """Merge all layers.

    Args:
        flags: what the command line said; None (and an empty tuple) means it did not.
        config: a file to read instead of the project's and the user's.
        environ: the environment.

    Raises:
        UsageError: a flag's value makes no sense.
        IncompatibleError: a file or a variable holds an unknown key or a wrong value.
    """
    values: dict[str, Value] = {}
    origins = dict.fromkeys((*_FIELDS, OUT), "default") | dict.fromkeys(
        MODEL_SETTINGS, "the model's"
    )
    files = config_files(config)
    layers = [(str(path), _read_file(path)) for path in files]
    layers += [(ENV_PREFIX + name.upper(), {name: value}) for name, value in _read_env(environ)]
    for origin, layer in layers:
        _check_alone(origin, layer)
        values |= layer
        origins |= dict.fromkeys(layer, origin)
    said = {name: value for name, value in flags.items() if value is not None and value != ()}
    for name, value in said.items():
        values[name] = _from_text(name, value) if isinstance(value, str) else value
        origins[name] = "flag"
    out = values.pop(OUT, None)
    settings = Settings(**values)  # type: ignore[arg-type]  # checked against the same hints
    return Configured(settings, None if out is None else str(out), origins, files)


def setting_names() -> tuple[str, ...]:
    """All settings, as spelled in a file."""
    return tuple(name.replace("_", "-") for name in (OUT, *_FIELDS) if name != "engine")


def _read_file(path: Path) -> dict[str, Value]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise IncompatibleError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise IncompatibleError(f"{path}: not TOML: {error}") from error
    for table in content:
        if table != "convert":
            raise IncompatibleError(f"{path}: unknown {table!r}; settings belong under [convert]")
    table = content.get("convert", {})
    if not isinstance(table, dict):
        raise IncompatibleError(f"{path}: convert is a table: [convert]")
    layer: dict[str, Value] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in _TYPES:
            raise IncompatibleError(f"{path}: unknown key {key!r}{_did_you_mean(key)}")
        try:
            layer[name] = _from_toml(name, value)
        except UsageError as error:
            raise IncompatibleError(f"{path}: {key}: {error}") from error
    return layer


def _read_env(environ: Mapping[str, str]) -> Iterable[tuple[str, Value]]:
    for variable in sorted(environ):
        if not variable.startswith(ENV_PREFIX):
            continue
        name = variable.removeprefix(ENV_PREFIX).lower()
        if name not in _TYPES:
            raise IncompatibleError(f"unknown variable {variable}{_did_you_mean(name, env=True)}")
        try:
            yield name, _from_text(name, environ[variable])
        except UsageError as error:
            raise IncompatibleError(f"{variable}: {error}") from error


def _did_you_mean(key: str, *, env: bool = False) -> str:
    near = difflib.get_close_matches(key.replace("_", "-"), setting_names(), n=1)
    if not near:
        return "; docr config shows all settings"
    return f"; did you mean {ENV_PREFIX + near[0].upper().replace('-', '_') if env else near[0]}?"


def _check_alone(origin: str, layer: Mapping[str, Value]) -> None:
    """Let a wrong value be blamed on the file it stands in, not on a flag nobody gave."""
    for name, value in layer.items():
        if name in _DEPENDENT:
            continue
        try:
            Settings(**{name: value})  # type: ignore[arg-type]
        except UsageError as error:
            raise IncompatibleError(f"{origin}: {error}") from error


def _plain_type(name: str) -> object:
    """A setting's type without "or None"."""
    hint = _TYPES[name]
    if isinstance(hint, UnionType) or get_origin(hint) is Union:  # the latter for a Literal
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    return hint


def _from_toml(name: str, value: object) -> Value:
    plain = _plain_type(name)
    if plain == tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise UsageError("a list of strings is wanted")
        return tuple(value)
    is_text = plain is str or get_origin(plain) is Literal or (name in _AUTO and value == "auto")
    if is_text and isinstance(value, str):
        return _from_text(name, value)
    if plain is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if plain in (bool, int, float) and type(value) is plain:
        return value
    raise UsageError(f"{_describe(plain)} is wanted, not {value!r}")


def _from_text(name: str, text: str) -> Value:
    """Understand a value as the environment and the command line spell it."""
    plain = _plain_type(name)
    if name in _AUTO and text == "auto":
        return None
    if name == "dtype":
        text = DTYPE_ALIASES.get(text, text)
    if get_origin(plain) is Literal:
        if text not in get_args(plain):
            near = difflib.get_close_matches(text, get_args(plain), n=1)
            hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(get_args(plain))}"
            raise UsageError(f"no such {name.replace('_', '-')}: {text!r}; {hint}")
        return text
    if plain is bool:
        if text.lower() not in _WORDS:
            raise UsageError(f"true or false is wanted, not {text!r}")
        return _WORDS[text.lower()]
    if plain is int or plain is float:
        try:
            return plain(text)
        except ValueError:
            raise UsageError(f"{_describe(plain)} is wanted, not {text!r}") from None
    if plain == tuple[str, ...]:
        return tuple(part for part in text.split(",") if part)
    return text


def _describe(plain: object) -> str:
    if get_origin(plain) is Literal:
        return f"one of {', '.join(get_args(plain))}"
    return {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a string",
    }[plain]  # type: ignore[index]
