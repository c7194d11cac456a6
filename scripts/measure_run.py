"""Run a docr command and watch it: wall time, pages over time, memory and computing.

    python scripts/measure_run.py --json report.json -- docr convert PDFS -o OUT --jsonl

The command must print one line a page (--jsonl). Memory is sampled once a second: the resident
set of the main process, of the fork server and of rendering children apart, and the slope of each
over pages from --from-page to the end, in MB per 1,000 pages. Computing (user and system) is that
of the main process alone, as a slope over the same pages, and of all processes, start included.
"""

import argparse
import json
import resource
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import psutil


def role(process: psutil.Process, root: int) -> str:
    """What a process is for, by its command line and its place in the family."""
    if process.pid == root:
        return "main"
    words = " ".join(process.cmdline())
    if "docr.distributed.rank" in words:
        return "rank"
    parent = process.parent()
    if "docr.pdf.forkserver" in words:
        above = " ".join(parent.cmdline()) if parent else ""
        return "render child" if "docr.pdf.forkserver" in above else "fork server"
    return "other"


def slope(points: list[tuple[int, float]]) -> float | None:
    """Least squares: what is on the y axis, per 1,000 pages."""
    if len(points) < 3 or points[0][0] == points[-1][0]:
        return None
    n = len(points)
    mean_x = sum(x for x, _ in points) / n
    mean_y = sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return 1000 * sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the samples and the summary here")
    parser.add_argument("--from-page", type=int, default=200, help="where slopes begin")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    command = [word for word in options.command if word != "--"]

    pages = 0
    states: dict[str, int] = defaultdict(int)
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout

    def count() -> None:
        nonlocal pages
        for line in output:
            pages += 1
            states[json.loads(line)["state"]] += 1

    counter = threading.Thread(target=count)
    counter.start()
    samples: dict[str, list[tuple[int, float]]] = defaultdict(list)
    computed: list[tuple[int, float]] = []  # pages, seconds
    peak: dict[str, float] = defaultdict(float)
    first_page = None
    while process.poll() is None:
        at = pages
        if at and first_page is None:
            first_page = time.monotonic() - begin
        largest: dict[str, float] = {}
        try:
            top = psutil.Process(process.pid)
            times = top.cpu_times()
            computed.append((at, times.user + times.system))
            for each in [top, *top.children(recursive=True)]:
                try:
                    name, rss = role(each, process.pid), each.memory_info().rss / 1e6
                except psutil.Error:
                    continue
                largest[name] = max(largest.get(name, 0.0), rss)
        except psutil.Error:
            break
        for name, rss in largest.items():
            samples[name].append((at, rss))
            peak[name] = max(peak[name], rss)
        time.sleep(1.0)
    counter.join()
    seconds = time.monotonic() - begin

    def change(points: list[tuple[int, float]]) -> float | None:
        return slope([point for point in points if point[0] >= options.from_page])

    slopes = {name: change(points) for name, points in samples.items()}
    family = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_ms = {  # a page
        "main": change(computed),
        "all": 1000 * (family.ru_utime + family.ru_stime) / max(1, pages),
    }
    print(f"exit {process.returncode}, {seconds:.1f} s, {pages} pages: {dict(states)}")
    print(f"first page after about {first_page or seconds:.1f} s; {pages / seconds:.2f} pages/s")
    main_ms = "-" if cpu_ms["main"] is None else f"{cpu_ms['main']:.2f}"
    print(f"computing a page: main process {main_ms} ms, all processes {cpu_ms['all']:.1f} ms")
    print("| process | peak RSS, MB | MB per 1,000 pages |\n|---|---|---|")
    for name in sorted(peak):
        rise = slopes[name]
        shown = "-" if rise is None else f"{rise:+.1f}"
        print(f"| {name} | {peak[name]:.0f} | {shown} |")
    if options.json:
        report = {
            "seconds": seconds,
            "pages": pages,
            "peak_mb": peak,
            "slopes": slopes,
            "cpu_ms": cpu_ms,
        }
        options.json.write_text(json.dumps(report | {"samples": samples}))
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
