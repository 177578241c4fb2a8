"""Draw the picture of the README: the summary that the quickstart prints, as an SVG.

Run as `python benchmarks/picture.py`. It runs `pytest examples/quickstart` with colours, which takes a good minute
on two processor cores, and writes `docs/summary.svg`. `python benchmarks/picture.py run.txt` draws what an earlier run
has printed (`pytest --color=yes examples/quickstart > run.txt`).
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

ROOT: Final = Path(__file__).parents[1]
PICTURE: Final = ROOT / "docs" / "summary.svg"
COLUMNS: Final = 80
COMMAND: Final = "pytest examples/quickstart"
HEADING: Final = " ftguard summary "
SPACE: Final = "&#160;"
CHARACTER: Final = 12.2
"""Width of a character in the SVG."""
INDENTED: Final = re.compile(r'x="([\d.]+)"( y="[\d.]+" )textLength="([\d.]+)"( [^>]*>)((?:&#160;)+)(?!<)')


def run_quickstart() -> str:
    """Return what the quickstart prints, with the codes of its colours; nothing is taken from an earlier run."""
    with tempfile.TemporaryDirectory() as store:
        environment = {**os.environ, "COLUMNS": str(COLUMNS), "FTGUARD_CACHE_DIR": store}
        command = [sys.executable, "-m", *COMMAND.split(), "--color=yes", "-p", "no:cacheprovider"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"the quickstart failed, so there is nothing to show:\n{done.stdout}{done.stderr}")
    return done.stdout


def summary_of(output: str) -> Text:
    """Return the summary, from its heading to the end.

    Args:
        output: What pytest printed, with the codes of its colours.
    """
    lines = [Text.from_ansi(line) for line in output.splitlines()]
    start = next((number for number, line in enumerate(lines) if HEADING in line.plain), None)
    if start is None:
        sys.exit("there is no ftguard summary in what pytest printed")
    end = next((number for number in range(start + 1, len(lines)) if lines[number].plain.startswith("===")), len(lines))
    return Text("\n").join(lines[start:end])


def draw(text: Text) -> str:
    """Return the SVG of a terminal that shows a text."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(text, highlight=False, soft_wrap=True)
    # A fixed name of its classes: the same text gives the same file.
    return INDENTED.sub(_shifted, console.export_svg(title=COMMAND, unique_id="ftguard"))


def _shifted(match: re.Match[str]) -> str:
    """Return an indented text that begins further to the right instead: some viewers drop spaces at the beginning."""
    shift = CHARACTER * match[5].count(SPACE)
    x, length = float(match[1]) + shift, float(match[3]) - shift
    return f'x="{x:g}"{match[2]}textLength="{length:g}"{match[4]}'


def main() -> None:
    """Draw the picture of a new run, or of the file that the command line names."""
    output = Path(sys.argv[1]).read_text(encoding="utf-8") if len(sys.argv) > 1 else run_quickstart()
    PICTURE.write_text(draw(summary_of(output)), encoding="utf-8")
    print(f"{PICTURE} was written")


if __name__ == "__main__":
    main()
