"""`docr bench`: how fast this machine is, against its own limits and against other engines."""

import dataclasses
import importlib.util
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from docr.cli.messages import emit, say
from docr.errors import ModelError, UsageError
from docr.settings import ModeName

if TYPE_CHECKING:
    from docr.bench.spec import BenchResult, BenchSpec

PEERS = {"transformers": "transformers", "vllm": "vllm", "llama.cpp": "llama_cpp"}
"""Engines to compare with, and the packages they come in."""


def bench(
    paths: Annotated[list[Path], typer.Argument(metavar="PDF...", help="Pages to read.")],
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A checkpoint [random weights of the released size, made in memory].",
            show_default=False,
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Its tokenizer.json [the model's, or mini's].", show_default=False
        ),
    ] = None,
    pages: Annotated[int, typer.Option(metavar="N", min=1, help="How many pages.")] = 8,
    tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens written a page.")] = 128,
    spread: Annotated[
        bool, typer.Option("--spread", help="Lengths of a lognormal distribution with that mean.")
    ] = False,
    given: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            min=0.0,
            max=1.0,
            help="Write the pages' own text layers, with this share of characters changed, "
            "instead of sampled tokens; with and without drafts.",
            show_default=False,
        ),
    ] = None,
    mode: Annotated[
        str, typer.Option(metavar="|".join(get_args(ModeName)), help="How a page is seen.")
    ] = "base",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Most pages at once [as memory allows].", show_default=False
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="CPU threads [all].", show_default=False),
    ] = None,
    quantize: Annotated[
        str | None,
        typer.Option(metavar="int8", help="Also with weights so quantised.", show_default=False),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(metavar="|".join(PEERS), help="Compare with it; may be repeated."),
    ] = None,
    repeats: Annotated[
        int, typer.Option(metavar="N", min=1, help="Rounds; engines take turns, medians count.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure speed: pages and tokens a second, and the share of what the machine allows.

    Every page is read from its file and its record is written. Tokens are sampled at temperature
    1, so that random weights do not run in circles and touch as many experts as text would.
    """
    from docr.bench.spec import BenchSpec
    from docr.models.catalogue import DEFAULT_MODEL
    from docr.models.files import resolve

    if mode not in get_args(ModeName):
        raise UsageError(f"--mode is one of {', '.join(get_args(ModeName))}; not {mode!r}")
    for name in peer or ():
        if name not in PEERS:
            raise UsageError(f"--peer is one of {', '.join(PEERS)}; not {name!r}")
    if quantize not in (None, "int8"):
        raise UsageError(f"--quantize is int8; not {quantize!r}")
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UsageError(f"{missing[0]}: no such file")
    if tokenizer is None:
        folder = model or resolve(DEFAULT_MODEL, None).directory
        tokenizer = folder / "tokenizer.json"
    spec = BenchSpec(
        files=tuple(path.resolve() for path in paths),
        pages=pages,
        model=model,
        tokenizer=tokenizer,
        mode=mode,  # type: ignore[arg-type]  # checked above
        tokens=tokens,
        lengths="spread" if spread else "fixed",
        changed=given,
        device=device,
        batch_size=batch_size,
        threads=threads,
    )
    runs = {"docr": ("docr", spec)}
    if given is not None:
        runs["docr with drafts"] = ("docr", dataclasses.replace(spec, drafts=True))
    if quantize is not None:
        runs[f"docr {quantize}"] = ("docr", dataclasses.replace(spec, quantize="int8"))
    absent: dict[str, str] = {}
    for name in peer or ():
        if name != "transformers":
            absent[name] = "not measured: docr has no way to run it here"
        elif importlib.util.find_spec(PEERS[name]) is None:
            absent[name] = "not measured: not installed"
        elif model is None:
            absent[name] = "not measured: it needs --model DIR"
        else:
            runs[name] = (name, spec)
    results: dict[str, list[BenchResult]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, (engine, its_spec) in runs.items():
            say(f"measuring {name} ...")
            results[name].append(measure(engine, its_spec))
    if as_json:
        rows = {name: [dataclasses.asdict(r) for r in found] for name, found in results.items()}
        emit(json.dumps({"runs": rows, "absent": absent}, indent=1) + "\n")
    else:
        emit(table(results, absent))


def measure(engine: str, spec: "BenchSpec") -> "BenchResult":
    """One measurement, in a child process."""
    from docr.bench.spec import BenchResult
    from docr.distributed.accelerate import rank_environment

    done = subprocess.run(
        [sys.executable, "-m", "docr.bench.worker", engine],
        # As docr's own ranks; the others, as their users start them.
        env=rank_environment(os.environ, number=0, device="cpu") if engine == "docr" else None,
        input=pickle.dumps(spec),
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode != 0:
        raise ModelError(f"{engine}: the measurement failed, see above")
    values: dict[str, Any] = pickle.loads(done.stdout)  # from our own child
    return BenchResult(**values)


def middle(found: "list[BenchResult]") -> "BenchResult":
    """The run of median duration."""
    return sorted(found, key=lambda result: result.seconds)[(len(found) - 1) // 2]


def stage_seconds(result: "BenchResult") -> dict[str, float]:
    """Seconds of vision with prefill, and of decoding."""
    stages = result.stages
    both = stages.get("vision+prefill", stages.get("vision", 0.0) + stages.get("prefill", 0.0))
    return {"vision+prefill": both, "decode": stages.get("decode", 0.0)}


def table(results: "dict[str, list[BenchResult]]", absent: dict[str, str]) -> str:
    """A Markdown table, and what is to be known about it."""
    ours = middle(results["docr"])
    rows = [
        "| engine | pages/s | vision+prefill s/page | of bound | decode tokens/s | of bound "
        "| s in all | spread | load s | GB | docr is faster |",
        "|" + "---|" * 11,
    ]
    for name, found in results.items():
        result = middle(found)
        seconds = stage_seconds(result)
        cells = [name, f"{result.pages / result.seconds:.3f}"]
        cells.append(f"{seconds['vision+prefill'] / result.pages:.2f}")
        cells.append(_share(result, seconds, "vision+prefill"))
        written = result.tokens - result.pages  # the first of each page is prefill's
        cells.append(f"{written / seconds['decode']:.1f}" if seconds["decode"] else "-")
        cells.append(_share(result, seconds, "decode"))
        lengths = [each.seconds for each in found]
        cells.append(f"{result.seconds:.1f}")
        cells.append(f"{min(lengths):.1f}-{max(lengths):.1f}" if len(found) > 1 else "-")
        cells += [f"{result.load_seconds:.1f}", f"{result.peak_bytes / 1e9:.1f}"]
        cells.append("1" if result is ours else f"{result.seconds / ours.seconds:.2f} times")
        rows.append("| " + " | ".join(cells) + " |")
    rows += [f"| {name} | {why} |" + " |" * 9 for name, why in absent.items()]
    notes = [
        f"\n{ours.pages} pages, {ours.tokens / ours.pages:.0f} tokens each after a prompt of "
        f"{ours.prompt_tokens:.0f}; {ours.steps} steps of decoding, {ours.experts:.1f} experts a "
        f"layer and step; this machine reads {ours.rates['read'] / 1e9:.0f} GB/s and computes "
        f"{ours.rates['matrix'] / 1e9:.0f} GFLOP/s in bf16.",
    ]
    if "docr with drafts" in results:
        drafted = middle(results["docr with drafts"])
        same = "the same" if drafted.digest == ours.digest else "NOT THE SAME"
        share = drafted.accepted / max(1, drafted.drafted)
        notes.append(
            f"With drafts the text is {same}; {drafted.drafted} tokens guessed, {share:.0%} of "
            f"them right; {drafted.steps} steps instead of {ours.steps}."
        )
    return "\n".join([*rows, *notes]) + "\n"


def _share(result: "BenchResult", seconds: dict[str, float], stage: str) -> str:
    if stage not in result.bound_seconds or not seconds[stage]:
        return "-"
    return f"{result.bound_seconds[stage] / seconds[stage]:.0%}"
