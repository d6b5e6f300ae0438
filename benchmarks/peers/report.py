"""Tables and a figure from what was measured."""

from datetime import date
from statistics import median

from benchmarks.docs import DOCS, write_tables
from benchmarks.engine import cpu
from benchmarks.load import SHORT_PAUSE
from benchmarks.peers.cases import (
    BULK_REQUESTS,
    BULK_TEXTS,
    BULK_TOKENS,
    CASES,
    LARGE_CLIENTS,
    SHORT_TOKENS,
    TABLES,
)
from benchmarks.peers.servers import NAIVE, NAIVE_TUNED, OURS, OWN


def tables(results, packages, rounds, seconds):
    """A heading and all tables.

    Args:
        packages: versions by the server's name.
    """
    tables = [*(rates(results, cases) for cases in TABLES), beside(results), starts(results)]
    return "\n\n".join([heading(packages, rounds, seconds), *tables])


def write(text, results):
    """Put the tables into docs/performance.md, and the figure beside it."""
    write_tables("peers", text)
    draw(results)


def heading(packages, rounds, seconds):
    used = "; ".join(f"{name}: {versions}" for name, versions in packages.items() if versions)
    about = f"`make bench`: medians of {rounds} rounds of {seconds} s with wrk, in brackets the lowest and the highest"
    return f"{cpu()}, {date.today()}, {about}. {used}."


def rates(results, cases):
    """Requests a second, and how many times those of the better naive app.

    The last line compares this service with the best of the other servers.
    """
    naive = _better_naive(results)
    lines = [_row("Requests a second", cases), _row("---", ["---"] * len(cases))]
    for name, row in results.items():
        cells = [
            _cell(row, case, lambda values: f"{median(values):.3g} ({min(values):.3g} to {max(values):.3g})")
            for case in cases
        ]
        ratios = [_ratio(results, name, naive[case], case) for case in cases]
        lines.append(
            _row(name, [cell + (f", {ratio}" if ratio else "") for cell, ratio in zip(cells, ratios, strict=True)])
        )
    best = [_best(results, case, [name for name in results if not name.startswith(OWN)]) for case in cases]
    cells = [
        f"{_ratio(results, OURS, name, case)} ({name.partition(':')[0]})" if name else ""
        for name, case in zip(best, cases, strict=True)
    ]
    lines.append(_row("**float32 beside the best of the others**", cells))
    return "\n".join(lines)


def beside(results):
    loads = [f"beside {clients}" for clients in BULK_REQUESTS]
    columns = ["p50", "p95"]
    for load in loads:
        columns += [f"p50 {load}", f"p95 {load}", "answers", "texts/s of the large ones", "of these refused"]
    few, many = BULK_REQUESTS
    about = (
        f"A query of {SHORT_TOKENS} tokens every {SHORT_PAUSE} s, alone, and beside {few} or {many} clients that send"
        f" {BULK_TEXTS} texts of {BULK_TOKENS} tokens without pause, in milliseconds. Beside {many} other servers were"
        " left out, as there the query waits for all of them:"
    )
    lines = [about, "", _row("", columns), _row("---", ["---"] * len(columns))]
    for name, row in results.items():
        cells = [_cell(row, "alone", lambda values: _milliseconds(values, place)) for place in (0, 1)]  # noqa: B023
        for load in loads:
            forms = [
                lambda values: _milliseconds([value["short"] for value in values], 0),
                lambda values: _milliseconds([value["short"] for value in values], 1),
                lambda values: f"{sum(value['sent'] for value in values)}",
                lambda values: f"{median(value['rate'] for value in values):.3g}",
                lambda values: f"{sum(value['refused'] for value in values)}",
            ]
            cells += [_cell(row, load, form) for form in forms]
        lines.append(_row(name, cells))
    return "\n".join(lines)


def _milliseconds(values, place):
    milliseconds = 1000 * median(value[place] for value in values)
    return f"{milliseconds:.1f}" if milliseconds < 100 else f"{milliseconds:,.0f}"


