"""The keywords of a simulated exposure, and its tables of groups and integrations."""

import numpy as np

from gpucoron.simulate.geometry import PIXEL_SCALE, rotation, to_sky, v3_angle

# Start and pointing of all simulated exposures; nominal values that stage 2 accepts.
_START = np.datetime64("2022-07-25T00:00:00.000000")
_MJD_EPOCH = np.datetime64("1858-11-17T00:00:00.000000")
_TARGET = (65.0, -25.0)
_REFERENCE_POINT = {"NRCALONG": (89.0, -492.0), "NRCA2": (106.0, -450.0), "NRCA4": (73.0, -554.0)}  # V2, V3, arcsec


def _to_mjd(times):
    return (times - _MJD_EPOCH) / np.timedelta64(1, "us") / 86400e6


def integration_time(ngroups, nframes, groupgap, frame_time):
    """Return the seconds from the reset to the last read of an integration."""
    return frame_time * ((nframes + groupgap) * ngroups - groupgap)


def _integration_time(simulation):
    """Return the seconds from the reset to the last read of an integration of a simulation."""
    return integration_time(simulation.data.shape[1], simulation.nframes, simulation.groupgap, simulation.frame_time)


def start_integrations(simulation):
    """Return the start of each integration, (nints,) datetime64; a reset of one frame separates them."""
    count = np.arange(simulation.data.shape[0]) + simulation.first_integration - 1
    seconds = count * (_integration_time(simulation) + simulation.frame_time)
    return _START + np.rint(seconds * 1e6).astype("timedelta64[us]")


def list_groups(simulation, starts, dtype):
    """Make the GROUP table, one row per group."""
    nints, ngroups, ny, nx = simulation.data.shape
    table = np.zeros(nints * ngroups, dtype)
    group = np.tile(np.arange(ngroups), nints)
    seconds = group * simulation.group_time + simulation.frame_time * simulation.nframes
    ends = np.repeat(starts, ngroups) + np.rint(seconds * 1e6).astype("timedelta64[us]")
    days = (ends - np.datetime64("2000-01-01")) // np.timedelta64(1, "D")
    microseconds = (ends - ends.astype("datetime64[D]")) // np.timedelta64(1, "us")
    table["integration_number"] = np.repeat(np.arange(nints) + simulation.first_integration, ngroups)
    table["group_number"] = group + 1
    table["end_day"] = days
    table["end_milliseconds"] = microseconds // 1000
    table["end_submilliseconds"] = microseconds % 1000
    table["group_end_time"] = np.datetime_as_string(ends)
    table["number_of_columns"], table["number_of_rows"] = nx, ny
    table["completion_code_text"] = "COMPLETE"
    table["bary_end_time"] = table["helio_end_time"] = _to_mjd(ends)
    return table


