"""What an engine is told, and what it says of itself."""

from dataclasses import dataclass
from pathlib import Path

from docr.errors import UsageError
from docr.settings import Dtype, Quantize


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How to build an engine; made once, where the run's settings are known.

    Attributes:
        model_dir: folder with config.json, tokenizer.json and the weights; None for fakes, which
            have no model.
        model_name, revision: what the records say of the model; nothing is looked up by them.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        dtype: of weights, activations and KV cache.
        quantize: "int8": the decoder's weights in 8 bits, and what is multiplied with them; CPUs.
        batch_size: most pages decoded at once; None: as memory allows.
        max_tokens: most tokens generated a page; None: what the context leaves.
        no_repeat_ngram, ngram_window: the n-gram rule over generated ids; 0 switches it off.
        loop_stop: stop a page that repeats itself.
        drafts: check guesses from the page's text layer; faster, with the same text.
        threads: CPU threads for tensor work; None: as torch finds them. For several engines on
            one machine, which would otherwise all take every core.
        cache_tokens: tokens of all pages together that the KV cache holds; None: as memory allows.
    """

    model_dir: Path | None
    model_name: str = "deepseek-ocr"
    revision: str = ""
    device: str = "auto"
    dtype: Dtype = "auto"
    quantize: Quantize = "none"
    batch_size: int | None = None
    max_tokens: int | None = None
    no_repeat_ngram: int = 30
    ngram_window: int = 90
    loop_stop: bool = True
    drafts: bool = True
    threads: int | None = None
    cache_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_tokens", "threads", "cache_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is 1 or more, not {value}")

    def precision(self, dtype: str) -> str:
        """How records call what is computed in, such as "bfloat16" or "bfloat16+int8".

        Args:
            dtype: what this configuration's dtype came to on the device.
        """
        return dtype if self.quantize == "none" else f"{dtype}+{self.quantize}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What an engine turned out to be.

    Attributes:
        model_name, revision: as configured.
        device: such as "cpu" or "cuda:0".
        dtype: such as "bfloat16", never "auto"; with "+int8" where weights are quantised.
        tokenizer_file: the tokenizer.json that its token ids belong to.
        max_batch_pages: most pages it decodes at once.
    """

    model_name: str
    revision: str
    device: str
    dtype: str
    tokenizer_file: Path
    max_batch_pages: int
