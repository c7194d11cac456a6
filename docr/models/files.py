"""Finding a checkpoint on this machine: which files there must be, what tells them apart."""

import hashlib
import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from docr.errors import CheckpointError, ModelError
from docr.models.catalogue import (
    CATALOGUE,
    FULL_MODEL,
    MODEL_FILES,
    BundledModel,
    HubModel,
    find_entry,
)
from docr.models.defaults import CheckpointDefaults, read_defaults

_INDEX_SUFFIX = ".safetensors.index.json"
_REQUIRED = ("config.json", "tokenizer.json")
_SAMPLE_BYTES = 4096
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A checkpoint that is complete on this machine.

    Attributes:
        name: what its docr.json calls it, else its name in the catalogue or the folder's own.
        revision: the hub's commit, or a digest of the folder's content.
        directory: holds config.json, tokenizer.json and the safetensors files.
        defaults: what its docr.json says; empty for the hub's models, which have none.
    """

    name: str
    revision: str
    directory: Path
    defaults: CheckpointDefaults = field(default_factory=CheckpointDefaults)


def resolve(name_or_dir: str, revision: str | None = None) -> ModelFiles:
    """Find a checkpoint on this machine. Never uses the network.

    Args:
        name_or_dir: a name of the catalogue or a folder.
        revision: a commit, branch or tag of a model of the hub; None: the catalogue's.

    Raises:
        ModelError: it is not here, or not complete; the message is the command that gets it.
        CheckpointError: a file of it is damaged, or its docr.json makes no sense.
    """
    if name_or_dir not in CATALOGUE and Path(name_or_dir).is_dir():
        return _resolve_directory(Path(name_or_dir).absolute(), revision)
    entry = find_entry(name_or_dir)
    if isinstance(entry, BundledModel):
        return _resolve_bundled(entry, revision)
    # Here, because it takes half a second to import: other checkpoints do without it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted = revision or entry.revision
    advice = f"get it by: {pull_command(entry, revision)}"
    try:
        directory = Path(
            snapshot_download(
                entry.repo,
                revision=wanted,
                allow_patterns=list(MODEL_FILES),
                local_files_only=True,
            )
        )
    except LocalEntryNotFoundError:
        raise ModelError(f"the weights of {entry.name} are not on this machine; {advice}") from None
    missing = missing_files(directory)
    if missing:
        raise ModelError(f"the weights of {entry.name} lack {missing[0]}; {advice}")
    return ModelFiles(entry.name, directory.name, directory)


def _resolve_directory(directory: Path, revision: str | None) -> ModelFiles:
    if revision is not None:
        raise ModelError(f"--revision is for models of the hub; {directory} is a folder")
    missing = missing_files(directory)
    if missing:
        raise ModelError(
            f"{directory}: no {missing[0]}; a checkpoint's folder has config.json, "
            "tokenizer.json and *.safetensors"
        )
    defaults = read_defaults(directory)
    name = defaults.name or directory.name
    return ModelFiles(name, f"local-{content_digest(directory)}", directory, defaults)


def _resolve_bundled(entry: BundledModel, revision: str | None) -> ModelFiles:
    if revision is not None:
        raise ModelError(
            f"--revision is for models of the hub; {entry.name} comes with docr, in one revision"
        )
    missing = missing_files(entry.directory)
    if missing:
        raise ModelError(
            f"this installation of docr lacks the weights of {entry.name} (no {missing[0]} in "
            f"{entry.directory}); install docr anew, or use the full model: "
            f"docr models pull {FULL_MODEL}, then --model {FULL_MODEL}"
        )
    defaults = read_defaults(entry.directory)
    revision = f"{entry.name}-{content_digest(entry.directory)}"
    return ModelFiles(defaults.name or entry.name, revision, entry.directory, defaults)


def pull_command(entry: HubModel, revision: str | None) -> str:
    """The command that fetches a model of the hub."""
    return f"docr models pull {entry.name}" + (f" --revision {revision}" if revision else "")


def hub_state() -> str:
    """Where models come from and go to, for people: the hub, whether it may be asked, the cache."""
    from huggingface_hub import constants

    state = "not to be used (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "may be used"
    return f"{constants.ENDPOINT} {state}, cache {constants.HF_HUB_CACHE}"


def missing_files(directory: Path) -> list[str]:
    """What a checkpoint needs and the folder lacks, by name.

    Raises:
        CheckpointError: the index of the weights is damaged.
    """
    missing = [name for name in _REQUIRED if not (directory / name).is_file()]
    try:
        shards = _shard_names(directory)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{directory}: the index of the weights is damaged") from error
    if not shards:
        missing.append("*.safetensors")
    return missing + [name for name in shards if not (directory / name).is_file()]


def content_digest(directory: Path) -> str:
    """Tell the content of a folder from that of any other, without reading it all.

    A digest of config.json, tokenizer.json, the index, and of every shard its name, size, header
    and the middle 4 KiB of each tensor: training changes all of a tensor, so the samples change
    with the weights. It takes a second for 7 GB; `docr models verify` reads everything.

    Returns:
        32 hexadecimal digits.

    Raises:
        CheckpointError: a file cannot be read, or a shard is no safetensors file.
    """
    digest = hashlib.sha256()
    try:
        for name in (*_REQUIRED, *(path.name for path in _indexes(directory))):
            digest.update(name.encode() + b"\0" + (directory / name).read_bytes() + b"\0")
        for name in _shard_names(directory):
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
            for piece in _shard_samples(directory / name):
                digest.update(piece)
    except OSError as error:
        raise CheckpointError(f"{directory}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()[:32]


def _indexes(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"*{_INDEX_SUFFIX}"))


def _shard_names(directory: Path) -> list[str]:
    """Names of the weight files, sorted: those of the index where there is one."""
    names: set[str] = set()
    for index in _indexes(directory):
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names.update(str(name) for name in weight_map.values())
    if not names:
        names.update(path.name for path in directory.glob("*.safetensors"))
    return sorted(names)


def _shard_samples(path: Path) -> Iterable[bytes]:
    """Size, header, and the middle of each tensor of a safetensors file."""
    with path.open("rb") as file:
        size = path.stat().st_size
        yield struct.pack("<Q", size)
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
            raise CheckpointError(f"{path}: not a safetensors file, or cut short")
        header = file.read(length)
        yield header
        try:
            spans = [
                (int(entry["data_offsets"][0]), int(entry["data_offsets"][1]))
                for name, entry in json.loads(header).items()
                if name != "__metadata__"
            ]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise CheckpointError(f"{path}: the header is damaged") from error
        for start, end in sorted(spans):
            file.seek(8 + length + max(start, (start + end - _SAMPLE_BYTES) // 2))
            yield file.read(min(_SAMPLE_BYTES, end - start))
