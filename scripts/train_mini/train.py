"""Train docr-mini, in legs that can be stopped, killed and continued anywhere.

    python -m scripts.train_mini.train decoder --minutes 30 --legs .train/decoder
    python -m scripts.train_mini.train encoder --minutes 30 --legs .train/encoder
    python -m scripts.train_mini.train whole --minutes 30 --legs .train/whole \
        --start .train/decoder .train/encoder

Several processes or GPUs: `accelerate launch -m scripts.train_mini.train ...`. A leg ends after
its minutes and leaves weights in --legs (parts of at most 14 MiB), as it does every two minutes
on the way; the next leg with the same --legs goes on from there after a short warm-up.
"""

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from scripts.train_mini.attention import plain_attention
from scripts.train_mini.greedy import error_rate
from scripts.train_mini.recipe import RECIPE, StageRecipe, load_recipe
from scripts.train_mini.stream import Batch, batches
from scripts.train_mini.trainee import Trainee
from scripts.train_mini.weights import State, load_checkpoint, load_leg, save_leg

SAVE_SECONDS = 120
LOG_SECONDS = 30
CHECK_SECONDS = 600
WARM_UP_STEPS = 20
FLOOR = 0.03
"""Share of the rate that is left at the end of an annealed leg."""


def make_optimizers(trainee: nn.Module, stage: StageRecipe) -> list[torch.optim.Optimizer]:
    """Muon for matrices between layers; AdamW for stacked experts, embeddings, heads, norms."""
    matrices, rest = [], []
    for name, parameter in trainee.named_parameters():
        if not parameter.requires_grad:
            continue
        inner = ".layers." in name or ".blocks." in name or "projector" in name
        (matrices if parameter.ndim == 2 and inner and "rel_pos" not in name else rest).append(
            parameter
        )
    adam = torch.optim.AdamW(rest, lr=stage.adam, betas=(0.9, 0.95), weight_decay=0.02, fused=True)
    if not matrices:  # heads alone
        return [adam]
    muon = torch.optim.Muon(
        matrices, lr=stage.muon, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, adam]


def rate(step: int, progress: float, *, anneal: bool) -> float:
    """Share of the full learning rate: linear warm-up, then constant or a cosine to nearly 0."""
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    if not anneal:
        return warm
    return warm * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def matrix_rate(device: torch.device) -> float:
    """FLOP/s of a bf16 product that fits the caches, as the machine is now."""
    a = torch.randn(2048, 1024, device=device, dtype=torch.bfloat16)
    b = torch.randn(1024, 1024, device=device, dtype=torch.bfloat16)
    a @ b
    begin, count = time.monotonic(), 0
    while time.monotonic() - begin < 0.3:
        (a @ b)[0, 0].item()
        count += 1
    return count * 2 * a.numel() * b.shape[1] / (time.monotonic() - begin)


