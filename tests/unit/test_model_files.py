"""Finding a checkpoint in a local folder, and telling one from another."""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from docr.errors import CheckpointError, ModelError
from docr.models.catalogue import CATALOGUE, DEFAULT_MODEL, BundledModel, HubModel, find_entry
from docr.models.fetch import pull, verify
from docr.models.files import content_digest, missing_files, resolve

TENSORS = {"a": bytes(10_000), "b": bytes(range(200))}


def _write_shard(path: Path, tensors: dict[str, bytes]) -> None:
    entries, end = {}, 0
    for name, data in tensors.items():
        offsets = [end, end + len(data)]
        entries[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": offsets}
        end += len(data)
    header = json.dumps(entries).encode()
    content = b"".join(tensors.values())
    path.write_bytes(len(header).to_bytes(8, "little") + header + content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    index = {"weight_map": {"a": "one.safetensors", "b": "one.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    _write_shard(folder / "one.safetensors", TENSORS)
    return folder


def test_a_folder_is_found_by_its_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    model = resolve("checkpoint")
    assert (model.name, model.directory) == ("checkpoint", folder)
    assert model.revision == f"local-{content_digest(folder)}"


def test_revision_is_the_content_not_the_place(folder: Path) -> None:
    before = content_digest(folder)
    moved = folder.rename(folder.with_name("elsewhere"))
    (moved / "README.md").write_text("not part of the model")
    assert content_digest(moved) == before


@pytest.mark.parametrize("name", ["a", "b"])
def test_revision_changes_with_the_weights(folder: Path, name: str) -> None:
    before = content_digest(folder)
    trained = bytes(byte ^ 1 for byte in TENSORS[name])
    _write_shard(folder / "one.safetensors", TENSORS | {name: trained})
    assert content_digest(folder) != before


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors.index.json"])
def test_revision_changes_with_the_other_files(folder: Path, name: str) -> None:
    before = content_digest(folder)
    (folder / name).write_text((folder / name).read_text() + "\n")
    assert content_digest(folder) != before


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "one.safetensors"])
def test_what_is_missing_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert missing_files(folder) == [name]
    with pytest.raises(ModelError, match=name):
        resolve(str(folder))


def test_weights_without_an_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()
    assert missing_files(folder) == []
    (folder / "one.safetensors").unlink()
    assert missing_files(folder) == ["*.safetensors"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x00",
        b"\xff" * 20,
        (4).to_bytes(8, "little") + b"[{]}",
        b"\x02" + bytes(7) + b"[]",
    ],
)
def test_a_damaged_shard_is_refused(folder: Path, content: bytes) -> None:
    (folder / "one.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="one"):
        content_digest(folder)


@pytest.mark.parametrize("index", ["", "[]", '{"weight_map": 3}', "{}"])
def test_a_damaged_index_is_refused(folder: Path, index: str) -> None:
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match="index"):
        resolve(str(folder))


def test_revision_is_not_for_folders(folder: Path) -> None:
    with pytest.raises(ModelError, match="--revision"):
        resolve(str(folder), "main")


def test_catalogue_pins_commits() -> None:
    for name, entry in CATALOGUE.items():
        assert find_entry(name) is entry
        if isinstance(entry, HubModel):
            assert len(entry.revision) == 40 and int(entry.revision, 16)
    with pytest.raises(ModelError, match="did you mean deepseek-ocr"):
        find_entry("deepseek-ocr2")


class TestBundled:
    @pytest.fixture(autouse=True)
    def bundle(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The folder of these tests as the model that comes with docr."""
        entry = CATALOGUE[DEFAULT_MODEL]
        assert isinstance(entry, BundledModel)
        monkeypatch.setitem(CATALOGUE, DEFAULT_MODEL, replace(entry, directory=folder))
        return folder

    def test_is_found_without_the_hub(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        model = resolve(DEFAULT_MODEL)
        assert (model.name, model.directory) == (DEFAULT_MODEL, bundle)
        assert model.revision == f"{DEFAULT_MODEL}-{content_digest(bundle)}"

    def test_is_called_what_its_file_says(self, bundle: Path) -> None:
        (bundle / "docr.json").write_text('{"name": "docr-mini", "mode": "tiny"}')
        model = resolve(DEFAULT_MODEL)
        assert (model.name, model.defaults.mode) == ("docr-mini", "tiny")

    def test_has_one_revision(self) -> None:
        with pytest.raises(ModelError, match="--revision"):
            resolve(DEFAULT_MODEL, "main")

    def test_lacks_its_weights_in_a_stripped_installation(self, bundle: Path) -> None:
        (bundle / "one.safetensors").unlink()
        with pytest.raises(ModelError, match=r"lacks the weights.*docr models pull deepseek-ocr"):
            resolve(DEFAULT_MODEL)

    def test_needs_no_fetching(self, bundle: Path) -> None:
        assert pull(DEFAULT_MODEL) == resolve(DEFAULT_MODEL)

    def test_is_compared_with_its_own_digests(self, bundle: Path) -> None:
        assert verify(DEFAULT_MODEL)[1] == 0
        digest = hashlib.sha256((bundle / "one.safetensors").read_bytes()).hexdigest()
        (bundle / "docr.json").write_text(json.dumps({"sha256": {"one.safetensors": digest}}))
        assert verify(DEFAULT_MODEL)[1] == 1
        _write_shard(bundle / "one.safetensors", TENSORS | {"a": bytes(9_999) + b"1"})
        with pytest.raises(ModelError, match=r"one\.safetensors is not what it was"):
            verify(DEFAULT_MODEL)
