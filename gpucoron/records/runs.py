"""The records of single runs: ``runs.jsonl`` in the folder of their products, with the fields of a batch's manifest.

Several runs may append to it at the same time: each locks the file while it writes its line.
"""

from gpucoron.records.manifest import PATIENCE, RUNS, Manifest


def append_run(folder, record, patience=PATIENCE):
    """Append the record of a single run to the file of its folder, in a single write under a lock.

    Parameters
    ----------
    folder : str or Path
        Folder of the products; it must exist.
    record : dict
        See `gpucoron.records.manifest.FIELDS`; other fields are not stored.
    patience : float
        Seconds to wait for another run that is writing.

    Raises
    ------
    OutputError
        The file cannot be locked or written to.
    """
    with _RunsFile(folder, patience=patience) as file:
        file.append(record)


class _RunsFile(Manifest):
    """A manifest that is locked only while one line is appended."""

    _again = "reduce it again"

    def __init__(self, folder, patience):
        super().__init__(folder, patience=patience)
        self.path = self.folder / RUNS

    def _describe_holder(self, path):
        return f"{path}: another run has been writing for {self.patience:g} s; the record is not written"
