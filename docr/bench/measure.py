"""docr itself, measured: files to records through the pipeline that `docr convert` uses."""

import itertools
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import torch

from docr.bench.engine import BenchEngine, BenchRunner, random_model
from docr.bench.roofline import Rates, measure_rates, page_flop, step_bytes
from docr.bench.spec import BenchResult, BenchSpec
from docr.engine.config import EngineConfig
from docr.engine.detokenize import Detokenizer
from docr.engine.device import resolve_device, resolve_dtype
from docr.engine.engine import Engine
from docr.engine.model.config import ClipConfig, ModelConfig, SamConfig
from docr.engine.model.load import load_model
from docr.events import ModelReady
from docr.output.record import ModelInfo, SourceInfo
from docr.output.store import Store
from docr.pipeline import CHUNK_PAGES, Pipeline, PipelineConfig
from docr.settings import Settings
from docr.types import PageInputs, SourceFile
from docr.writer import Chunk, PageOutcome

RENDER_WORKERS = 8


def prepare(spec: BenchSpec) -> tuple[torch.device, torch.dtype, Rates]:
    """Set this process up as a measurement wants it."""
    device = resolve_device(spec.device)
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    torch.manual_seed(spec.seed)
    return device, resolve_dtype(spec.dtype, device), measure_rates(device)


def run(spec: BenchSpec) -> BenchResult:
    """Measure docr."""
    device, dtype, rates = prepare(spec)
    settings = Settings(
        mode=spec.mode,
        task="markdown",
        drafts=spec.drafts,
        no_repeat_ngram=0 if spec.changed is not None else 20,
        ngram_window=50,
        loop_stop=False,
    )
    engines: list[tuple[BenchEngine, BenchRunner, ModelConfig]] = []

    def create(config: EngineConfig) -> Engine:
        if spec.model is None:
            dims = ModelConfig(sam=SamConfig(), clip=ClipConfig())
            model = random_model(dims, device, dtype)
        else:
            model = load_model(spec.model, device=device, dtype=dtype)
        dims = model.config
        # Given texts are put in by the host.
        on_device = None if spec.changed is None else False
        runner = BenchRunner(model, Detokenizer(spec.tokenizer), config, on_device=on_device)
        engines.append((BenchEngine(spec, config, runner), runner, dims))
        return engines[-1][0]

    with tempfile.TemporaryDirectory(prefix="docr-bench-") as scratch, ExitStack() as stack:
        info = ModelInfo(name="bench", revision=None, dtype=str(dtype).removeprefix("torch."))
        out = Path(scratch) / "out"
        stack.enter_context(Store.open(out, settings={}, overwrite=True, run_id="bench"))
        config = PipelineConfig(
            settings=settings,
            engine=EngineConfig(
                model_dir=None,
                model_name="bench",
                device=spec.device,
                dtype=spec.dtype,
                quantize=spec.quantize,
                batch_size=spec.batch_size,
                no_repeat_ngram=settings.no_repeat_ngram,
                ngram_window=settings.ngram_window,
                loop_stop=False,
                drafts=spec.drafts,
                threads=spec.threads,
            ),
            model=info,
            out=out,
            run_id="bench",
            render_workers=max(1, min(RENDER_WORKERS, (os.cpu_count() or 2) - 1)),
        )
        pipeline = stack.enter_context(Pipeline(config, factory=create))
        ready = next(m for m in pipeline.poll(0) if isinstance(m, ModelReady))
        ((engine, runner, dims),) = engines
        chunks = deque(make_chunks(spec, Path(scratch) / "in", pipeline))
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        outcomes: list[PageOutcome] = []
        start = time.monotonic()
        while chunks or pipeline.pending:
            while chunks and pipeline.wants():
                pipeline.submit(chunks.popleft())
            outcomes += [m for m in pipeline.poll(0.2) if isinstance(m, PageOutcome)]
        seconds = time.monotonic() - start
    stages: Counter[str] = Counter()
    for outcome in outcomes:
        stages.update(outcome.seconds)
    prompts = [len(inputs.input_ids) for inputs in engine.inputs]
    flop = sum(_page_flop(dims, inputs) for inputs in engine.inputs)
    experts = statistics.fmean(runner.touched) if runner.touched else 0.0
    read = runner.steps * step_bytes(
        dims,
        experts=experts,
        context=runner.context_sum / max(1, runner.steps),
        weight_bytes=dtype.itemsize if spec.quantize == "none" else 1,
        cache_bytes=dtype.itemsize,
    )
    return BenchResult(
        engine="docr",
        seconds=seconds,
        load_seconds=ready.seconds,
        stages=dict(stages),
        pages=len(outcomes),
        tokens=sum(outcome.entry.output_tokens for outcome in outcomes),
        prompt_tokens=statistics.fmean(prompts),
        peak_bytes=peak_bytes(device),
        steps=runner.steps,
        experts=experts,
        drafted=engine.drafted,
        accepted=engine.accepted,
        rates=asdict(rates),
        bound_seconds={"vision+prefill": flop / rates.matrix, "decode": read / rates.read},
        digest=engine.digest,
    )


def _page_flop(config: ModelConfig, inputs: PageInputs) -> int:
    views = [(inputs.views.global_view.shape[-1], 1)]
    if len(inputs.views.tiles):
        views.append((inputs.views.tiles.shape[-1], len(inputs.views.tiles)))
    return page_flop(config, tuple(views), len(inputs.input_ids))


def peak_bytes(device: torch.device) -> int:
    """Most memory held: of this process on a CPU, of tensors on a GPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def make_chunks(spec: BenchSpec, folder: Path, pipeline: Pipeline) -> Iterator[Chunk]:
    """The pages, in copies of the files as often as it takes: no page may be seen twice."""
    folder.mkdir()
    left = spec.pages
    for copy in itertools.count():
        for number, path in enumerate(spec.files):
            if left == 0:
                return
            name = spec.page_name(copy, number)
            shutil.copyfile(path, folder / name)
            file = SourceFile(folder / name, folder, name)
            count = min(left, pipeline.inspect(file).page_count)
            source = SourceInfo.of(file, sha256=None, size=None)
            for start in range(0, count, CHUNK_PAGES):
                indexes = tuple(range(start, min(count, start + CHUNK_PAGES)))
                yield Chunk(file, source, name, indexes)
            left -= count
