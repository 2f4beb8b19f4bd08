"""What is kept between exposures changes no result: no header card, no node of a tree, no warning."""

import re
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import asdf
import numpy as np
import pytest
from asdf.exceptions import ValidationError
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st
from stdatamodels import validate
from stdatamodels.jwst import datamodels

import gpucoron
from gpucoron.io import kept as module
from gpucoron.io.exposure import Exposure
from gpucoron.io.kept import is_surely_valid, kept, schema_of

#: values that their schemas do not allow, in the warnings
_DAMAGED = ("no such mask", "yesterday", "2.5")


@pytest.fixture
def without(monkeypatch):
    """Return a function after which nothing is replaced."""
    return lambda: monkeypatch.setattr(module, "_replaceable", tuple)


@pytest.fixture(scope="module")
def files(exposures, tmp_path_factory):
    """Exposures that differ: both instruments, with keywords that no schema has, and with damaged ones."""
    folder = tmp_path_factory.mktemp("raw")
    nircam = exposures("NIRCAM", "SUB320A335R", "RAPID", 5, 2, shape=(40, 48))
    miri = exposures("MIRI", "MASK1550", "FASTR1", 8, 2, shape=(40, 48))
    made = [(nircam.path, nircam.cache), (miri.path, miri.cache)]

    def changed(name, **values):
        path = folder / nircam.path.name.replace("02101", name)
        with fits.open(nircam.path) as hdus:
            for keyword, value in values.items():
                hdus[0].header[keyword] = value
            hdus[0].header["HISTORY"] = "a line of the user"
            hdus.writeto(path)
        made.append((path, nircam.cache))

    changed("02102", MINE=1.5, TITLE="another title", COMMENT="from the user")
    changed("02103", CORONMSK="no such mask", EXPSTART="yesterday", BKGDTARG=3, PATT_NUM=2.5, NRESETS=2**40, DATAPROB=1)
    return made


def contents(path):
    """Return the cards, the arrays and the lines of the ASDF tree of a product, without what depends on the time."""
    with fits.open(path) as hdus:
        cards = [str(card) for hdu in hdus if hdu.name != "ASDF" for card in hdu.header.cards if card.keyword != "DATE"]
        arrays = [hdu.data.tobytes() for hdu in hdus if hdu.name != "ASDF" and hdu.data is not None]
        text = hdus["ASDF"].data.tobytes().split(b"\n...\n")[0].decode(errors="replace")
    # the log has times, and the digest of the headers depends on the date
    text = re.sub(r"\ncal_logs:.*?\n(?=\S)", "\n", text, flags=re.DOTALL)
    text = re.sub(r"\d{4}-\d\d-\d\d.\d\d:\d\d:\d\d\S*|_fits_hash: \w+", "", text)
    return path.name, cards, arrays, text.split("\n")


def reduce_all(files, folder):
    """Reduce files one after the other; return what is in the products, and the warnings."""
    found = []
    for path, cache in files:
        with cache.activate(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _run, _models, paths = gpucoron.reduce_file(path, folder, backend="numpy", overwrite=True)
        found.append(([str(each.message) for each in caught], [contents(product) for product in paths.values()]))
    return found


def test_products_are_the_same(files, tmp_path, without):
    several = [*files, *files[::-1]]
    first = reduce_all(several, tmp_path)
    without()
    second = reduce_all(several, tmp_path)
    for (warned, products), (warned_before, products_before) in zip(first, second, strict=True):
        assert warned == warned_before
        for product, before in zip(products, products_before, strict=True):
            for part, part_before in zip(product, before, strict=True):
                assert [pair for pair in zip(part, part_before, strict=True) if pair[0] != pair[1]] == []
    # every damaged keyword was seen
    assert all(any(value in text for text in first[3][0]) for value in _DAMAGED)


def test_threads_read_the_same(files, without):
    def read(path):
        values = Exposure.read(path).meta.to_flat_dict()
        return {name: value for name, value in values.items() if not isinstance(value, np.ndarray)}

    paths = [path for path, _cache in files] * 4
    with ThreadPoolExecutor(4) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        together = [str(each) for each in pool.map(read, paths)]
        without()
        assert together == [str(read(path)) for path in paths]


def schemas_of_values(schema):
    """Yield every part of a schema that may describe a single value."""
    if isinstance(schema, dict):
        if "properties" not in schema and "items" not in schema:
            yield schema
        for part in schema.values():
            yield from schemas_of_values(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from schemas_of_values(part)


_MODEL = datamodels.RampModel()
_PARTS = [part for part in schemas_of_values(_MODEL.schema) if "type" in part or "enum" in part]
_STRINGS = sorted({text for part in _PARTS for text in part.get("enum", ()) if isinstance(text, str)})
_VALUES = st.one_of(
    st.sampled_from(_STRINGS), st.text(), st.integers(-(2**70), 2**70), st.integers(-3, 3), st.floats(), st.booleans(),
    st.none(), st.builds(np.float32, st.floats(width=32)), st.lists(st.integers(0, 2), max_size=2),
)  # fmt: skip


@given(part=st.sampled_from(_PARTS), value=_VALUES)
def test_values_accepted_at_once_are_valid(part, value):
    if is_surely_valid(value, part):
        validate._check_value(value, part, _MODEL)


def test_most_keywords_need_no_validator(files):
    with fits.open(files[0][0]) as hdus:
        values = {keyword: value for hdu in hdus for keyword, value in hdu.header.items()}
    described = [part for part in _PARTS if part.get("fits_keyword") in values]
    at_once = [part for part in described if is_surely_valid(values[part["fits_keyword"]], part)]
    assert len(described) > 100
    assert len(at_once) > 0.9 * len(described)


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        ("x", {"type": "number"}), (True, {"type": "integer"}), (True, {"type": "number"}), (1, {"type": "boolean"}),
        ("x", {"enum": ["y"]}), (2**62, {"type": "integer"}), (1, {"enum": [1]}), (1.0, {"type": "integer"}),
        ("x", {"type": "string", "maxLength": 0}), ("x", {"type": ["string", "null"]}), ("x", {"tag": "some tag"}),
        ("x", {"$ref": "elsewhere"}), ("x", {"anyOf": [{"type": "number"}]}), ("x", {"pattern": "y"}),
    ],
)  # fmt: skip
def test_other_values_need_a_validator(value, schema):
    assert not is_surely_valid(value, schema)


