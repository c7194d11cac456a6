"""The full-size network on real pages: docr's engine and transformers' UnlimitedOcr, same weights.

    python scripts/make_random_checkpoint.py full-random --preset full
    python -m scripts.bench_full --model full-random PAGE.pdf PAGE.pdf … --modes base gundam

Each engine runs in a process of its own (so that peaks are its own), on the same rendered pages,
all of them in one batch, and writes a fixed number of tokens. Tokens are sampled at temperature 1:
on random weights greedy decoding falls into loops, all rows route alike, and fewer experts are
read than with real text; the experts touched a step are printed.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from docr.engine.config import EngineConfig
from docr.modes.mode import MODES
from docr.modes.prompt import Prompter, prompt_text
from docr.pdf.cage import Cage, RenderedPage, RenderTask
from docr.settings import Settings
from docr.types import PageInputs, SourceFile


def read_pages(options: argparse.Namespace) -> tuple[list[PageInputs], float]:
    """The first page of each file, as the model is shown it, and the seconds that took."""
    from docr.pipeline import mode_of, render_settings

    settings = Settings(mode=options.mode)
    prompter = Prompter(options.model / "tokenizer.json")
    inputs = []
    start = time.monotonic()
    with Cage(render_settings(settings), transform_arg=mode_of(settings)) as cage:
        for path in map(Path.absolute, options.pages):
            cage.submit(RenderTask(SourceFile(path, path.parent, path.name), (0,)))
        while cage.pending:
            for page in cage.poll(60, limit=8):
                assert isinstance(page, RenderedPage) and page.views is not None, page
                text = prompt_text("markdown", None, None)
                inputs.append(
                    prompter.inputs(page.image.ref, page.views, MODES[options.mode], text)
                )
    return inputs, time.monotonic() - start


def sample(logits: torch.Tensor) -> torch.Tensor:
    """Ids drawn at temperature 1."""
    return torch.multinomial(logits.float().softmax(-1), 1)[:, 0]


def run_docr(options: argparse.Namespace) -> dict[str, Any]:
    import docr.engine.runner as runner
    from docr.engine.engine import create_engine
    from docr.engine.model.decoder import MoE
    from docr.engine.sampling import Picks

    def pick(logits: torch.Tensor, *, undecodable: torch.Tensor, banned: Any) -> Picks:
        ids = sample(logits)
        return Picks(ids.tolist(), [0.0] * len(ids))

    touched: list[int] = []
    route = MoE.route

    def counting(self: MoE, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights, experts = route(self, x)
        if len(x) == len(options.pages):  # a decoding step
            touched.append(int(experts.unique().numel()))
        return weights, experts

    runner.pick, MoE.route = pick, counting  # type: ignore[method-assign]
    inputs, rendering = read_pages(options)
    start = time.monotonic()
    engine = create_engine(
        EngineConfig(
            model_dir=options.model,
            device=options.device,
            dtype="bfloat16",
            batch_size=len(inputs),
            max_tokens=options.tokens,
            no_repeat_ngram=0,
            loop_stop=False,
        )
    )
    loading = time.monotonic() - start
    for page in inputs:
        engine.add(page)
    start = time.monotonic()
    done = []
    while engine.pending:
        done += engine.step()
    wall = time.monotonic() - start
    seconds = {
        stage: sum(page.seconds[stage] for page in done)
        for stage in ("vision", "prefill", "decode")
    }
    written = sum(len(page.token_ids) for page in done)
    return {
        "prompt": len(inputs[0].input_ids),
        "render": rendering,
        "load": loading,
        "wall": wall,
        **seconds,
        "vision+prefill": seconds["vision"] + seconds["prefill"],
        "tokens": written,
        "experts": sum(touched) / len(touched),
    }


def run_transformers(options: argparse.Namespace) -> dict[str, Any]:
    from transformers import StoppingCriteria, UnlimitedOcrForConditionalGeneration

    from tests.parity.oracle import reference_config

    inputs, rendering = read_pages(options)
    length = len(inputs[0].input_ids)
    assert all(len(page.input_ids) == length for page in inputs), "pages of one grid, please"
    config = json.loads((options.model / "config.json").read_text())
    start = time.monotonic()
    reference = reference_config(config)
    reference.image_token_id = int(inputs[0].input_ids[inputs[0].image_mask][0])
    model = UnlimitedOcrForConditionalGeneration.from_pretrained(
        options.model, config=reference, dtype=torch.bfloat16, experts_implementation="grouped_mm"
    )
    model = model.to(options.device).eval()
    loading = time.monotonic() - start

    def pixels(views: Any) -> torch.Tensor:
        wide = torch.from_numpy(views).float()
        return ((wide / 255 - 0.5) / 0.5).to(torch.bfloat16).to(options.device)

    arguments: dict[str, Any] = {
        "input_ids": torch.from_numpy(np.stack([page.input_ids for page in inputs])),
        "pixel_values": pixels(np.stack([page.views.global_view for page in inputs])),
    }
    arguments["input_ids"] = arguments["input_ids"].to(options.device)
    arguments["attention_mask"] = torch.ones_like(arguments["input_ids"])
    if inputs[0].views.grid != (1, 1):
        arguments["pixel_values_local"] = pixels(
            np.concatenate([page.views.tiles for page in inputs])
        )
        arguments["num_local_patches"] = [len(page.views.tiles) for page in inputs]
        arguments["patches_grid"] = [list(page.views.grid) for page in inputs]

    times: list[float] = []

    class Clock(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **rest: Any) -> torch.Tensor:
            times.append(time.monotonic())
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    start = time.monotonic()
    written = model.generate(
        **arguments,
        max_new_tokens=options.tokens,
        min_new_tokens=options.tokens,
        do_sample=True,
        top_k=0,
        top_p=1.0,
        temperature=1.0,
        stopping_criteria=[Clock()],
        pad_token_id=2,
    )
    wall = time.monotonic() - start
    return {
        "prompt": length,
        "render": rendering,
        "load": loading,
        "wall": wall,
        "vision+prefill": times[0] - start,
        "decode": times[-1] - times[0],
        "tokens": (written.shape[1] - length) * len(inputs),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--modes", nargs="+", default=["base", "gundam"])
    parser.add_argument("--engines", nargs="+", default=["docr", "transformers"])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--mode", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        torch.manual_seed(0)
        result = {"docr": run_docr, "transformers": run_transformers}[options.worker](options)
        result["peak_rss_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        print(json.dumps(result))
        return 0

    print(f"{len(options.pages)} pages in one batch, {options.tokens} tokens each, bfloat16")
    print(
        "| mode | engine | prompt | load s | vision s | prefill s | vision+prefill s | decode s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for mode in options.modes:
        for name in options.engines:
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "scripts.bench_full",
                    *sys.argv[1:],
                    "--worker",
                    name,
                    "--mode",
                    mode,
                ],
                stdout=subprocess.PIPE,
                check=True,
            )
            row = json.loads(done.stdout.splitlines()[-1])
            rows.append((mode, name, row))
            cells = [
                f"{row[key]:.1f}" if key in row else "-" for key in ("load", "vision", "prefill")
            ]
            cells += [f"{row['vision+prefill']:.1f}", f"{row['decode']:.1f}"]
            print(f"| {mode} | {name} | {row['prompt']} | {' | '.join(cells)} |", flush=True)
    print("\n| mode | engine | tokens | decode tokens/s | wall s | peak RSS GB | experts a layer |")
    print("|---|---|---|---|---|---|---|")
    for mode, name, row in rows:
        rate = (row["tokens"] - len(options.pages)) / row["decode"]  # the first is prefill's
        experts = f"{row['experts']:.1f}" if "experts" in row else "-"
        print(
            f"| {mode} | {name} | {row['tokens']} | {rate:.1f} | {row['wall']:.1f} "
            f"| {row['peak_rss_gb']:.2f} | {experts} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
