"""Keep between exposures what asdf, astropy and stdatamodels otherwise work out again for each of them.

For every exposure asdf parses the same schemas 37 times, stdatamodels makes a validator for each keyword, and astropy
looks up its settings 8000 times. None of these packages has an option to keep the results. While a block
``with kept():`` runs, a few of their functions are replaced. The replacements act only in threads that are in such a
block; elsewhere they call the original. A function that the installed version does not have, or that takes other
arguments, is not replaced.

Results are the same: a schema is kept together with the text from which it was parsed, a value is accepted without a
validator only if its schema asks for nothing but a simple type or one of several strings, and settings are those at
the beginning of the block.
"""

import inspect
import threading
from contextlib import contextmanager
from functools import cache

#: settings of astropy.io.fits that are looked up for each card
_SETTINGS = ("strip_header_whitespace", "enable_record_valued_keyword_cards", "extension_name_case_sensitive")
#: type of a value -> its names in schemas
_TYPE_NAMES = {str: ("string",), int: ("integer", "number"), float: ("number",), bool: ("boolean",)}
#: ASDF refuses whole numbers that are much larger than this
_SURELY_SMALL = 2**31


class _Here(threading.local):
    """The settings of the outermost block of this thread; None outside of a block."""

    settings = None


_here = _Here()
_changing = threading.Lock()
_n_blocks = 0
#: (module, name, original, replacement) of what is replaced now
_replaced: list[tuple] = []


@contextmanager
def kept():
    """Use kept schemas, checks and settings in this thread. Blocks may be nested, and those of threads may overlap."""
    outer = _here.settings
    _begin()
    try:
        _here.settings = _read_settings() if outer is None else outer
        yield
    finally:
        _here.settings = outer
        _end()


def _begin():
    global _n_blocks
    with _changing:
        if _n_blocks == 0:
            _replaced.extend(_find_replaceable())
            for module, name, _original, replacement in _replaced:
                setattr(module, name, replacement)
        _n_blocks += 1


def _find_replaceable():
    """Return (module, name, original, replacement) of everything that the installed versions have."""
    found = []
    for module, name, make, arguments in _replaceable():
        original = getattr(module, name, None)
        if original is not None and (arguments is None or _arguments(original) == arguments):
            found.append((module, name, original, _replacement(make, original)))
    return found


def _end():
    global _n_blocks
    with _changing:
        _n_blocks -= 1
        while _n_blocks == 0 and _replaced:
            module, name, original, replacement = _replaced.pop()
            if getattr(module, name) is replacement:  # nobody else has replaced it meanwhile
                setattr(module, name, original)


@cache
def _replacement(make, original):
    return make(original)


@cache
def _arguments(function):
    return tuple(inspect.signature(function).parameters)


@cache
def schema_of(model_class):
    """Return the schema of a class of data models, for its argument ``schema``. It must not be changed.

    A model merges it into a tree of its own, as it does with a schema that it loads itself.
    """
    from asdf.schema import load_schema

    return load_schema(model_class.schema_url, resolve_references=True)


def _parse_once(make_loader):
    """Replace asdf's ``_make_schema_loader`` so that the text of each schema is parsed once."""
    parsed = {}

    def make_loader_that_keeps():
        load = make_loader()
        return load if _here.settings is None else lambda url: load_once(load, url)

    def load_once(load, url):
        from asdf import get_config

        resources = get_config().resource_manager
        if url not in resources:
            return load(url)
        key = url, resources[url]
        if key not in parsed:
            parsed[key] = load(url)
        return parsed[key]

    return make_loader_that_keeps


def _accept_simple_values(check_value):
    """Replace stdatamodels' ``_check_value`` so that most values need no validator."""

    def check(value, schema, ctx):
        if _here.settings is None or not is_surely_valid(value, schema):
            check_value(value, schema, ctx)

    return check


def is_surely_valid(value, schema):
    """Return whether a value is valid, as far as can be told without a validator.

    Parameters
    ----------
    value : object
    schema : dict
        The part of a schema that describes the value.

    Returns
    -------
    bool
        True only if the schema asks for nothing but the type of the value, or for one of several strings.
    """
    from asdf.schema import YAML_VALIDATORS

    names = _TYPE_NAMES.get(type(value))
    if names is None or (type(value) is int and abs(value) > _SURELY_SMALL):
        return False
    for key, wanted in schema.items():
        if key == "type":
            is_met = wanted in names
        elif key == "enum":
            is_met = type(value) is str and value in wanted
        else:
            is_met = key not in YAML_VALIDATORS  # titles, names of keywords
        if not is_met:
            return False
    return True


def _read_settings():
    from astropy.io.fits import conf

    return {name: getattr(conf, name) for name in _SETTINGS}


def _setting(name):
    """Return a property: the setting at the beginning of the block, outside of a block as it is now."""

    def read(self):
        settings = _here.settings
        return getattr(self.original, name) if settings is None else settings[name]

    return property(read, lambda self, value: setattr(self.original, name, value))


class _Settings:
    """The settings of astropy.io.fits."""

    def __init__(self, original):
        self.original = original

    def __getattr__(self, name):
        return getattr(self.original, name)


for _name in _SETTINGS:
    setattr(_Settings, _name, _setting(_name))


def _replaceable():
    """Return (module, name, maker of the replacement, arguments of the function or None if it is not one)."""
    from asdf import schema
    from astropy.io.fits import card
    from astropy.io.fits.hdu import base
    from stdatamodels import validate

    return (
        (schema, "_make_schema_loader", _parse_once, ()),
        (validate, "_check_value", _accept_simple_values, ("value", "schema", "ctx")),
        (card, "conf", _Settings, None),
        (base, "conf", _Settings, None),
    )
