"""What a simulated exposure's file says of it: keywords, and the tables of groups and integrations."""

import numpy as np

# Where all simulated exposures begin and point; nominal values that stage 2 can work with.
_START = np.datetime64("2022-07-25T00:00:00.000000")
_MJD_EPOCH = np.datetime64("1858-11-17T00:00:00.000000")
_TARGET = (65.0, -25.0)
_PIXEL_SCALE = {"NRCALONG": 0.063, "NRCA2": 0.031, "NRCA4": 0.031, "MIRIMAGE": 0.11}  # arcsec
_REFERENCE_POINT = {"NRCALONG": (89.0, -492.0), "NRCA2": (106.0, -450.0), "NRCA4": (73.0, -554.0)}  # V2, V3, arcsec


def _to_mjd(times):
    return (times - _MJD_EPOCH) / np.timedelta64(1, "us") / 86400e6


def _integration_time(simulation):
    """Seconds from the first reset to the last read of an integration."""
    return simulation.group_time * simulation.data.shape[1] - simulation.frame_time * simulation.groupgap


def start_integrations(simulation):
    """When each integration starts, ``(nints,)`` datetime64; a reset of one frame lies between them."""
    count = np.arange(simulation.data.shape[0]) + simulation.first_integration - 1
    seconds = count * (_integration_time(simulation) + simulation.frame_time)
    return _START + np.rint(seconds * 1e6).astype("timedelta64[us]")


def list_groups(simulation, starts, dtype):
    """Make the GROUP table: one row a group."""
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
    """Make the INT_TIMES table; barycentric times are set equal to UTC."""
    table = np.zeros(len(starts), dtype)
    length = np.timedelta64(round(_integration_time(simulation) * 1e6), "us")
    table["integration_number"] = np.arange(len(starts)) + simulation.first_integration
    for part, times in (("start", starts), ("mid", starts + length // 2), ("end", starts + length)):
        table[f"int_{part}_MJD_UTC"] = table[f"int_{part}_BJD_TDB"] = _to_mjd(times)
    return table


def describe(simulation):
    """Collect the metadata: what CRDS, stage 1 and stage 2 look for; None where the instrument has no such keyword."""
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
    scale = _PIXEL_SCALE[sub.detector] / 3600
    v2, v3 = _REFERENCE_POINT.get(sub.detector, (-414.0, -400.0))
    star = simulation.truth.star
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
        "observation.bkgdtarg": False,
        "observation.template": "NIRCam Coronagraphic Imaging" if nircam else "MIRI Coronagraphic Imaging",
        "visit.type": "PRIME_TARGETED_FIXED",
        "visit.status": "SUCCESSFUL",
        "visit.start_time": np.datetime_as_string(start, "ms").replace("T", " "),
        "visit.tsovisit": False,
        "visit.internal_target": False,
        "target.proposer_name": "SIMULATED",
        "target.catalog_name": "SIMULATED",
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
        "exposure.psf_reference": False,
        "subarray.name": simulation.subarray_name,
        "subarray.xstart": sub.xstart,
        "subarray.ystart": sub.ystart,
        "subarray.xsize": nx,
        "subarray.ysize": ny,
        "subarray.fastaxis": kind.fastaxis,
        "subarray.slowaxis": kind.slowaxis,
        "dither.primary_type": "NONE",
        "dither.position_number": 1,
        "dither.total_points": 1,
        "dither.x_offset": 0.0,
        "dither.y_offset": 0.0,
        "aperture.name": sub.aperture,
        "aperture.pps_name": sub.aperture,
        "aperture.position_angle": 0.0,
        "coordinates.reference_frame": "ICRS",
        "velocity_aberration.scale_factor": 1.0,
        "velocity_aberration.va_ra_ref": _TARGET[0],
        "velocity_aberration.va_dec_ref": _TARGET[1],
        "guidestar.gs_order": 1,
        "pointing.ra_v1": _TARGET[0] - v2 / 3600,
        "pointing.dec_v1": _TARGET[1] - v3 / 3600,
        "pointing.pa_v3": 0.0,
        "wcsinfo.wcsaxes": 2,
        "wcsinfo.crpix1": star[0] + 1,
        "wcsinfo.crpix2": star[1] + 1,
        "wcsinfo.crval1": _TARGET[0],
        "wcsinfo.crval2": _TARGET[1],
        "wcsinfo.ctype1": "RA---TAN",
        "wcsinfo.ctype2": "DEC--TAN",
        "wcsinfo.cunit1": "deg",
        "wcsinfo.cunit2": "deg",
        "wcsinfo.cdelt1": scale,
        "wcsinfo.cdelt2": scale,
        "wcsinfo.pc1_1": -1.0,
        "wcsinfo.pc1_2": 0.0,
        "wcsinfo.pc2_1": 0.0,
        "wcsinfo.pc2_2": 1.0,
        "wcsinfo.v2_ref": v2,
        "wcsinfo.v3_ref": v3,
        "wcsinfo.vparity": -1,
        "wcsinfo.v3yangle": 0.0 if nircam else 4.45,
        "wcsinfo.ra_ref": _TARGET[0],
        "wcsinfo.dec_ref": _TARGET[1],
        "wcsinfo.roll_ref": 0.0,
        "bunit_data": "DN",
    }
