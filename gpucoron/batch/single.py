"""Reduce one exposure in this process, and leave what a batch leaves: a record, a preview and a log."""

import logging
import os
import time
from contextlib import suppress
from pathlib import Path

from gpucoron.batch.outputs import describe_outputs
from gpucoron.batch.record import DIGESTS, date_of, describe_error, log_to, process_info, run_fields, utc_now
from gpucoron.errors import GpucoronError, ProductExistsError
from gpucoron.interactive import full_tracebacks

log = logging.getLogger(__name__)


@full_tracebacks()
def reduce_and_record(
    path, output_dir, *, overwrite=False, backend="auto", max_memory=None, before_step=None, after_step=None, **request
):
    """Reduce one file, and record it for the report in ``runs.jsonl`` of the output folder.

    The preview goes to ``previews``, the log to ``logs``. If one of the three cannot be written, there is a warning.

    Parameters
    ----------
    path, output_dir, overwrite, backend, max_memory, before_step, after_step
        See `gpucoron.engine.reduce_file`.
    **request
        ``profile``, ``steps``, ``use_pars``, ``pars``, and the parameters of the run as a whole. Unlike in
        `reduce_file`, all of the first four are needed.

    Returns
    -------
    run, models, paths
        As `gpucoron.engine.reduce_file`.

    Raises
    ------
    GpucoronError
        Neither rate nor rateints was written. The failure is recorded, unless the file does not exist, or its products
        exist and must not be replaced.
    """
    from gpucoron.engine import reduce_file
    from gpucoron.io.products import prepare_output, product_path

    options = {"overwrite": overwrite, "backend": backend, "max_memory": max_memory, **request}
    options |= {"before_step": before_step, "after_step": after_step}
    if not os.path.isfile(path):
        return reduce_file(path, output_dir, **options)  # raises the error
    expected = [product_path(Path(path), output_dir, suffix) for suffix in ("rate", "rateints")]
    prepare_output(output_dir, expected, overwrite, path)
    recorder = _Recorder(path, output_dir, request)
    with log_to(recorder.log_path):
        try:
            run, models, paths = reduce_file(path, output_dir, **options)
        except ProductExistsError:  # another process has written them meanwhile, and recorded them
            raise
        except Exception as error:
            log.info("%s failed: %s", recorder.exposure, error)  # for the log file: the caller reports the error
            recorder.record_failure(error)
            raise
        recorder.record_success(run, paths)
    return run, models, paths


def log_path(output_dir, path):
    """Return the log file of the reduction of a file."""
    from gpucoron.batch.inputs import exposure_name

    return Path(os.path.abspath(output_dir)) / "logs" / f"{exposure_name(path)}.log"


class _Recorder:
    """Collect the record of one reduction, and append it at the end; a problem is a warning."""

    def __init__(self, path, output_dir, request):
        from gpucoron.backends.process_memory import reset_peak_memory
        from gpucoron.batch.inputs import exposure_name

        self._start = time.perf_counter()
        self._path, self._folder = Path(os.path.abspath(path)), Path(os.path.abspath(output_dir))
        self._request, self.exposure = request, exposure_name(path)
        self._begun = {**process_info(), "attempt": 1, "started": utc_now()}
        self._input_date = date_of(self._path)
        self.log_path = log_path(output_dir, path)
        try:
            self.log_path.parent.mkdir(exist_ok=True)
        except OSError as error:
            log.warning("%s: no log is written (%s)", self.log_path.parent, error.strerror)
        DIGESTS.prepare(str(self._path))
        reset_peak_memory()

    def record_success(self, run, paths):
        """Save the preview, and append the record of an exposure that was reduced."""
        from gpucoron.records.previews import preview_path, save_preview

        done = {}

        def fields():
            done.update(run_fields(run, paths, self.exposure, self._folder), status="done" if paths else "no rate")
            done["output_files"] = describe_outputs(done["outputs"], self._folder)
            return done

        self._append(fields, run)
        try:
            save_preview(run, preview_path(self._folder, self.exposure), done.get("product_date", ""))
        except Exception as error:  # the products are written
            log.warning("%s: no preview for the report: %s", self.exposure, error)

    def record_failure(self, error):
        """Append the record of an exposure that failed."""
        self._append(lambda: {"status": "failed", "outputs": {}, "error": describe_error(error)})

    def _append(self, fields, run=None):
        from gpucoron.backends.process_memory import peak_memory
        from gpucoron.records.runs import append_run

        try:
            record = {**self._input_fields(), **self._begun, **self._asked(run), **fields()}
            record["seconds"] = {
                **(record.get("seconds") or {}),
                "total": round(time.perf_counter() - self._start, 4),
            }
            record |= {"peak_memory": peak_memory(), "finished": utc_now()}
            append_run(self._folder, record)
        except Exception as error:  # the products are written
            log.warning("%s: not recorded for the report: %s", self.exposure, error)

    def _input_fields(self):
        from gpucoron.batch.inputs import read_input

        return {
            **read_input(self._path).record_fields,
            "input_path": str(self._path),
            "input_date": self._input_date,
            "input_sha256": DIGESTS.sha256(str(self._path)),
        }

    def _asked(self, run):
        """Return the user's request, in which all files have absolute paths."""
        from gpucoron.batch.plan import with_whole_path
        from gpucoron.batch.request import request_digest, user_request
        from gpucoron.io.crds_lookup import crds_context
        from gpucoron.io.parameter_files import parameters_from_files, takes_crds_pars

        request = dict(self._request)
        profile, steps, use_pars, pars = (request.pop(name) for name in ("profile", "steps", "use_pars", "pars"))
        steps = {
            step: {name: with_whole_path(step, name, value) for name, value in values.items()}
            for step, values in steps.items()
        }
        asked = user_request(
            run,
            profile=profile,
            steps=steps,
            run_parameters=request,
            use_pars=takes_crds_pars(profile, use_pars),
            from_files=parameters_from_files(pars)[:2],
        )
        fields = {"profile": profile, "asked": asked, "parameters_digest": request_digest(asked)}
        with suppress(GpucoronError):  # it may be the reason of the failure
            fields["context"] = crds_context()[0]
        return fields
