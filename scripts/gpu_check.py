"""One call on a GPU machine: parity of the device with the CPU, and the speed of the forward.

    python -m scripts.gpu_check                      # on cuda, full size, under ten minutes
    python -m scripts.gpu_check --device cpu --toy   # the same code, anywhere

Parity: the toy checkpoint in fp32 on both devices, all modes: the largest difference of logits
over their root mean square, and whether greedy decoding agrees; then bf16 against fp32. Speed: the
full-size network with random weights made on the device, the pages under examples/ and samples of
them, tokens drawn at temperature 1 (greedy decoding of random weights loops, and then few experts
are read). A Markdown table comes last.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights

import docr.engine.runner as runner_module
from docr.engine.config import EngineConfig
from docr.engine.detokenize import Detokenizer
from docr.engine.engine import ModelEngine
from docr.engine.model.config import ModelConfig
from docr.engine.model.deepseek_ocr import DeepseekOCR
from docr.engine.model.load import load_model
from docr.engine.runner import Runner
from docr.engine.sampling import Picks
from docr.modes.mode import MODES
from docr.modes.prompt import Prompter, prompt_text
from docr.pdf.cage import Cage, RenderedPage, RenderTask
from docr.pipeline import render_settings
from docr.settings import ModeName, Settings
from docr.types import PageInputs, PageRef, SourceFile
from scripts.make_random_checkpoint import (
    full_config,
    toy_config,
    write_checkpoint,
    write_tokenizer,
)

EXAMPLES = Path(__file__).parents[1] / "examples"
PARITY_TOLERANCE = 2e-4
VIEWS = {"tiny": 512, "small": 640, "base": 1024, "large": 1280}


def random_model(config: dict[str, Any], device: torch.device, dtype: torch.dtype) -> DeepseekOCR:
    """The network with normal weights of deviation 0.02 (norms: one), made on the device."""
    with init_empty_weights():
        model = DeepseekOCR(ModelConfig.from_dict(config))
    model = model.to(dtype).to_empty(device=device)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                weight.fill_(1.0)
            else:
                weight.normal_(std=0.02)
    return model.eval().requires_grad_(False)


def parity(device: torch.device) -> Iterator[str]:
    """Rows of the parity table: the device against the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), toy_config(), seed=3, dtype="fp32")
        cpu = load_model(Path(folder), device="cpu", dtype=torch.float32)
        there = load_model(Path(folder), device=device, dtype=torch.float32)
        half = load_model(Path(folder), device=device, dtype=torch.bfloat16)
    for name, side in VIEWS.items():
        views = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
        logits = {}
        for label, model in (("cpu", cpu), ("fp32", there), ("bf16", half)):
            where = model.image_newline.device
            features = model.encode_views(views.to(where))
            x = torch.stack([model.image_sequence(each, each[:0], (1, 1)) for each in features])
            positions = torch.arange(x.shape[1], device=where).expand(2, -1)
            logits[label] = model.logits(model(x, positions)).cpu()
        scale = logits["cpu"].square().mean().sqrt()
        error = float((logits["fp32"] - logits["cpu"]).abs().max() / scale)
        rough = float((logits["bf16"] - logits["cpu"]).square().mean().sqrt() / scale)
        same = bool((logits["fp32"].argmax(-1) == logits["cpu"].argmax(-1)).all())
        verdict = "ok" if error <= PARITY_TOLERANCE and same else "FAILED"
        yield f"| {name} | {error:.1e} | {same} | {rough:.1e} | {verdict} |"


def example_pages(mode: ModeName, tokenizer: Path, count: int) -> list[PageInputs]:
    """`count` page inputs: the first pages of the examples, again and again."""
    settings = Settings(mode=mode)
    prompter, text = Prompter(tokenizer), prompt_text("markdown", None, None)
    pages = []
    with Cage(render_settings(settings), transform_arg=MODES[mode]) as cage:
        for path in sorted(EXAMPLES.glob("*.pdf")):
            cage.submit(RenderTask(SourceFile(path, EXAMPLES, path.name), (0,)))
        while cage.pending:
            for page in cage.poll(60, limit=8):
                assert isinstance(page, RenderedPage) and page.views is not None, page
                pages.append(page)
    inputs = []
    for number in range(count):
        views = pages[number % len(pages)].views
        assert views is not None
        inputs.append(prompter.inputs(PageRef(Path("page"), number), views, MODES[mode], text))
    return inputs


def speed(model: DeepseekOCR, tokenizer: Path, *, mode: ModeName, batch: int, tokens: int) -> str:
    """A row of the speed table: `batch` pages, `tokens` each."""

    def pick(logits: torch.Tensor, **_: Any) -> Picks:
        ids = torch.multinomial(logits.softmax(-1), 1)[:, 0]
        return Picks(ids.tolist(), [0.0] * len(ids))

    runner_module.pick = pick
    config = EngineConfig(
        model_dir=None, batch_size=batch, max_tokens=tokens, no_repeat_ngram=0, loop_stop=False
    )
    detokenizer = Detokenizer(tokenizer)
    engine = ModelEngine(config, Runner(model, detokenizer, config), detokenizer)
    pages = example_pages(mode, tokenizer, batch)
    if model.image_newline.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    start = time.monotonic()
    for page in pages:
        engine.add(page)
    done: list[Any] = []
    while engine.pending:
        done += engine.step()
    wall = time.monotonic() - start
    seconds = {s: sum(page.seconds[s] for page in done) for s in ("vision", "prefill", "decode")}
    written = sum(len(page.token_ids) for page in done)
    peak = torch.cuda.max_memory_allocated() / 1e9 if model.image_newline.is_cuda else float("nan")
    return (
        f"| {mode} | {batch} | {len(pages[0].input_ids)} | {1000 * seconds['vision'] / batch:.1f} "
        f"| {1000 * seconds['prefill'] / batch:.1f} "
        f"| {(written - batch) / max(seconds['decode'], 1e-9):.0f} "
        f"| {batch / wall:.2f} | {peak:.1f} |"
    )


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true", help="toy dimensions")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 128])
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)
    rows = list(parity(device))
    config = toy_config() if options.toy else full_config()
    model = random_model(config, device, torch.bfloat16)
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder), config["vocab_size"])
        tokenizer = Path(folder) / "tokenizer.json"
        modes: tuple[ModeName, ...] = ("base", "gundam")
        table = []
        for mode in modes:
            for batch in options.batches:
                table.append(speed(model, tokenizer, mode=mode, batch=batch, tokens=options.tokens))
                print(table[-1], file=sys.stderr, flush=True)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, {'toy' if options.toy else 'full'} size, bf16\n")
    print("| mode | fp32: max difference / rms | same greedy tokens | bf16: rms / rms | |")
    print("|---|---|---|---|---|", *rows, sep="\n")
    print("\n| mode | pages | prompt | vision ms | prefill ms | decode tokens/s | pages/s | GB |")
    print("|---|---|---|---|---|---|---|---|", *table, sep="\n")
    return 1 if any("FAILED" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
