"""The start of each integration of an exposure, from its table INT_TIMES or its keywords."""

from gpucoron.errors import InputError

#: MJD of 1970-01-01, and seconds of a day
_EPOCH, _DAY = 40587.0, 86400.0


def start_times(exposure):
    """Return when the integrations of an exposure start.

    Parameters
    ----------
    exposure : Exposure

    Returns
    -------
    list of float
        Seconds since 1970 (UTC), from INT_TIMES; for integrations that the table lacks, from EXPSTART and EFFINTTM.

    Raises
    ------
    InputError
        Neither the table nor both keywords exist.

    Notes
    -----
    Source: jwst 3.0, ``persistence``, which also counts from EXPSTART by EFFINTTM.
    """
    table, keywords = exposure.meta.int_times, exposure.meta.meta.exposure
    nints = exposure.data.shape[0]
    listed = [] if table is None else [float(one) for one in table["int_start_MJD_UTC"][:nints]]
    starts = [(one - _EPOCH) * _DAY for one in listed]
    if len(starts) < nints:
        start, length = keywords.start_time, keywords.integration_time
        missing = [name for name, value in (("EXPSTART", start), ("EFFINTTM", length)) if value is None]
        if missing:
            msg = (
                f"{exposure.name}: it is unknown when each integration starts: INT_TIMES lists {len(starts)} of "
                f"{nints}, and there is no {' and no '.join(missing)}; set the keywords, or restore the table"
            )
            raise InputError(msg)
        starts += [(start - _EPOCH) * _DAY + number * length for number in range(len(starts), nints)]
    return starts
