"""Write a CRDS cache with simulated references that works offline, and use it.

The layout and the mappings follow CRDS 14 (https://jwst-crds.stsci.edu).
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gpucoron.files import AnyPath, appearing, write_whole, writing
from gpucoron.interactive import Shown, public, table
from gpucoron.io.crds_cache import NO_SERVER

MANIFEST = "simulated.json"
USE_AFTER = "2021-01-01T00:00:00"
_D, _S = "META.INSTRUMENT.DETECTOR", "META.SUBARRAY.NAME"
_R, _E = "META.EXPOSURE.READPATT", "META.EXPOSURE.TYPE"

#: instrument -> reference type -> keywords by which CRDS selects it
MATCH_KEYS = {
    "NIRCAM": {
        "mask": (_D, _S),
        "saturation": (_D,),
        "superbias": (_D, _R, _S),
        "linearity": (_D, _S),
        "gain": (_D, _S),
        "readnoise": (_D, _R, _S),
        "ipc": (_D,),
        "dark": (_E, _D, _S, "META.EXPOSURE.NOUTPUTS"),
        "sirskernel": (),
        "pictureframe": (_D, _S),
    },
    "MIRI": {
        "mask": (_D, _S),
        "saturation": (_D,),
        "linearity": (_D, _S, "META.INSTRUMENT.BAND", "META.INSTRUMENT.FILTER"),
        "gain": (_D, _S),
        "readnoise": (_D, _R, _S),
        "ipc": (_D,),
        "dark": (_D, _R, _S),
        "reset": (_D, _S, _R),
        "rscd": (_D,),
        "emicorr": (),
    },
}

#: reference type of stages 2 and 3 -> keywords by which CRDS selects it (fewer than in the real CRDS)
LATER_KEYS = {
    "flat": (_D, _S),
    "photom": (_D,),
    "distortion": (_D, _S),
    "filteroffset": (_D,),
    "psfmask": (_D, _S),
}

#: types that a simulation may lack; CRDS then returns N/A
_OPTIONAL = (
    "superbias", "refpix", "sirskernel", "rscd", "reset", "emicorr", "ipc", "flat", "pictureframe", "pastasoss",
    "persat", "trapdensity", "trappars",
    # of stages 2 and 3
    *LATER_KEYS, "area", "bkg", "camera", "chromcorr", "collimator", "dflat", "disperser", "drizpars", "fflat", "fore",
    "fpa", "ifufore", "ifupost", "ifuslicer", "msa", "ote", "regions", "sflat", "specwcs", "wavelengthrange", "wfssbkg",
    "pars-image2pipeline", "pars-coron3pipeline", "pars-assignwcsstep", "pars-backgroundstep", "pars-flatfieldstep",
    "pars-photomstep", "pars-resamplestep", "pars-outlierdetectionstep", "pars-stackrefsstep", "pars-alignrefsstep",
    "pars-klipstep",
)  # fmt: skip

#: step of Detector1Pipeline -> class, for parameter references
STEP_CLASSES = {
    "group_scale": "jwst.group_scale.GroupScaleStep",
    "dq_init": "jwst.dq_init.DQInitStep",
    "emicorr": "jwst.emicorr.EmiCorrStep",
    "saturation": "jwst.saturation.SaturationStep",
    "ipc": "jwst.ipc.IPCStep",
    "superbias": "jwst.superbias.SuperBiasStep",
    "refpix": "jwst.refpix.RefPixStep",
    "rscd": "jwst.rscd.RscdStep",
    "firstframe": "jwst.firstframe.FirstFrameStep",
    "lastframe": "jwst.lastframe.LastFrameStep",
    "linearity": "jwst.linearity.LinearityStep",
    "dark_current": "jwst.dark_current.DarkCurrentStep",
    "reset": "jwst.reset.ResetStep",
    "persistence": "jwst.persistence.PersistenceStep",
    "charge_migration": "jwst.charge_migration.ChargeMigrationStep",
    "jump": "jwst.jump.JumpStep",
    "picture_frame": "jwst.picture_frame.PictureFrameStep",
    "clean_flicker_noise": "jwst.clean_flicker_noise.CleanFlickerNoiseStep",
    "ramp_fit": "jwst.ramp_fitting.RampFitStep",
    "gain_scale": "jwst.gain_scale.GainScaleStep",
}
_PIPELINES = {
    "pars-detector1pipeline": "jwst.pipeline.Detector1Pipeline",
    "pars-coron1pipeline": "gpucoron.pipeline.Coron1Pipeline",
}


# Set instead of deleted, because CRDS writes defaults into the environment on import and fails without them.
_NOWHERE_ELSE = {
    "CRDS_MODE": "auto",
    "CRDS_OBSERVATORY": "jwst",
    "CRDS_S3_ENABLED": "false",
    "CRDS_CONFIG_URI": "none",
    "CRDS_MAPPING_URI": "none",
    "CRDS_REFERENCE_URI": "none",
    "CRDS_PICKLE_URI": "none",
}


@dataclass(frozen=True, repr=False)
class CrdsCache(Shown):
    """A CRDS cache on disk, and its context (``*.pmap``)."""

    path: Path
    context: str

    def _summary(self):
        return f"{self.path}: {self.context}"

    def _repr_html_(self):
        references = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))["references"]
        rows = [
            (instrument, reftype, ", ".join(entry["file"] for entry in entries))
            for instrument, types in references.items()
            for reftype, entries in types.items()
        ]
        return table(f"CrdsCache {self._summary()}", ("instrument", "type", "references"), rows)

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that make CRDS use only this cache, for child processes."""
        return {
            "CRDS_PATH": str(self.path),
            "CRDS_SERVER_URL": NO_SERVER,
            "CRDS_CONTEXT": self.context,
            "CRDS_READONLY_CACHE": "1",
        }

    @contextmanager
    def activate(self) -> Iterator[Self]:
        """Make CRDS in this process use the cache until the ``with`` block ends. Not thread-safe.

        CRDS reads its environment variables at each call, but caches mappings by name, and the server. Both are reset
        at the start and the end of the block. Variables for other locations are removed in between.
        """
        from crds.client import api
        from crds.core import config, utils

        before = {name: value for name, value in os.environ.items() if name.startswith("CRDS_")}
        state = (config.CRDS_REF_SUBDIR_MODE, getattr(api, "URL", None), api.S)
        for name in before:
            if "PATH" in name:
                del os.environ[name]
        os.environ.update({**_NOWHERE_ELSE, **self.environment})
        config.CRDS_REF_SUBDIR_MODE = "None"  # makes CRDS read the setting again
        api.set_crds_server(self.environment["CRDS_SERVER_URL"])
        utils.clear_function_caches()
        try:
            yield self
        finally:
            for name in [name for name in os.environ if name.startswith("CRDS_")]:
                del os.environ[name]
            os.environ.update(before)
            config.CRDS_REF_SUBDIR_MODE, url, api.S = state
            if url is None:
                del api.URL
            else:
                api.URL = url
            utils.clear_function_caches()


