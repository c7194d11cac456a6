"""Keep README's help texts what the program prints.

    python scripts/readme_help.py             rewrite README.md
    python scripts/readme_help.py --check     exit 1 where it is not up to date

A block of README is the program's where this stands above it (no words: the program itself):

    <!-- help:convert -->
    ```text
    ```
"""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"

# Fixed, so that the text does not depend on whose terminal printed it.
COLUMNS = 100
# As `python -m docr`, but called by its name.
PROGRAM = "import sys; from docr.cli.main import run; sys.argv[0] = 'docr'; run()"
BLOCK = re.compile(
    r"(<!-- help:(?P<command>[a-z ]*) -->\n```text\n)(?P<text>.*?)(```\n)", re.DOTALL
)


def help_text(command: str) -> str:
    """What `docr COMMAND --help` prints, without blanks at the ends of its lines."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DOCR_")}
    environ |= {"COLUMNS": str(COLUMNS), "TERM": "dumb", "NO_COLOR": "1", "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command.split(), "--help"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    return "\n".join(line.rstrip() for line in done.stdout.splitlines()).strip("\n") + "\n"


def updated(readme: str) -> str:
    """README's text with all of its help blocks as the program prints them now."""
    return BLOCK.sub(lambda block: block[1] + help_text(block["command"]) + block[4], readme)


def main() -> None:
    old = README.read_text(encoding="utf-8")
    new = updated(old)
    if "--check" in sys.argv[1:]:
        sys.exit("README.md: run scripts/readme_help.py" if new != old else 0)
    README.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
