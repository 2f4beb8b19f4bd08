"""Keep the BLAS library to one thread where its number of threads could change the last bits of a result.

BLAS sums the products of a large matrix in an order that depends on its threads. The operations use several threads
themselves, so they lose no speed.
"""

from contextlib import nullcontext
from functools import cache


@cache
def _controller():
    """Return threadpoolctl's controller of the BLAS libraries in this process; None without threadpoolctl."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController().select(user_api="blas")


def one_blas_thread():
    """Return a context in which BLAS has one thread, in all threads of the process; it costs less than 0.1 ms.

    Without threadpoolctl, or while another thread of the process controls BLAS, the context does nothing. The
    operations then rely on matrices that are too small for BLAS to use threads.
    """
    controller = _controller()
    return nullcontext() if controller is None else controller.limit(limits=1)
