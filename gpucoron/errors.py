"""The exceptions of gpucoron. Each message names the file, the problem and what the user can do."""


class GpucoronError(Exception):
    """Base class of all errors that gpucoron raises."""


class InputError(GpucoronError):
    """The input file cannot be reduced: it is not FITS, damaged, incomplete, or of an unknown type."""


class ReferenceFileError(GpucoronError):
    """A calibration reference, or CRDS itself, is missing, damaged or does not fit the exposure."""


class ParameterError(GpucoronError):
    """A step or a parameter does not exist, or its value is invalid."""


class UserFileError(ParameterError):
    """A file that a parameter names is missing, unreadable, or of the wrong kind; or it cannot be written."""


class BackendUnavailableError(GpucoronError):
    """The requested backend cannot run on this machine."""


class OutputError(GpucoronError):
    """A product cannot be written, or already exists."""


class ProductExistsError(OutputError):
    """A product already exists and must not be replaced."""


class VersionError(GpucoronError):
    """A required package is missing or too old."""


class ArgumentError(ParameterError, ValueError, TypeError):
    """An argument of a function is invalid: an array of the wrong shape or type, or an unknown option."""


class TooLittleMemoryError(GpucoronError, MemoryError):
    """The machine or the device has too little memory for an exposure."""


class InternalError(GpucoronError, RuntimeError):
    """An unexpected error inside gpucoron; the original is ``__cause__``, and the log holds the traceback."""
