"""One call on a GPU machine: its tests, parity with the CPU, and the speed of the whole chain.

    python -m scripts.gpu_check                      # on cuda, full size, under ten minutes
    python -m scripts.gpu_check --device cpu --toy   # the same code, anywhere

Tests: those marked `gpu`, where pytest is installed; a failure does not keep the rest from running.
Parity: the toy checkpoint in fp32 on both devices, all modes: the largest difference of logits
over their root mean square, and whether greedy decoding agrees; then bf16 against fp32. Speed:
`docr bench` on the pages under examples/, with random weights of the full size made on the device
and tokens drawn at temperature 1. Then the kernels beside their twins in PyTorch
(`scripts/kernel_speed.py`), and docr beside transformers, where it is installed: the same
checkpoint of random weights, pages and lengths, in turns. Markdown tables come at the end; each
also goes to standard error as soon as it is there, for calls that run out of time.
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from docr.bench.spec import BenchResult, BenchSpec
from docr.cli.bench import measure, table
from docr.engine.kernels import HAS_TRITON
from docr.engine.model.load import load_model
from docr.models.files import resolve
from docr.settings import ModeName
from scripts.make_random_checkpoint import full_config, toy_config, write_checkpoint

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PARITY_TOLERANCE = 2e-4
VIEWS = {"tiny": 512, "small": 640, "base": 1024, "large": 1280}


def run_tests() -> str:
    """What the tests that need a GPU say in the end."""
    if importlib.util.find_spec("pytest") is None:
        return "GPU tests: not run, pytest is not installed"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/unit/test_gpu.py"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, file=sys.stderr, flush=True)
    lines = done.stdout.strip().splitlines() or [""]
    return f"GPU tests: {lines[-1]} (exit {done.returncode})"


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


def kernel_table() -> list[str]:
    """The lines of the kernels' table, or why there are none."""
    if not HAS_TRITON:
        return ["Kernels: not measured, Triton is not installed"]
    from scripts.kernel_speed import FULL, table

    return table("cuda", FULL)


def speed(device: str, toy: Path | None, *, mode: ModeName, batch: int, tokens: int) -> str:
    """A table of `docr bench`: one batch of pages and half a batch that comes in as they end."""
    tokenizer = (toy or resolve("mini", None).directory) / "tokenizer.json"
    spec = BenchSpec(
        files=tuple(sorted(EXAMPLES.glob("*.pdf"))),
        pages=batch + batch // 2,
        model=toy,
        tokenizer=tokenizer,
        mode=mode,
        tokens=tokens,
        lengths="spread",
        device=device,
        batch_size=batch,
    )
    return f"{mode}, {batch} pages at once\n\n{table({'docr': [measure('docr', spec)]}, {})}"


def beside_peers(
    device: str, folder: Path, *, mode: ModeName, batch: int, tokens: int, repeats: int
) -> str:
    """A table of docr and transformers on one checkpoint; pages of one grid, as transformers needs.

    Args:
        folder: the checkpoint's.
    """
    spec = BenchSpec(
        files=(EXAMPLES / "article.pdf",),
        pages=batch,
        model=folder,
        tokenizer=folder / "tokenizer.json",
        mode=mode,
        tokens=tokens,
        device=device,
        batch_size=batch,
    )
    results: dict[str, list[BenchResult]] = {"docr": [], "transformers": []}
    for _ in range(repeats):
        for name, found in results.items():
            found.append(measure(name, spec))
    return f"{mode}, {batch} pages at once, the same checkpoint\n\n{table(results, {})}"


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true", help="toy dimensions")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64, 256])
    parser.add_argument("--peer-batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=1, help="turns with the peer")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)
    tests = run_tests()
    rows = list(parity(device))
    kernels = [] if device.type == "cpu" else kernel_table()
    print(*kernels, sep="\n", file=sys.stderr, flush=True)
    modes: tuple[ModeName, ...] = ("base", "gundam")
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        toy = Path(folder) if options.toy else None
        if toy is not None:
            write_checkpoint(toy, toy_config())
        for mode in modes:
            for batch in options.batches:
                found = speed(options.device, toy, mode=mode, batch=batch, tokens=options.tokens)
                print(found, file=sys.stderr, flush=True)
                tables.append(found)
        if importlib.util.find_spec("transformers") is None:
            tables.append("transformers: not measured, it is not installed")
            modes = ()
        checkpoint = Path(folder) / "checkpoint"
        if modes:
            write_checkpoint(checkpoint, toy_config() if options.toy else full_config())
        for mode in modes:
            found = beside_peers(
                options.device,
                checkpoint,
                mode=mode,
                batch=options.peer_batch,
                tokens=options.tokens,
                repeats=options.repeats,
            )
            print(found, file=sys.stderr, flush=True)
            tables.append(found)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, {'toy' if options.toy else 'full'} size, bf16\n")
    print(f"{tests}\n")
    print("| mode | fp32: max difference / rms | same greedy tokens | bf16: rms / rms | |")
    print("|---|---|---|---|---|", *rows, "", *kernels, "", *tables, sep="\n")
    return 1 if any("FAILED" in row for row in [*rows, tests.upper()]) else 0


if __name__ == "__main__":
    sys.exit(main())
