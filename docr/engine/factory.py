"""Making engines. Nothing here imports torch before a model is loaded: fakes need none of it."""

import importlib
from collections.abc import Callable

from docr.engine.config import EngineConfig
from docr.engine.detokenize import Detokenizer
from docr.engine.engine import Engine, ModelEngine
from docr.errors import UsageError

EngineFactory = Callable[[EngineConfig], Engine]


def create_engine(config: EngineConfig) -> Engine:
    """Load the model that `config` names.

    Raises:
        CheckpointError: the folder does not hold DeepSeek-OCR.
        DeviceError: the device is not there, or too small.
    """
    if config.model_dir is None:
        raise UsageError("no model folder is given")
    from docr.engine.runner import load_runner  # torch: only for engines that need it

    detokenizer = Detokenizer(config.model_dir / "tokenizer.json")
    runner = load_runner(config.model_dir, detokenizer, config)
    return ModelEngine(config, runner, detokenizer)


def resolved_dtype(config: EngineConfig) -> str:
    """How an engine of this configuration will name its dtype; loads no model.

    Raises:
        DeviceError: the device is not there.
        UsageError: it cannot compute as it is told to.
    """
    if config.device == "cpu" and config.dtype != "auto":
        return config.precision(config.dtype)  # known without torch, which takes seconds to load
    from docr.engine.device import find_device, resolve_dtype  # torch, as above

    device = find_device(config.device)
    if config.quantize != "none" and device.type != "cpu":
        raise UsageError(f"--quantize {config.quantize} is for --device cpu; this is {device}")
    return config.precision(str(resolve_dtype(config.dtype, device)).removeprefix("torch."))


def load_factory(name: str) -> EngineFactory:
    """The engine factory called MODULE:NAME; tests choose their fakes so.

    Raises:
        UsageError: there is none.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise UsageError(f"an engine is given as MODULE:NAME, not {name!r}")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"no engine {name!r}: {error}") from error
    if not callable(factory):
        raise UsageError(f"{name!r} is no engine factory: it cannot be called")
    made: EngineFactory = factory
    return made
