"""A disk that is full while astropy writes FITS files."""

import errno

from astropy.io import fits
from astropy.io.fits.hdu.base import _BaseHDU


def fill_disk(patch, written, ending):
    """Let astropy write this number of HDUs, then let the disk be full for files with this ending."""
    left, write = [written], _BaseHDU._writeto

    def write_or_fail(hdu, file, *args, **kwargs):
        if str(getattr(file, "name", "")).endswith(ending):  # other file objects have no name
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
        return write(hdu, file, *args, **kwargs)

    patch.setattr(_BaseHDU, "_writeto", write_or_fail)
    patch.setattr(fits.util.data, "get_free_space_in_dir", lambda path: 0)