def replaced():
    """Return what may be replaced, as it is now."""
    return {(owner, name): getattr(owner, name) for owner, name, _make, _arguments in module._replaceable()}


def test_everything_is_put_back():
    before = replaced()
    with kept():
        inside = replaced()
        assert all(inside[key] is not before[key] for key in before)
        with kept():
            assert replaced() == inside
        assert replaced() == inside
    assert replaced() == before
    with pytest.raises(ZeroDivisionError), kept():
        _ = 1 / 0
    assert replaced() == before


def test_other_threads_get_the_originals():
    """A thread without a block sees settings that change meanwhile, and its values are checked by validators."""
    schema, model = {"type": "string", "title": "a title"}, datamodels.RampModel()
    outcome = []

    def elsewhere():
        with fits.conf.set_temp("strip_header_whitespace", True):
            fits.card.conf.strip_header_whitespace = False
            outcome.append(fits.conf.strip_header_whitespace)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(validate.asdf_schema, "validate", lambda *args, **named: outcome.append("validated"))
            validate._check_value("text", schema, model)

    with kept():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert outcome == [False, "validated"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(validate.asdf_schema, "validate", lambda *args, **named: outcome.append("here"))
            validate._check_value("text", schema, model)
    assert outcome == [False, "validated"]


def test_settings_of_the_user_apply():
    with fits.conf.set_temp("strip_header_whitespace", False), kept():
        assert fits.Card.fromstring("KEY     = 'text   '").value == "text   "
    with kept():
        assert fits.Card.fromstring("KEY     = 'text   '").value == "text"


def test_invalid_values_are_refused_in_a_block():
    model = datamodels.RampModel(strict_validation=True)
    with kept(), pytest.raises(ValidationError, match="'HUBBLE' is not one of"):
        model.meta.instrument.name = "HUBBLE"


def test_a_schema_that_changes_is_parsed_again():
    uri = "asdf://gpucoron.org/schemas/changing-1.0.0"
    found = []
    for kind in ("string", "number"):
        text = f"%YAML 1.1\n---\nid: {uri}\ntype: {kind}\n...\n".encode()
        with asdf.config_context() as config, kept():
            config.add_resource_mapping({uri: text})
            found.append(asdf.schema._make_schema_loader()(uri)[0]["type"])
    assert found == ["string", "number"]


def test_functions_with_other_arguments_stay(monkeypatch):
    """Another version of stdatamodels may pass its values differently."""

    def check_value(value, schema, ctx, path):
        raise AssertionError

    monkeypatch.setattr(validate, "_check_value", check_value)
    monkeypatch.delattr(asdf.schema, "_make_schema_loader")
    with kept():
        assert validate._check_value is check_value
        assert not hasattr(asdf.schema, "_make_schema_loader")


def test_a_schema_is_loaded_once_and_models_do_not_share_it():
    schema = schema_of(datamodels.RampModel)
    assert schema_of(datamodels.RampModel) is schema
    first, second = (datamodels.RampModel(schema=schema) for _ in range(2))
    assert first.schema == datamodels.RampModel().schema
    first.schema["properties"]["meta"]["properties"]["mine"] = {"type": "string"}
    assert "mine" not in second.schema["properties"]["meta"]["properties"]