@public
def open_cache(crds_path: AnyPath) -> CrdsCache:
    """Open a cache that ``write_references`` wrote."""
    manifest = json.loads((Path(crds_path) / MANIFEST).read_text(encoding="utf-8"))
    return CrdsCache(Path(crds_path).resolve(), f"jwst_{manifest['serial']}.pmap")


def next_name(path, manifest, instrument, reftype, extension):
    """Return a new name for a reference; the serial number is new because CRDS caches files by name."""
    files = manifest["files"]
    key = f"{instrument}/{reftype}"
    files[key] = files.get(key, 9000) + 1
    folder = path / "references" / "jwst" / instrument.lower()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder / f"jwst_{instrument.lower()}_{reftype}_{files[key]}.{extension}"


def write_parameters(path, manifest, instrument, reftype, values):
    """Write a parameter reference of a step, or of a pipeline with ``{'steps': {step: {...}}}``."""
    import asdf

    def describe(step, parameters):
        return {"class": STEP_CLASSES[step], "name": step, "parameters": dict(parameters)}

    steps = {_config_type(class_): step for step, class_ in STEP_CLASSES.items()}
    if reftype in steps:
        tree = describe(steps[reftype], values)
    elif reftype in _PIPELINES:
        rest = {name: value for name, value in values.items() if name != "steps"}
        class_ = _PIPELINES[reftype]
        tree = {"class": class_, "name": class_.rsplit(".", 1)[1], "parameters": rest}
        tree["steps"] = [describe(step, parameters) for step, parameters in values.get("steps", {}).items()]
    else:
        msg = f"no parameter reference {reftype!r}; known: {', '.join(sorted({*steps, *_PIPELINES}))}"
        raise ValueError(msg)
    tree["meta"] = {
        "author": "gpucoron",
        "date": USE_AFTER,
        "description": f"Simulated parameters of {tree['class']}",
        "instrument": {"name": instrument},
        "origin": "gpucoron",
        "pedigree": "DUMMY",
        "reftype": reftype,
        "telescope": "JWST",
        "useafter": USE_AFTER,
    }
    name = next_name(path, manifest, instrument, reftype, "asdf")
    with writing(name), appearing(name) as (draft,):
        asdf.AsdfFile(tree).write_to(draft)
    manifest["references"].setdefault(instrument, {})[reftype] = [{"match": [], "file": name.name}]


