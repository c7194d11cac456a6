"""Which model reads: found on this machine, and asked for what the settings leave to it."""

from dataclasses import dataclass
from typing import Any

from docr.engine.config import EngineConfig
from docr.engine.factory import load_factory, resolved_dtype
from docr.errors import ModelError
from docr.models.catalogue import FULL_MODEL
from docr.models.choice import chosen_model
from docr.models.files import ModelFiles, resolve
from docr.output.record import ModelInfo
from docr.settings import Settings

_ENGINE_SETTINGS = (
    *("device", "dtype", "quantize", "batch_size", "max_tokens"),
    *("no_repeat_ngram", "ngram_window", "loop_stop", "drafts"),
)


@dataclass(frozen=True, slots=True)
class Reader:
    """A model that is here, and what a run with it is told.

    Attributes:
        settings: the run's, completed by the model's defaults.
        engine: from which its engine is made.
        model: how records name it.
        caution: where the model is a small preview: what it can read and which one reads more.
    """

    settings: Settings
    engine: EngineConfig
    model: ModelInfo
    caution: str | None


def find_reader(settings: Settings) -> Reader:
    """Find the model that the settings name, or the chosen one; loads nothing.

    Raises:
        ModelError: its weights, or the device, are not here.
    """
    return _reader(settings, _files(settings))


def planned(settings: Settings) -> tuple[Settings, ModelInfo | None]:
    """The completed settings and the model of a run that may not be able to begin.

    Without the weights the settings are completed as for DeepSeek-OCR, and there is no model.
    """
    files = None
    try:
        files = _files(settings)
        reader = _reader(settings, files)
    except ModelError:
        return _completed(settings, files), None
    return reader.settings, reader.model


def _files(settings: Settings) -> ModelFiles | None:
    """The model's files; None where an engine of the tests stands in for a model."""
    if settings.engine is not None:
        return None
    return resolve(settings.model or chosen_model(), settings.revision)


def _reader(settings: Settings, files: ModelFiles | None) -> Reader:
    settings = _completed(settings, files)
    options: dict[str, Any] = {name: getattr(settings, name) for name in _ENGINE_SETTINGS}
    if files is None:
        assert settings.engine is not None
        module = settings.engine.partition(":")[0]
        config = EngineConfig(model_dir=None, model_name=module, **options)
        engine = load_factory(settings.engine)(config)
        engine.close()
        dtype = engine.info.dtype
    else:
        config = EngineConfig(
            model_dir=files.directory,
            model_name=files.name,
            revision=files.revision,
            **options,
        )
        dtype = resolved_dtype(config)
    model = ModelInfo(name=config.model_name, revision=config.revision, dtype=dtype)
    return Reader(settings, config, model, None if files is None else _caution(files))


def _completed(settings: Settings, files: ModelFiles | None) -> Settings:
    if files is None:
        return settings.completed(mode=None, task=None)
    return settings.completed(mode=files.defaults.mode, task=files.defaults.task)


def _caution(files: ModelFiles) -> str | None:
    if files.defaults.preview is None:
        return None
    return (
        f"{files.name} is a small preview ({files.defaults.preview}); the full model reads far "
        f"better: docr models pull {FULL_MODEL}, then docr models use {FULL_MODEL}"
    )
