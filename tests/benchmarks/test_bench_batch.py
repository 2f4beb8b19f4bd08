"""The benchmark of a batch reads the manifest that batches write now."""

import pytest

from tests.cases.batches import Raw
from tests.cases.paths import BENCHMARKS


@pytest.fixture
def bench_batch(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench_batch

    return bench_batch


def test_a_batch_is_timed_and_reported(bench_batch, tmp_path, capsys):
    raw = Raw(tmp_path, 3)
    batch = bench_batch.run_batch(raw.files, tmp_path / "out", 1, raw.environment())
    assert len(batch["warm"]) == 2  # all but the first of the only worker
    assert all(0 < one["steps"] < one["total"] < batch["seconds"] for one in batch["warm"])
    jwst = {"seconds": [3.0, 3.0], "floors": [0.1, 0.1]}
    figures = {"exposures": 3, "copies": 1, "workers": 1, "batch": batch, "long batch": batch, "jwst warm": jwst}
    bench_batch.report(figures)
    assert figures["ratios"]["jwst warm"] == pytest.approx(6.0 / batch["seconds"])
    assert figures["parts"]["total"] == pytest.approx(sum(one["total"] for one in batch["warm"]) / 2)
    assert "0.100 s" in capsys.readouterr().out