def list_integrations(simulation, starts, dtype):
    """Make the INT_TIMES table; barycentric times are equal to UTC."""
    table = np.zeros(len(starts), dtype)
    length = np.timedelta64(round(_integration_time(simulation) * 1e6), "us")
    table["integration_number"] = np.arange(len(starts)) + simulation.first_integration
    for part, times in (("start", starts), ("mid", starts + length // 2), ("end", starts + length)):
        table[f"int_{part}_MJD_UTC"] = table[f"int_{part}_BJD_TDB"] = _to_mjd(times)
    return table


def describe(simulation):
    """Return the metadata that CRDS, stage 1 and stage 2 need; None for keywords of the other instrument."""
    sub, names = simulation.subarray, simulation.names
    nints, ngroups, ny, nx = simulation.data.shape
    nircam = sub.instrument == "NIRCAM"
    kind = simulation.pixels.kind
    total, segmented = simulation.total_nints, simulation.total_nints > nints
    visit = f"{names['program']}{names['observation']}001"
    integration = _integration_time(simulation)
    exposure_seconds = total * (integration + simulation.frame_time) - simulation.frame_time
    start = _START
    middle = start + np.timedelta64(round(exposure_seconds * 0.5e6), "us")
    end = start + np.timedelta64(round(exposure_seconds * 1e6), "us")
    (mjd_start, mjd_mid, mjd_end) = (float(_to_mjd(t)) for t in (start, middle, end))
    date, time = np.datetime_as_string(start, "ms").split("T")
    xscale, yscale = PIXEL_SCALE[sub.aperture]
    v3yangle = v3_angle(sub)
    matrix = rotation(sub, simulation.roll).tolist()
    number, total_points = simulation.dither
    v2, v3 = _REFERENCE_POINT.get(sub.detector, (-414.0, -400.0))
    # A dither moves the star, not the reference point of the aperture, which then has other coordinates.
    star, shift = simulation.truth.star, simulation.shift
    east, north = (float(value) / 3600 for value in to_sky(sub, simulation.roll, (-shift[0], -shift[1])))
    reference = _TARGET[0] + east / float(np.cos(np.radians(_TARGET[1]))), _TARGET[1] + north
    return {
        "filename": simulation.filename,
        "telescope": "JWST",
        "origin": "gpucoron",
        "program.title": "Simulated coronagraphy",
        "program.pi_name": "gpucoron",
        "program.category": "GO",
        "observation.date": date,
        "observation.time": time,
        "observation.date_beg": np.datetime_as_string(start, "ms"),
        "observation.date_end": np.datetime_as_string(end, "ms"),
        "observation.obs_id": f"V{visit}P0000000002101",
        "observation.visit_id": visit,
        "observation.program_number": names["program"],
        "observation.observation_number": names["observation"],
        "observation.visit_number": "001",
        "observation.visit_group": names["visit_group"],
        "observation.sequence_id": "1",
        "observation.activity_id": "01",
        "observation.exposure_number": names["exposure"],
        "observation.bkgdtarg": simulation.role == "BG",
        "observation.template": "NIRCam Coronagraphic Imaging" if nircam else "MIRI Coronagraphic Imaging",
        "visit.type": "PRIME_TARGETED_FIXED",
        "visit.status": "SUCCESSFUL",
        "visit.start_time": np.datetime_as_string(start, "ms").replace("T", " "),
        "visit.tsovisit": False,
        "visit.internal_target": False,
        "target.proposer_name": simulation.target,
        "target.catalog_name": simulation.target,
        "target.type": "FIXED",
        "target.ra": _TARGET[0],
        "target.dec": _TARGET[1],
        "target.proposer_ra": _TARGET[0],
        "target.proposer_dec": _TARGET[1],
        "target.source_type_apt": "POINT",
        "instrument.name": sub.instrument,
        "instrument.detector": sub.detector,
        "instrument.module": "A" if nircam else None,
        "instrument.channel": ("LONG" if sub.detector == "NRCALONG" else "SHORT") if nircam else None,
        "instrument.filter": simulation.filter,
        "instrument.pupil": sub.pupil,
        "instrument.coronagraph": sub.coronagraph,
        "instrument.lamp_state": None if nircam else "OFF",
        "exposure.type": sub.exp_type,
        "exposure.count": 1,
        "exposure.prime_parallel": "PRIME",
        "exposure.start_time": mjd_start,
        "exposure.mid_time": mjd_mid,
        "exposure.end_time": mjd_end,
        "exposure.start_time_mjd": mjd_start,
        "exposure.mid_time_mjd": mjd_mid,
        "exposure.end_time_mjd": mjd_end,
        "exposure.readpatt": simulation.readpatt,
        "exposure.nints": total,
        "exposure.ngroups": ngroups,
        "exposure.nframes": simulation.nframes,
        "exposure.groupgap": simulation.groupgap,
        "exposure.frame_divisor": simulation.nframes,
        "exposure.drop_frames1": 0,
        "exposure.drop_frames3": 0,
        "exposure.nsamples": 9 if simulation.readpatt == "SLOWR1" else 1,
        "exposure.sample_time": 10.0,
        "exposure.frame_time": round(simulation.frame_time, 6),
        "exposure.group_time": round(simulation.group_time, 6),
        "exposure.integration_time": integration,
        "exposure.exposure_time": integration * total,
        "exposure.effective_exposure_time": integration * total,
        "exposure.measurement_time": integration * total,
        "exposure.elapsed_exposure_time": exposure_seconds,
        "exposure.duration": exposure_seconds,
        "exposure.nresets_at_start": 1 if nircam else 0,
        "exposure.nresets_between_ints": 1,
        "exposure.zero_frame": simulation.zeroframe is not None,
        "exposure.data_problem": False,
        "exposure.noutputs": sub.noutputs,
        "exposure.integration_start": simulation.first_integration if segmented else None,
        "exposure.integration_end": simulation.first_integration + nints - 1 if segmented else None,
        "exposure.segment_number": (simulation.first_integration - 1) // nints + 1 if segmented else None,
        "exposure.segment_total": -(-total // nints) if segmented else None,
        "exposure.psf_reference": simulation.role == "REF",
        "subarray.name": simulation.subarray_name,
        "subarray.xstart": sub.xstart,
        "subarray.ystart": sub.ystart,
        "subarray.xsize": nx,
        "subarray.ysize": ny,
        "subarray.fastaxis": kind.fastaxis,
        "subarray.slowaxis": kind.slowaxis,
        "dither.primary_type": f"{total_points}-POINT-SMALL-GRID" if total_points in (5, 9) else "NONE",
        "dither.position_number": number,
        "dither.total_points": total_points,
        "dither.x_offset": simulation.offset[0],
        "dither.y_offset": simulation.offset[1],
        "aperture.name": sub.aperture,
        "aperture.pps_name": sub.aperture,
        "aperture.position_angle": (simulation.roll + v3yangle) % 360,
        "coordinates.reference_frame": "ICRS",
        "velocity_aberration.scale_factor": 1.0,
        "velocity_aberration.va_ra_ref": _TARGET[0],
        "velocity_aberration.va_dec_ref": _TARGET[1],
        "guidestar.gs_order": 1,
        "pointing.ra_v1": _TARGET[0] - v2 / 3600,
        "pointing.dec_v1": _TARGET[1] - v3 / 3600,
        "pointing.pa_v3": simulation.roll % 360,
        "wcsinfo.wcsaxes": 2,
        "wcsinfo.crpix1": star[0] - shift[0] + 1,
        "wcsinfo.crpix2": star[1] - shift[1] + 1,
        "wcsinfo.crval1": reference[0],
        "wcsinfo.crval2": reference[1],
        "wcsinfo.ctype1": "RA---TAN",
        "wcsinfo.ctype2": "DEC--TAN",
        "wcsinfo.cunit1": "deg",
        "wcsinfo.cunit2": "deg",
        "wcsinfo.cdelt1": xscale / 3600,
        "wcsinfo.cdelt2": yscale / 3600,
        "wcsinfo.pc1_1": matrix[0][0],
        "wcsinfo.pc1_2": matrix[0][1],
        "wcsinfo.pc2_1": matrix[1][0],
        "wcsinfo.pc2_2": matrix[1][1],
        "wcsinfo.v2_ref": v2,
        "wcsinfo.v3_ref": v3,
        "wcsinfo.vparity": -1,
        "wcsinfo.v3yangle": v3yangle,
        "wcsinfo.ra_ref": reference[0],
        "wcsinfo.dec_ref": reference[1],
        "wcsinfo.roll_ref": simulation.roll % 360,
        "bunit_data": "DN",
    }