def _config_type(class_):
    return f"pars-{class_.rsplit('.', 1)[1].lower()}"


def write_mappings(path, manifest):
    """Write mappings with a new serial number, and the configuration of CRDS; return the name of the context."""
    serial = manifest["serial"]
    folder = path / "mappings" / "jwst"
    pars = [*map(_config_type, STEP_CLASSES.values()), *_PIPELINES]
    instruments = {}
    for instrument, references in manifest["references"].items():
        low = instrument.lower()
        types = dict.fromkeys([*_OPTIONAL, *pars], "N/A")
        for reftype, entries in references.items():
            if not entries:
                continue
            keys = {**MATCH_KEYS.get(instrument, {}), **LATER_KEYS}.get(reftype, ())
            types[reftype] = f"jwst_{low}_{reftype}_{serial}.rmap"
            parkey = (keys, ("META.OBSERVATION.DATE", "META.OBSERVATION.TIME"))
            header = _mapping_header("REFERENCE", types[reftype], parkey)
            header |= {"instrument": instrument, "filekind": reftype.upper()}
            rows = [
                f"    {(e['match'][0] if len(keys) == 1 else tuple(e['match']))!r}:"
                f" UseAfter({{{USE_AFTER.replace('T', ' ')!r}: {e['file']!r}}}),"
                for e in entries
            ]
            _write_mapping(folder / types[reftype], header, "Match({\n" + "\n".join(rows) + "\n})")
        instruments[instrument] = f"jwst_{low}_{serial}.imap"
        header = _mapping_header("INSTRUMENT", instruments[instrument], ("REFTYPE",)) | {"instrument": instrument}
        _write_mapping(folder / instruments[instrument], header, repr({k.upper(): v for k, v in types.items()}))
    context = f"jwst_{serial}.pmap"
    _write_mapping(folder / context, _mapping_header("PIPELINE", context, ("META.INSTRUMENT.NAME",)), repr(instruments))

    config = path / "config" / "jwst"
    server = {"observatory": "jwst", "bad_files_list": [], "latest_context": context}
    server["last_synced"] = "2024-01-01 00:00:00.0"
    write_whole(config / "server_config", lambda file: file.write(repr(server).encode()))
    write_whole(config / "ref_cache_subdir_mode", lambda file: file.write(b"instrument\n"))
    return context


def _mapping_header(kind, name, parkey):
    return {"derived_from": "simulation", "mapping": kind, "name": name, "observatory": "JWST", "parkey": parkey}


def _write_mapping(path, header, selector):
    """Write one mapping with the SHA-1 of its other lines, which CRDS verifies."""
    lines = ["header = {", *(f"    {key!r}: {value!r}," for key, value in header.items()), "}", ""]
    lines += [f"selector = {selector}", ""]
    digest = hashlib.sha1("\n".join(lines).encode()).hexdigest()
    lines.insert(1, f"    'sha1sum': {digest!r},")
    write_whole(path, lambda file: file.write("\n".join(lines).encode()))
