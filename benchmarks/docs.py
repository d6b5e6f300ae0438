"""Where the benchmarks write their tables and figures."""

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def write_tables(name, text):
    """Put a text between the comments `<!-- name -->` and `<!-- /name -->` of docs/performance.md."""
    page = DOCS / "performance.md"
    before, after = re.split(rf"(?<=<!-- {name} -->\n).*(?=<!-- /{name} -->)", page.read_text(), flags=re.DOTALL)
    page.write_text(f"{before}{text}\n{after}")
