"""Differences between the results of jwst and gpucoron: a row for each step, a table of all cases, and its page."""

from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import groupby

import numpy as np

from gpucoron import dq
from tests.tools.fuzz_summary import put_into

FLAGS = ("groupdq", "pixeldq", "dq")
VALUES = ("data", "zeroframe", "err", "var_poisson", "var_rnoise")

PAGE_HEAD = """# Parity with jwst

% Written by `make parity`; edit tests/cases/parity.py or tests/cases/parity_table.py instead.

Every case below is a simulated exposure with its own references. It was reduced with the `Detector1Pipeline` of jwst
{jwst} (stcal {stcal}, NumPy {numpy}) and with gpucoron's CPU backend, with the same parameters. The comparison
includes the ramps after every step, the products, the status of every step, the names of the references, and the rates
of cosmic rays and large events.

- *case*: name, subarray, read pattern, integrations x groups, and parameters that differ from the defaults.
- *DQ bits*: number of bits that differ in GROUPDQ and PIXELDQ, or in the DQ of the products.
- *NaN*: number of values that are NaN in only one of the two.
- *largest difference*: largest relative difference of SCI, ZEROFRAME, ERR and the variances; 0 means bit-identical. The
  rounding error of float32 is 6e-8 per operation; a test fails above {rtol:g}, for LIKELY above {likely:g}.

Of {n_cases} cases, {n_equal} have equal DQ bits and NaN everywhere; the largest difference is {largest}.
`pytest -m parity` runs {n_quick} of the cases. `make parity` runs all and writes this page.
`tests/backends/kernels/test_kernel_pipeline.py` compares the CUDA kernels, in the host build or on a GPU, with the CPU
backend, for cases of the same table.
"""


@dataclass
class Row:
    """One step, or one product, of one case."""

    step: str
    bits: int = 0
    nans: int = 0
    largest: float = 0.0

    @property
    def exact(self):
        return not (self.bits or self.nans or self.largest)


def compare_arrays(step, ours, theirs):
    """Compare two sets of arrays by name; return a `Row` and the names of arrays that cannot be compared."""
    row, problems = Row(step), []
    for name in (*FLAGS, *VALUES):
        expected, found = theirs.get(name), ours.get(name)
        if expected is None or found is None:
            # jwst fills some missing arrays with a default; gpucoron's dict lacks them
            if expected is not None and name != "zeroframe":
                problems.append(f"{step}: {name} is missing")
            continue
        # arrays that jwst reads from a file without changing keep the byte order of the file
        if found.shape != expected.shape or found.dtype.newbyteorder("=") != expected.dtype.newbyteorder("="):
            problems.append(f"{step}: {name} is {found.dtype}{found.shape}, not {expected.dtype}{expected.shape}")
        elif name in FLAGS:
            row.bits += int(np.unpackbits(np.ascontiguousarray(found ^ expected).view(np.uint8)).sum())
        else:
            nans, largest = _compare_values(found, expected)
            row.nans, row.largest = row.nans + nans, max(row.largest, largest)
    return row, problems


def _compare_values(found, expected):
    lost = np.isnan(found) != np.isnan(expected)
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = np.abs(found.astype(np.float64) - expected) / np.abs(expected)
    difference[(found == expected) | np.isnan(found) | np.isnan(expected)] = 0
    return int(lost.sum()), float(difference.max(initial=0))


def name_flags(flags):
    """Return the names of all bits that are set anywhere."""
    bits = int(np.bitwise_or.reduce(flags, axis=None))
    return {name for name, value in vars(dq).items() if name.isupper() and value & bits}


def format_lines(results):
    """Format the table for a terminal; `results` is case name -> list of rows as dicts."""
    width = max(map(len, results), default=0)
    yield f"{'case':{width}}  {'step':28}  {'DQ bits':>8}  {'NaN':>6}  largest difference"
    for name, rows in results.items():
        for number, row in enumerate(_summarize(rows)):
            label = name if number == 0 else ""
            yield f"{label:{width}}  {row.step:28}  {row.bits:8}  {row.nans:6}  {row.largest:.1e}"


def _summarize(rows):
    """Combine the bit-identical steps into one row, and keep the others."""
    rows = [Row(**row) for row in rows]
    exact = [row.step for row in rows if row.exact]
    if exact:
        yield Row(exact[0] if len(exact) == 1 else f"{len(exact)} steps and products")
    yield from (row for row in rows if not row.exact)


def write_page(path, results):
    """Write docs/parity.md; `results` is case name -> list of rows as dicts."""
    from tests.cases.parity import CASES, LIKELY_RTOL, NOT_COMPARED, RTOL

    largest = max(row["largest"] for rows in results.values() for row in rows)
    bad = {name for name in results if any(row["bits"] or row["nans"] for row in results[name])}
    lines = [
        PAGE_HEAD.format(
            jwst=version("jwst"), stcal=version("stcal"), numpy=version("numpy"), rtol=RTOL, likely=LIKELY_RTOL,
            n_cases=len(results), n_equal=len(results) - len(bad), largest=f"{largest:.1e}",
            n_quick=sum(case.quick for case in CASES.values()),
        )
    ]  # fmt: skip
    for group, cases in groupby(CASES.values(), key=lambda case: case.group):
        lines += [f"## {group}", "", "| case | step | DQ bits | NaN | largest difference |", "|---|---|---|---|---|"]
        for case in cases:
            if case.name not in results:
                lines.append(f"| {_describe(case)} | not run | | | |")
                continue
            for number, row in enumerate(_summarize(results[case.name])):
                label = _describe(case) if number == 0 else ""
                value = f"{row.largest:.1e}" if row.largest else "0"
                lines.append(f"| {label} | {row.step} | {row.bits} | {row.nans} | {value} |")
        lines.append("")
    lines += ["## Not compared", "", "| what | reason |", "|---|---|"]
    lines += [f"| {what} | {why} |" for what, why in NOT_COMPARED]
    path.write_text(put_into("\n".join(lines) + "\n"))


def _describe(case):
    _instrument, subarray, readpatt, ngroups, nints = case.exposure
    settings = [
        f"{step}.{name}={value}"
        for step, values in case.steps.items()
        for name, value in values.items()
        if (name, value) != ("skip", False)
    ]
    text = f"`{case.name}`: {subarray} {readpatt}, {nints} x {ngroups}"
    return text + (f"; `{', '.join(settings)}`" if settings else "")


def as_dicts(rows):
    """Convert rows into plain dicts, which pytest-xdist can send."""
    return [asdict(row) for row in rows]
