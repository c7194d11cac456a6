"""Getting a checkpoint onto this machine, and checking that it is what was fetched.

Files lie in the hub's own cache (HF_HOME, HF_HUB_CACHE), where other
programs find them too. huggingface_hub starts a broken download of a file from its beginning when
the process has ended; a checkpoint of one 6.7 GB file deserves better, so the large files are
fetched here with the hub's HTTP functions, continued where they stopped, checked against their
sha256 and only then put in place.
"""

import hashlib
import io
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, cast

import platformdirs
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import (
    get_hf_file_metadata,
    hf_hub_url,
    http_get,
    repo_folder_name,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but exported lazily
    WeakFileLock,
    build_hf_headers,
    disable_progress_bars,
)
from huggingface_hub.utils import logging as hub_logging

from docr.errors import ModelError, OutputError
from docr.models.catalogue import CATALOGUE, MODEL_FILES, BundledModel, HubModel, find_entry
from docr.models.files import ModelFiles, pull_command, resolve

Progress = Callable[[int, int], None]
"""Called with (bytes that are here, bytes in all) while files are fetched."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
# The base of all errors of the HTTP library that the hub uses: httpx or httpx2, by its version.
_TransportError = cast(type[Exception], HfHubHTTPError.__bases__[0])


@dataclass(frozen=True, slots=True)
class _RemoteFile:
    """A file as the hub lists it: its sha256 where it is stored by LFS, else its git blob id."""

    path: str
    size: int
    sha256: str | None
    git_blob: str


def pull(name: str, revision: str | None = None, *, progress: Progress | None = None) -> ModelFiles:
    """Download a model of the catalogue, continue a broken download, check what came.

    A model that comes with docr, or is here and was checked when it came, needs no network.

    Raises:
        ModelError: the hub cannot be reached, has no such revision, or sent damaged files.
        OutputError: the cache cannot be written, or the disk is too small.
    """
    entry = find_entry(name)
    if isinstance(entry, BundledModel):
        return resolve(name, revision)
    try:
        model = resolve(name, revision)
    except ModelError:
        pass
    else:
        if _COMMIT.fullmatch(revision or entry.revision) and _digest_file(model).is_file():
            return model
    disable_progress_bars()  # one bar is enough: the caller's
    hub_logging.set_verbosity(logging.ERROR)
    with _hub_errors(entry, revision):
        commit, files = _list_files(entry, revision or entry.revision)
        storage = Path(constants.HF_HUB_CACHE).expanduser() / repo_folder_name(
            repo_id=entry.repo, repo_type="model"
        )
        _fetch_blobs(entry, commit, files, storage, progress or (lambda done, total: None))
        directory = Path(
            snapshot_download(
                entry.repo,
                revision=revision or entry.revision,
                allow_patterns=[f.path for f in files],
            )
        )
    if directory.name != commit:
        raise ModelError(f"{revision} of {entry.repo} moved meanwhile; pull it again")
    model = ModelFiles(entry.name, commit, directory)
    digests = {file.path: _check(directory / file.path, file, entry) for file in files}
    _write_digests(entry, model, digests)
    return model


def verify(name_or_dir: str, revision: str | None = None) -> tuple[ModelFiles, int]:
    """Read a model's files and compare them with their digests.

    A pulled model's were taken when it came; other checkpoints bring theirs in docr.json.

    Returns:
        The model and how many files were compared; 0 where no digests are known.

    Raises:
        ModelError: the model is not here, was not fetched by `pull`, or a file has changed.
    """
    model = resolve(name_or_dir, revision)
    entry = CATALOGUE.get(name_or_dir)
    if isinstance(entry, HubModel):
        digests = _recorded_digests(entry, model, revision)
        remedy = f"delete it, then: {pull_command(entry, revision)}"
    else:
        digests = model.defaults.sha256
        remedy = "copy the checkpoint again" if entry is None else "install docr anew"
    for path, expected in sorted(digests.items()):
        if not (model.directory / path).is_file() or _sha256(model.directory / path) != expected:
            raise ModelError(
                f"{model.directory / path} is not what it was (sha256 {expected} is recorded); "
                f"{remedy}"
            )
    return model, len(digests)


def _recorded_digests(
    entry: HubModel, model: ModelFiles, revision: str | None
) -> Mapping[str, str]:
    try:
        recorded = json.loads(_digest_file(model).read_text(encoding="utf-8"))
        return dict(recorded["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelError(
            f"no digests of {entry.name} are recorded; record them by: "
            f"{pull_command(entry, revision)}"
        ) from None


@contextmanager
def _hub_errors(entry: HubModel, revision: str | None) -> Iterator[None]:
    """Say what went wrong between us and the hub in one line."""
    hub = constants.ENDPOINT
    again = f"again (continues): {pull_command(entry, revision)}"
    try:
        yield
    except OfflineModeIsEnabled:
        raise ModelError(
            f"{entry.name} is not here and HF_HUB_OFFLINE forbids to fetch it"
        ) from None
    except GatedRepoError:
        raise ModelError(f"{hub} wants a token for {entry.repo}; set HF_TOKEN") from None
    except RevisionNotFoundError:
        raise ModelError(f"{hub} has no revision {revision} of {entry.repo}") from None
    except RepositoryNotFoundError:
        raise ModelError(f"{hub} has no {entry.repo}, or hides it without HF_TOKEN") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no"
        raise ModelError(f"{hub} answered {status} for {entry.repo}; {again}") from error
    except _TransportError as error:
        raise ModelError(f"{hub} cannot be reached ({_first_line(error)}); {again}") from error
    except LocalEntryNotFoundError as error:
        cause = error.__cause__ or error
        raise ModelError(f"{hub} cannot be reached ({_first_line(cause)}); {again}") from error
    except OSError as error:
        raise OutputError(
            f"{entry.name} cannot be stored: {_first_line(error)}; {again}"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _list_files(entry: HubModel, revision: str) -> tuple[str, list[_RemoteFile]]:
    """The commit that a revision means, and its files that we want."""
    api = HfApi()
    # For a pinned commit, too: this question is asked once, where the listing's is repeated for
    # half a minute when nobody answers.
    commit = str(api.model_info(entry.repo, revision=revision).sha)
    files = [
        _RemoteFile(item.path, item.size, item.lfs.sha256 if item.lfs else None, item.blob_id)
        for item in api.list_repo_tree(entry.repo, revision=commit, recursive=True)
        if isinstance(item, RepoFile)
        # The repository's own folder only: PurePosixPath("a/b.json") does not match by its name.
        and PurePosixPath(item.path).name == item.path
        and any(fnmatch(item.path, pattern) for pattern in MODEL_FILES)
    ]
    if not files:
        raise ModelError(f"{constants.ENDPOINT} has no model files in {entry.repo} at {commit}")
    return commit, sorted(files, key=lambda file: file.path)


def _fetch_blobs(
    entry: HubModel,
    commit: str,
    files: list[_RemoteFile],
    storage: Path,
    progress: Progress,
) -> None:
    """Bring the LFS files into the cache's blobs/, where the hub's own code looks for them."""
    blobs = storage / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    total = sum(file.size for file in files)
    here = {file.path: 0 for file in files}

    def report(path: str, size: int) -> None:
        here[path] = size
        progress(sum(here.values()), total)

    wanted = []
    for file in files:
        if file.sha256 is not None and (blobs / file.sha256).exists():
            report(file.path, file.size)
        elif file.sha256 is not None:
            wanted.append((file, blobs / f"{file.sha256}.docr-part"))
    needed = sum(file.size - _size(part) for file, part in wanted)
    free = shutil.disk_usage(blobs).free
    if needed > free:
        raise OutputError(
            f"{storage.parent}: {needed / 1e9:.1f} GB are needed for {entry.name} and "
            f"{free / 1e9:.1f} GB are free; make room, or set HF_HOME to a larger disk"
        )
    for file, part in wanted:
        with WeakFileLock(f"{part}.lock"):
            if not (blobs / str(file.sha256)).exists():  # another process may have been quicker
                _fetch_blob(entry, commit, file, part, partial(report, file.path))
                _check(part, file, entry)
                part.replace(blobs / str(file.sha256))
        Path(f"{part}.lock").unlink(missing_ok=True)
    for file in files:
        report(file.path, file.size)  # the small rest comes with the snapshot


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class _MeteredFile(io.FileIO):
    """A file that tells its size whenever it grows."""

    def __init__(self, path: Path, report: Callable[[int], None]) -> None:
        path.touch()
        super().__init__(path, "r+b")
        self._report = report
        self.seek(0, io.SEEK_END)

    def write(self, data: Any) -> int:
        written = super().write(data)
        self._report(self.tell())
        return written


def _fetch_blob(
    entry: HubModel,
    commit: str,
    file: _RemoteFile,
    part: Path,
    report: Callable[[int], None],
) -> None:
    """Download one file to `part`, from where an earlier attempt stopped."""
    if _size(part) > file.size:
        part.unlink()  # not a piece of this file, whatever it is
    url = hf_hub_url(entry.repo, file.path, revision=commit)
    location = get_hf_file_metadata(url).location
    # The token is for the hub alone; the storage it sends us to has its own signature in the URL.
    ours = location.startswith(constants.ENDPOINT.rstrip("/") + "/")
    with _MeteredFile(part, report) as target:
        report(target.tell())
        http_get(
            location,
            target,
            resume_size=target.tell(),
            headers=build_hf_headers() if ours else build_hf_headers(token=False),
            expected_size=file.size,
            displayed_filename=file.path,
        )


def _check(path: Path, file: _RemoteFile, entry: HubModel) -> str:
    """Compare a file that came with what the hub says of it; returns its sha256.

    Raises:
        ModelError: it differs; it has been deleted, so that the next pull fetches it anew.
    """
    sha256 = _sha256(path)
    if file.sha256 is not None:
        damaged = sha256 != file.sha256
    else:
        content = path.read_bytes()
        header = f"blob {len(content)}\0".encode()
        # git's own name of a file's content, not a safeguard against attackers
        damaged = hashlib.sha1(header + content, usedforsecurity=False).hexdigest() != file.git_blob
    if damaged:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise ModelError(
            f"{file.path} of {entry.name} arrived damaged (sha256 {sha256} instead of "
            f"{file.sha256 or 'the listed one'}) and was deleted; fetch it again"
        )
    return sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_file(model: ModelFiles) -> Path:
    """Where the digests of a pulled model are recorded, for `verify`."""
    folder = platformdirs.user_data_path("docr") / "models"
    return folder / f"{model.name}@{model.revision}.json"


def _write_digests(entry: HubModel, model: ModelFiles, digests: dict[str, str]) -> None:
    content = {"repo": entry.repo, "revision": model.revision, "sha256": digests}
    path = _digest_file(model)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise OutputError(f"the digests cannot be recorded in {path}: {error.strerror}") from error
