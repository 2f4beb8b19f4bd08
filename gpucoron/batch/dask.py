"""Run a batch on a Dask cluster that the user has started (``pip install gpucoron[dask]``)."""

from gpucoron.backends import options_of
from gpucoron.batch.job import reduce_job
from gpucoron.batch.record import process_info, utc_now
from gpucoron.errors import GpucoronError


def run_on_dask(jobs, scheduler):
    """Reduce jobs on a Dask cluster; its workers must have access to the same files.

    Parameters
    ----------
    jobs : deque of dict
        See `gpucoron.batch.job.reduce_job`. Jobs are removed when they are submitted; the caller may append more
        after each result.
    scheduler : str
        Address of the scheduler, for example ``tcp://10.0.0.1:8786``.

    Yields
    ------
    ('result', job, record)

    Raises
    ------
    GpucoronError
        Dask is not installed, or the scheduler does not answer.
    """
    try:
        from distributed import Client, as_completed
    except ImportError:
        msg = "the engine dask needs dask.distributed: pip install 'gpucoron[dask]'"
        raise GpucoronError(msg) from None
    try:
        client = Client(scheduler, set_as_default=False)
    except (OSError, TypeError, ValueError) as error:
        msg = f"the Dask scheduler {scheduler} does not answer ({error}); check its address"
        raise GpucoronError(msg) from error
    futures, finished = {}, as_completed(loop=client.loop)

    def submit():
        while jobs:
            job = jobs.popleft()
            future = client.submit(reduce_on_dask, job, pure=False)
            futures[future] = job
            finished.add(future)

    try:
        submit()
        for future in finished:
            job = futures.pop(future)
            yield "result", job, future.result() if future.status == "finished" else _lost(job, future)
            submit()
    finally:
        client.cancel(list(futures))
        client.close()


def reduce_on_dask(job):
    """Reduce one job in a Dask worker, using the threads of that worker."""
    from distributed import get_worker

    # GPU backends have no option n_threads.
    own = {"n_threads": get_worker().state.nthreads} if "n_threads" in options_of(job["backend"]) else {}
    return reduce_job({**job, "backend_options": {**own, **job["backend_options"]}})


def _lost(job, future):
    """Return the failed record of an exposure whose Dask workers died; Dask has already retried it."""
    error = future.exception()
    failure = {"type": type(error).__name__, "message": str(error), "traceback": ""}
    moments = {"started": utc_now(), "finished": utc_now(), "seconds": {}}
    record = {**job["record_fields"], **process_info(), **moments, "attempt": 1}
    return {**record, "status": "failed", "outputs": {}, "error": failure}
