"""What can go wrong, by name. Every message says what is wrong with which file, and the way out."""


class GpucoronError(Exception):
    """The parent of every error that gpucoron raises on purpose."""


class InputError(GpucoronError):
    """The input file cannot be reduced: not FITS, damaged, incomplete, or of a kind that stage 1 does not know."""


class ReferenceFileError(GpucoronError):
    """A calibration reference, or CRDS itself, is missing, damaged or does not fit the exposure."""


class ParameterError(GpucoronError):
    """A step or a parameter does not exist, or its value makes no sense."""


class BackendUnavailableError(GpucoronError):
    """The requested backend cannot run on this machine."""


class OutputError(GpucoronError):
    """A product cannot be written, or exists already."""


class VersionError(GpucoronError):
    """A package that gpucoron needs is missing, or older than it can work with."""


class ArgumentError(ParameterError, ValueError, TypeError):
    """An argument of a function makes no sense: an array of another shape or kind, an option that nobody takes."""


class TooLittleMemoryError(GpucoronError, MemoryError):
    """The machine or the device has too little memory for an exposure."""


class InternalError(GpucoronError, RuntimeError):
    """Something in gpucoron itself failed; its cause is ``__cause__``, and the traceback is in the log."""
