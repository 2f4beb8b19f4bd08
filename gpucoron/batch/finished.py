"""Find out quickly that all exposures of a batch are done: from the manifest, and the dates and sizes of files.

Then no reference is looked up and no exposure is opened. If anything may have changed, the full plan decides.
"""

from gpucoron.batch.decision import describe_other_version
from gpucoron.batch.inputs import Input, exposure_name, group_name, is_selected, read_input, select_shard
from gpucoron.batch.outputs import is_untouched
from gpucoron.batch.request import is_same_request
from gpucoron.records.manifest import STARTED


def find_finished(files, past, output_dir, request, *, include_all, shard):
    """Return the inputs of a batch if all of its exposures are done, whatever the CRDS context of their products.

    Parameters
    ----------
    files : list of Path
    past : Past
        Contents of the manifests in the folder.
    output_dir : Path
    request : dict
        The user's request without files, see `gpucoron.batch.request.user_request`.
    include_all, shard
        As for `gpucoron.batch.plan.make_plan`.

    Returns
    -------
    (list of Input, list of Input) or None
        The exposures of the shard, and the files that do not belong to the batch. None if an exposure may have to be
        reduced, if it writes persistence, or if two files have the same name.
    """
    names = [exposure_name(path) for path in files]
    if len(set(names)) < len(names):
        return None
    inputs, left_out = [], []
    for path, name in zip(files, names, strict=True):
        record = past.last.get(name)
        if record is None:
            found = read_input(path)
            if is_selected(found, include_all):
                return None
        elif _is_same_input(path, record):
            found = _input_of(path, name, record)
        else:
            return None
        (inputs if is_selected(found, include_all) else left_out).append(found)
    inputs = select_shard(inputs, shard)
    are_done = all(_is_finished(past.last[found.name], output_dir, request) for found in inputs)
    return (inputs, left_out) if are_done else None


def _is_finished(record, output_dir, request):
    """Return whether an exposure is surely done with the same request by the same versions."""
    return (
        record["status"] not in ("", "failed", STARTED)
        and record.get("persistence") is None
        and all(is_untouched(record, name, output_dir) for name in record["outputs"].values())
        and not describe_other_version(record)
        and is_same_request(record, request)
    )


def _is_same_input(path, record):
    try:
        stat = path.stat()
    except OSError:
        return False
    return [stat.st_size, stat.st_mtime_ns] == [record.get("input_bytes"), record.get("input_date")]


def _input_of(path, name, record):
    """Make the input from its record, without opening the file."""
    words = ("instrument", "detector", "subarray", "exp_type", "filter", "coronmsk", "target", "exposure", "shape")
    fields = {word: record.get(word) for word in words} | {"input": str(path), "input_bytes": record["input_bytes"]}
    return Input(name, group_name(name), path, record["input_bytes"], fields, tuple(record["shape"]))
