"""The Dask engine: the same jobs on a cluster that the user has started (``pip install gpucoron[dask]``)."""

from gpucoron.backends import options_of
from gpucoron.batch.job import now, reduce_job, who
from gpucoron.errors import GpucoronError


def run_on_dask(jobs, scheduler):
    """Reduce jobs on a Dask cluster whose workers see the same files.

    Parameters
    ----------
    jobs : deque of dict
        See `gpucoron.batch.job.reduce_job`. They are taken out; who deals with a result may put further ones in.
    scheduler : str
        Its address, for example ``tcp://10.0.0.1:8786``.

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
        msg = "the engine dask needs Dask distributed: pip install 'gpucoron[dask]'"
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
    """Reduce one job in a Dask worker, with as many threads as the worker has."""
    from distributed import get_worker

    # A GPU has no threads to share.
    own = {"n_threads": get_worker().state.nthreads} if "n_threads" in options_of(job["backend"]) else {}
    return reduce_job({**job, "backend_options": {**own, **job["backend_options"]}})


def _lost(job, future):
    """Record an exposure whose Dask workers died; Dask has tried others before it says so."""
    error = future.exception()
    told = {"type": type(error).__name__, "message": str(error), "traceback": ""}
    moments = {"started": now(), "finished": now(), "seconds": {}}
    return {**job["about"], **who(), **moments, "attempt": 1, "status": "failed", "outputs": {}, "error": told}