def starts(results):
    columns = ["first vector after", "memory idle", "at most", "lowest cosine"]
    about = (
        f"Start, and memory (PSS, all processes): idle, and while {LARGE_CLIENTS} clients at once send {BULK_TEXTS}"
        f" texts of {BULK_TOKENS} tokens; and the lowest cosine to a vector of sentence-transformers:"
    )
    lines = [about, "", _row("", columns), _row("---", ["---"] * len(columns))]
    megabytes = lambda values: f"{median(values):,.0f} MB"  # noqa: E731
    forms = {
        "seconds": lambda values: f"{median(values):.1f} s",
        "idle": megabytes,
        "highest": megabytes,
        "cosine": lambda values: f"{min(values):.5f}",
    }
    for name, row in results.items():
        lines.append(_row(name, [_cell(row, what, form) for what, form in forms.items()]))
    return "\n".join(lines)


def _row(first, cells):
    return f"| {first} | {' | '.join(cells)} |"


def _void(row):
    """Why a server gets no figures, or None if it gets them."""
    if "cosine" in row["errors"]:
        return "wrong vectors"
    return "did not start" if "seconds" in row["errors"] else "errors" if row["errors"] else None


def _cell(row, what, show):
    if reason := _void(row):
        return reason
    return show(row[what]) if row.get(what) else ""


def _values(results, name, case):
    row = results.get(name, {"errors": {"seconds": ""}})
    return [] if _void(row) else row.get(case, [])


def _times(results, name, other, case):
    """How many times as many requests a second a server does as another one; None if either has no figure."""
    values, others = _values(results, name, case), _values(results, other, case)
    return median(values) / median(others) if values and others else None


def _ratio(results, name, other, case):
    times = _times(results, name, other, case)
    return "" if times is None else f"{times:.2f}x"


def _best(results, case, names):
    names = [name for name in names if _values(results, name, case)]
    return max(names, key=lambda name: median(_values(results, name, case)), default=None)


def _better_naive(results):
    return {case: _best(results, case, (NAIVE, NAIVE_TUNED)) for case in CASES}


def draw(results):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "peers"
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(9, 6.4), height_ratios=(3, 2))
    width = 0.8 / len(results)
    naive, cases = _better_naive(results), [*TABLES[0], *TABLES[-1]]
    for place, name in enumerate(results):
        heights = [_times(results, name, naive[case], case) or 0 for case in cases]
        offset = (place - (len(results) - 1) / 2) * width
        above.bar([x + offset for x in range(len(cases))], heights, width, label=name)
    above.axhline(1, color="black", linewidth=0.5)
    above.set_yscale("log")
    above.set_ylabel("requests a second, times the better naive", fontsize=8)
    above.set_xticks(range(len(cases)), [case.replace(", ", "\n") for case in cases], fontsize=7)
    for place, name in enumerate(results):
        alone, beside = _values(results, name, "alone"), _values(results, name, f"beside {min(BULK_REQUESTS)}")
        p95 = [[value[1] for value in alone], [value["short"][1] for value in beside]]
        p95 = [1000 * median(values) if values else 0 for values in p95]
        below.barh([place - 0.2, place + 0.2], p95, 0.4, color=[f"C{place}"] * 2, alpha=0.5)
        below.barh([place + 0.2], p95[1:], 0.4, color=f"C{place}")
    below.set_xscale("log")
    below.invert_yaxis()
    below.set_yticks(range(len(results)), list(results), fontsize=7)
    below.set_xlabel("p95 of a short query in ms: alone (pale), and beside large requests", fontsize=8)
    figure.legend(*above.get_legend_handles_labels(), fontsize=7, ncols=3, loc="upper center")
    figure.tight_layout(rect=(0, 0, 1, 0.94))
    figure.savefig(DOCS / "peers.svg", metadata={"Date": None})