class Meter:
    """Sums what a log line shows since the last one."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start again."""
        self.sums: dict[str, float] = {}
        self.steps = self.samples = self.characters = 0
        self.since = time.monotonic()

    def add(self, batch: Batch, values: dict[str, torch.Tensor]) -> None:
        """Count a step."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self.steps += 1
        self.samples += len(batch.text)
        self.characters += batch.characters

    def line(self, flop_per_sample: float, peak: float, processes: int) -> dict[str, float]:
        """Means and speeds since the start."""
        seconds = time.monotonic() - self.since
        shown = {name: round(total / self.steps, 4) for name, total in self.sums.items()}
        pages = self.samples * processes / seconds
        shown["pages_s"] = round(pages, 2)
        shown["characters_s"] = round(self.characters * processes / seconds)
        shown["of_peak"] = round(pages * flop_per_sample / (peak * processes), 3)
        return shown


def train(arguments: argparse.Namespace) -> None:
    """Run one leg."""
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="bf16")
    if accelerator.device.type == "cpu":
        torch.set_num_threads(arguments.threads)
    recipe = load_recipe(arguments.recipe)
    stage = recipe.stages[arguments.stage]
    torch.manual_seed(arguments.seed)
    trainee = Trainee(recipe)
    for folder in arguments.start:
        if not load_checkpoint(trainee, folder) and load_leg(trainee, folder) is None:
            raise SystemExit(f"{folder}: neither weights of a leg nor a checkpoint")
    trainee.model.requires_grad_(not arguments.heads)
    state = load_leg(trainee, arguments.legs) or State(arguments.stage)
    seed = arguments.seed + 1000 * accelerator.process_index + state.samples
    stream = batches(recipe, stage, seed=seed, workers=arguments.workers, begun=state.samples)
    small = dataclasses.replace(stage, batch=arguments.check_pages)
    held_out = batches(recipe, small, seed=7, workers=0, held_out=True, begun=1 << 30)
    checks = [next(held_out)]
    trainee.code.to(accelerator.device)
    learner, *optimizers = accelerator.prepare(trainee, *make_optimizers(trainee, stage))
    full_rates = [[group["lr"] for group in o.param_groups] for o in optimizers]
    peak = matrix_rate(accelerator.device)
    flop_per_sample = 0.0
    meter, step = Meter(), 0
    begin = last_log = last_save = last_check = time.monotonic()
    learner.train()
    while True:
        now = time.monotonic()
        progress = (now - begin) / (60 * arguments.minutes)
        stop = accelerator.reduce(torch.tensor(float(progress >= 1), device=accelerator.device))
        if stop.item() or step == arguments.steps:
            break
        for optimizer, rates in zip(optimizers, full_rates, strict=True):
            for group, full in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = full * rate(step, progress, anneal=arguments.anneal)
        batch = next(stream).to(accelerator.device)
        if step == 1:
            with FlopCounterMode(display=False) as counter:
                values = optimise(accelerator, learner, optimizers, batch, arguments.stage, stage)
            flop_per_sample = counter.get_total_flops() / len(batch.text)
        else:
            values = optimise(accelerator, learner, optimizers, batch, arguments.stage, stage)
        meter.add(batch, values)
        step += 1
        state.samples += len(batch.text) * accelerator.num_processes
        if accelerator.is_main_process:
            if now - last_log >= LOG_SECONDS:
                last_log = now
                shown = meter.line(flop_per_sample, peak, accelerator.num_processes)
                meter.reset()
                report(arguments.legs, state, now - begin, shown)
            if now - last_check >= CHECK_SECONDS and arguments.stage != "encoder":
                last_check = now
                report(arguments.legs, state, now - begin, {"cer": check(trainee, checks)})
            if now - last_save >= arguments.save_seconds:
                last_save = now
                save_leg(trainee, arguments.legs, state)
    if accelerator.is_main_process:
        save_leg(trainee, arguments.legs, state)
        if arguments.stage != "encoder":
            report(arguments.legs, state, time.monotonic() - begin, {"cer": check(trainee, checks)})
    accelerator.end_training()


def optimise(
    accelerator: Accelerator,
    learner: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    batch: Batch,
    stage: str,
    settings: StageRecipe,
) -> dict[str, torch.Tensor]:
    """One step; returns losses and hit rates."""
    with accelerator.autocast(), plain_attention(accelerator.device):
        values: dict[str, torch.Tensor] = learner(batch, stage, settings)
    accelerator.backward(values["loss"])
    accelerator.clip_grad_norm_(learner.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return {name: value.detach() for name, value in values.items()}


def check(trainee: Trainee, held_out: Iterable[Batch]) -> float:
    """Character error rate of free-running greedy reading in faces never trained on."""
    trainee.eval()
    try:
        return round(error_rate(trainee, held_out), 4)
    finally:
        trainee.train()


def report(legs: Path, state: State, seconds: float, values: dict[str, float]) -> None:
    """Print a line and keep it beside the weights."""
    line = {"seconds": round(seconds), "samples": state.samples, **values}
    print(json.dumps(line), flush=True)
    legs.mkdir(parents=True, exist_ok=True)
    with (legs / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("decoder", "encoder", "joined", "whole"))
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--steps", type=int, default=-1, help="stop after so many; for trials")
    parser.add_argument("--legs", type=Path, required=True, help="where the weights are kept")
    parser.add_argument(
        "--start",
        type=Path,
        nargs="*",
        default=(),
        help="legs of other stages, or a checkpoint, to begin with",
    )
    parser.add_argument("--save-seconds", type=float, default=SAVE_SECONDS)
    parser.add_argument("--check-pages", type=int, default=12, help="read for the error rate")
    parser.add_argument("--anneal", action="store_true", help="let the rate fall to nearly 0")
    parser.add_argument(
        "--heads", action="store_true", help="only these: after --start with a checkpoint"
    )
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--workers", type=int, default=0, help="processes that make pages")
    parser.add_argument("--threads", type=int, default=1, help="of one process, on a CPU")
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
