"""Other engines on the same weights, pages and lengths. They read pages that docr has rendered.

transformers has no class for DeepSeek-OCR. Its UnlimitedOcr is the same network when every decoder
layer has full attention, and it reads the official checkpoint layout.
"""

import dataclasses
import itertools
import json
import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from docr.bench.measure import peak_bytes, prepare
from docr.bench.spec import BenchResult, BenchSpec
from docr.errors import UsageError
from docr.modes.mode import MODES
from docr.modes.prompt import IMAGE, Prompter, prompt_text
from docr.pdf.cage import RenderedPage, RenderTask
from docr.rendering import open_cage
from docr.settings import Settings
from docr.types import PageInputs, SourceFile

BATCH_PAGES = 8


def run(spec: BenchSpec) -> BenchResult:
    """Measure transformers: batches of pages, each until its longest text is written."""
    from transformers import StoppingCriteria, UnlimitedOcrForConditionalGeneration

    if spec.model is None:
        raise UsageError("transformers reads its weights from a checkpoint: --model DIR")
    device, dtype, rates = prepare(spec)
    start = time.monotonic()
    config = json.loads((spec.model / "config.json").read_text(encoding="utf-8"))
    prompter = Prompter(spec.tokenizer)
    (image_id,) = prompter.encode(IMAGE)
    model: Any = UnlimitedOcrForConditionalGeneration.from_pretrained(
        spec.model,
        config=reference_config(config, image_id),
        dtype=dtype,
        experts_implementation="grouped_mm",
    )
    model = model.to(device).eval()
    load_seconds = time.monotonic() - start

    class Clock(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **rest: Any) -> torch.Tensor:
            ticks.append(time.monotonic())
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    start = time.monotonic()
    pages = _pages(spec, prompter)
    stages = {"render+prepare": 0.0, "vision+prefill": 0.0, "decode": 0.0}
    tokens, steps, prompts = 0, 0, []
    size = spec.batch_size or BATCH_PAGES
    while True:
        begin = time.monotonic()
        named = list(itertools.islice(pages, size))
        if not named:
            break
        batch = [page for _, page in named]
        lengths = [spec.length(name, page.ref.index) for name, page in named]
        prompts += [len(page.input_ids) for page in batch]
        ticks: list[float] = []
        ready = time.monotonic()
        model.generate(
            **_arguments(batch, device, dtype),
            max_new_tokens=max(lengths),
            min_new_tokens=max(lengths),
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            stopping_criteria=[Clock()],
            pad_token_id=2,
        )
        stages["render+prepare"] += ready - begin
        stages["vision+prefill"] += ticks[0] - ready
        stages["decode"] += ticks[-1] - ticks[0]
        tokens += sum(lengths)
        steps += max(lengths) - 1
    return BenchResult(
        engine="transformers",
        seconds=time.monotonic() - start,
        load_seconds=load_seconds,
        stages=stages,
        pages=len(prompts),
        tokens=tokens,
        prompt_tokens=statistics.fmean(prompts),
        peak_bytes=peak_bytes(device),
        steps=steps,
        rates=dataclasses.asdict(rates),
        bound_seconds={},
    )


def _pages(spec: BenchSpec, prompter: Prompter) -> Iterator[tuple[str, PageInputs]]:
    """The workload's pages, rendered and cut as docr does it, each with its copy's name."""
    settings = Settings(mode=spec.mode, task="markdown")
    text = prompt_text("markdown", None, None)
    left = spec.pages
    with open_cage(settings, workers=1) as cage:
        for copy, number in ((c, n) for c in itertools.count() for n in range(len(spec.files))):
            path, name = spec.files[number], spec.page_name(copy, number)
            file = SourceFile(path, path.parent, path.name)
            count = min(left, cage.inspect(file).page_count)
            cage.submit(RenderTask(file, tuple(range(count))))
            while cage.pending:
                for page in cage.poll(60, limit=8):
                    if isinstance(page, RenderedPage) and page.views is not None:
                        ref, views = page.image.ref, page.views
                        yield name, prompter.inputs(ref, views, MODES[spec.mode], text)
            left -= count
            if left == 0:
                return


def _arguments(batch: list[PageInputs], device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    def pixels(views: Any) -> torch.Tensor:
        return ((torch.from_numpy(views).float() / 255 - 0.5) / 0.5).to(device, dtype)

    if len({len(page.input_ids) for page in batch}) > 1:
        raise UsageError("transformers needs pages of one grid in a batch: choose other files")
    input_ids = torch.from_numpy(np.stack([page.input_ids for page in batch])).to(device)
    arguments: dict[str, Any] = {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "pixel_values": pixels(np.stack([page.views.global_view for page in batch])),
    }
    if batch[0].views.grid != (1, 1):
        tiles = np.concatenate([page.views.tiles for page in batch])
        arguments["pixel_values_local"] = pixels(tiles)
        arguments["num_local_patches"] = [len(page.views.tiles) for page in batch]
        arguments["patches_grid"] = [list(page.views.grid) for page in batch]
    return arguments


def reference_config(config: dict[str, Any], image_id: int) -> Any:
    """A config.json of ours in transformers' words.

    Args:
        config: the file's content.
        image_id: id of the placeholder for vision tokens.
    """
    from transformers import UnlimitedOcrConfig

    decoder = config["language_config"]
    sam = config["vision_config"]["width"]["sam_vit_b"]
    clip = config["vision_config"]["width"]["clip-l-14-224"]
    text = {name: value for name, value in decoder.items() if name != "use_mla"}
    return UnlimitedOcrConfig(
        image_token_id=image_id,
        text_config=text
        | {
            "layer_types": ["full_attention"] * decoder["num_hidden_layers"],
            "n_group": 1,
            "topk_group": 1,
            "routed_scaling_factor": 1.0,
        },
        vision_config={
            "sam_config": {
                "hidden_size": sam["width"],
                "output_channels": sam.get("out_chans", 256),
                "num_hidden_layers": sam["layers"],
                "num_attention_heads": sam["heads"],
                "global_attn_indexes": sam["global_attn_indexes"],
                "mlp_dim": 4 * sam["width"],
                "downsample_channels": sam["downsample_channels"],
            },
            "encoder_config": {
                "hidden_size": clip["width"],
                "intermediate_size": 4 * clip["width"],
                "num_hidden_layers": clip["layers"],
                "num_attention_heads": clip["heads"],
            },
        },
    )
