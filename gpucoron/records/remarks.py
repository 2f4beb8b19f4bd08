"""The remark beside a step, in the table of the command line and in reports."""

from numbers import Integral

#: the reason of a step that is skipped because it is switched off
OFF = "switched off"


def describe_outcome(status, reason, flagged):
    """Describe the outcome of a step: why it did not run, or what it remarked, and what it flagged.

    Parameters
    ----------
    status : str
        'COMPLETE', 'SKIPPED', ...
    reason : str
    flagged : dict
        What was flagged -> how many.

    Returns
    -------
    str
    """
    # users may edit the records of reports
    counts = [
        f"{count:,} {what}" if isinstance(count, Integral) else f"{count} {what}" for what, count in flagged.items()
    ]
    return ", ".join(filter(None, ["" if status == "COMPLETE" else status.lower(), reason, *counts]))
