"""The figure of a run: it shows the arrays of the products."""

import numpy as np
import pytest
from astropy.io import fits
from PIL import Image

from gpucoron import engine
from gpucoron.dq import DO_NOT_USE, JUMP_DET, REFERENCE_PIXEL, SATURATED
from gpucoron.errors import InputError, OutputError, ParameterError
from gpucoron.records.run import Run


@pytest.fixture(scope="module")
def done(exposures, tmp_path_factory):
    """A run, and the paths of its products."""
    case = exposures("NIRCAM", "SUB320A335R", "RAPID", 5, 2, shape=(24, 32))
    folder = tmp_path_factory.mktemp("picture")
    with case.cache.activate():
        run, _models, paths = engine.reduce_file(case.path, folder, backend="numpy")
    return run, paths


def image_of(axes):
    return np.ma.filled(axes.images[0].get_array().astype(float), np.nan)


def test_images_are_those_of_the_product(done):
    run, paths = done
    figure = run.plot()
    of_rate, of_error, of_flags, of_steps = figure.axes[:4]
    (path,) = (path for stem, path in paths.items() if stem.endswith("_rate"))
    with fits.open(path) as product:
        rate, err, dq = (product[name].data for name in ("SCI", "ERR", "DQ"))
    unusable = (dq & (DO_NOT_USE | REFERENCE_PIXEL)) != 0
    assert unusable.any() and not unusable.all()
    np.testing.assert_array_equal(image_of(of_rate), np.where(unusable, np.nan, rate))
    np.testing.assert_array_equal(image_of(of_error), np.where(unusable | ~(err > 0), np.nan, err))
    expected = np.zeros(dq.shape)
    for number, flag in enumerate((JUMP_DET, SATURATED, DO_NOT_USE), 1):
        expected[(dq & flag) != 0] = number
    np.testing.assert_array_equal(image_of(of_flags), expected)
    labels = [text.get_text() for axes in figure.axes[4:] for text in axes.get_yticklabels()]
    assert f"do not use\n{np.count_nonzero(dq & DO_NOT_USE):,}" in labels
    ran = [record for record in run.records if record.status == "COMPLETE"]
    assert [text.get_text() for text in of_steps.get_yticklabels()] == [record.name for record in ran]
    assert [bar.get_width() for bar in of_steps.patches] == [record.seconds for record in ran]
    assert run.exposure.path.name in figure.get_suptitle()


def test_it_copies_no_ramp(done):
    run, _paths = done
    copied, to_host = [], run.backend.to_host

    class Watched:
        def __getattr__(self, name):
            return getattr(run.backend, name)

        def to_host(self, array):
            copied.append(array.shape)
            return to_host(array)

    values = {name: value for name, value in vars(run).items() if name != "backend"}
    Run(backend=Watched(), **values).plot()
    assert copied == [(24, 32)] * 3


def test_it_is_written(done, tmp_path):
    run, _paths = done
    figure = run.plot(tmp_path / "new" / "run.png")
    with Image.open(tmp_path / "new" / "run.png") as picture:
        assert picture.size == (1500, 1200)
    assert figure._repr_png_().startswith(b"\x89PNG")
    run.plot(str(tmp_path / "run.svg"))
    assert "<svg" in (tmp_path / "run.svg").read_text()
    with pytest.raises(ParameterError, match=r"ends in \.png, \.pdf or \.svg"):
        run.plot(tmp_path / "run.jpg")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="could not be written"):
        run.plot(tmp_path / "file" / "run.png")


@pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning")
@pytest.mark.parametrize("value", [np.nan, -3.0])
def test_images_without_contrast_are_drawn(done, value):
    run, _paths = done
    values = {name: value for name, value in vars(run).items() if name not in ("exposure", "backend")}
    image = np.full((8, 8), value, np.float32)
    exposure = type(run.exposure)(facts=run.exposure.facts)
    exposure.rate = type(run.exposure.rate)(image, np.zeros((8, 8), np.uint32), image, image, image)
    figure = Run(exposure=exposure, backend=engine.get_backend("numpy"), **values).plot()
    figure.draw_without_rendering()


def test_without_a_rate(exposures, tmp_path):
    case = exposures("NIRCAM", "SUB320A335R", "RAPID", 5, 2, shape=(24, 32))
    with case.cache.activate():
        run, _models, _paths = engine.reduce_file(case.path, tmp_path, steps={"ramp_fit": {"skip": True}})
    with pytest.raises(InputError, match=f"{case.path.name}: there is no rate to draw"):
        run.plot()
