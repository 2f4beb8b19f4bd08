"""Summarize a run as plain text: the table of steps that the command line prints."""

from gpucoron.io.products import backends_of
from gpucoron.records.remarks import OFF, describe_outcome


def step_table(run, *, with_all=False):
    """Return a table of the steps: status, seconds, and the remark that reports have, too.

    Parameters
    ----------
    run : Run
        After its last step.
    with_all : bool
        Also list the steps that are switched off.
    """
    rows = [("step", "status", "seconds", "remark")]
    for record in run.records:
        if with_all or record.reason != OFF:
            # the status has its own column
            remark = describe_outcome("COMPLETE", record.reason, record.flagged)
            rows.append((record.name, record.status, f"{record.seconds:.3f}", remark))
    rows.append(("all steps", "", f"{run.seconds:.3f}", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        f"{name:<{widths[0]}}  {status:<{widths[1]}}  {seconds:>{widths[2]}}  {remark}".rstrip()
        for name, status, seconds, remark in rows
    ]
    lines.insert(1, "-" * max(len(line) for line in lines))
    return "\n".join(lines)


def headline(run):
    """Describe in one line the exposure, the backend, the profile, the context and the parameter files."""
    facts = run.exposure.facts
    nints, ngroups, ny, nx = run.exposure.data.shape
    count = len(run.pars_files)
    pars = f"{count or 'no'} parameter file{'' if count == 1 else 's'}"
    return (
        f"{run.exposure.name}: {facts.instrument} {facts.subarray} {facts.readpatt}, {nints} integrations x {ngroups} "
        f"groups x {ny} x {nx}; backend {backends_of(run)}, profile {run.profile}, {run.context[0]}, {pars}"
    )
