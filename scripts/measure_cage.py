"""What the cage costs: wall time to render a folder's PDFs in it, and without it.

    taskset -c 0 python -m scripts.measure_cage GOOD_PDFS [--pages 50] [--repeats 3]

Only for PDFs that are known to be good: without the cage nothing bounds what they do. On one core
(taskset), since rendering beside the parent is no merit of the cage's. Both ways open each file,
render its first --pages pages as `docr convert` does and cut them into the views of --mode; they
take turns, and the least time of each counts.
"""

import argparse
import json
import time
from pathlib import Path

from docr.modes.mode import MODES
from docr.modes.prepare import prepare_views
from docr.pdf.cage import RenderTask
from docr.pdf.render import PdfDocument, is_blank
from docr.pipeline import CHUNK_PAGES
from docr.rendering import open_cage, render_settings
from docr.settings import Settings
from docr.types import PageRef, SourceFile


def bare(paths: list[Path], settings: Settings, most: int) -> int:
    mode = MODES[settings.mode or "gundam"]
    pages = 0
    for path in paths:
        document = PdfDocument(path.read_bytes(), render_settings(settings))
        for index in range(min(most, document.page_count)):
            image = document.render(PageRef(path, index))
            if not is_blank(image):
                prepare_views(image.pixels, mode)
            pages += 1
    return pages


def caged(paths: list[Path], settings: Settings, most: int) -> int:
    pages = 0
    with open_cage(settings, workers=1) as cage:
        for path in paths:
            source = SourceFile(path, path.parent, path.name)
            count = min(most, cage.inspect(source).page_count)
            for start in range(0, count, CHUNK_PAGES):
                cage.submit(
                    RenderTask(source, tuple(range(start, min(start + CHUNK_PAGES, count))))
                )
        while cage.pending:
            pages += len(cage.poll(1.0, limit=4))
    return pages


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mode", default="gundam")
    parser.add_argument("--pages", type=int, default=50, help="of each file")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    paths = sorted(given.folder.glob("*.pdf"))
    settings = Settings(mode=given.mode, task="markdown")
    seconds: dict[str, list[float]] = {"bare": [], "caged": []}
    pages = {}
    for _ in range(given.repeats):
        for name, way in (("bare", bare), ("caged", caged)):
            begin = time.perf_counter()
            pages[name] = way(paths, settings, given.pages)
            seconds[name].append(round(time.perf_counter() - begin, 2))
    least = {name: min(times) for name, times in seconds.items()}
    report = {"files": len(paths), "pages": pages, "seconds": seconds}
    report["overhead"] = round(least["caged"] / least["bare"] - 1, 3)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
