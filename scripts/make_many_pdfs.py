"""Write very many small PDFs of one page each, for tests of memory and of long walks.

    python scripts/make_many_pdfs.py FOLDER --files 100000

A thousand to a folder; each page says its number. The same arguments give the same bytes.
"""

import argparse
from pathlib import Path

FILES_A_FOLDER = 1000


def one_page(number: int) -> bytes:
    """A PDF whose only page says its number."""
    text = b"BT /F1 24 Tf 20 150 Td (Document %d) Tj ET" % number
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count 1/Kids[3 0 R]>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 240 200]/Contents 4 0 R"
        b"/Resources<</Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(text), text),
    ]
    body, offsets = b"%PDF-1.7\n", []
    for index, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (index, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    return (
        body
        + b"xref\n0 %d\n0000000000 65535 f \n%s" % (size, table)
        + b"trailer\n<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (size, len(body))
    )


def make_many_pdfs(folder: Path, *, files: int) -> None:
    """Write `files` PDFs into folders 000, 001, ... of a folder."""
    for number in range(files):
        where = folder / f"{number // FILES_A_FOLDER:03d}"
        if number % FILES_A_FOLDER == 0:
            where.mkdir(parents=True, exist_ok=True)
        (where / f"{number:06d}.pdf").write_bytes(one_page(number))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write the PDFs")
    parser.add_argument("--files", type=int, default=100_000, help="how many (default: 100000)")
    arguments = parser.parse_args()
    make_many_pdfs(arguments.folder, files=arguments.files)


if __name__ == "__main__":
    main()
