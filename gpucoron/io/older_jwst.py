"""What the data models of older jwst lack, in one place: stdatamodels 5, which jwst 2.0 brings, beside stdatamodels 6.

The files are the same; only the models' schemas know less.
"""

#: attribute that stdatamodels 5 does not know -> what its schema says of it in stdatamodels 6
_ADDED = {
    "inv_coeffs": {
        "title": "Inverse linearity coefficients",
        "fits_hdu": "INV_COEFFS",
        "ndim": 3,
        "datatype": "float32",
    }
}


def read_array(model, name):
    """Give an array of an open reference, also where the installed data model does not know it.

    Parameters
    ----------
    model : stdatamodels model
        As read from FITS.
    name : str

    Returns
    -------
    array or None
        None where the file has none.
    """
    array = getattr(model, name, None)
    if array is not None or name not in _ADDED or not model.hasattr("extra_fits"):
        return array
    extra = getattr(model.extra_fits, _ADDED[name]["fits_hdu"], None)
    return None if extra is None else extra.data


def set_array(model, name, array):
    """Give a reference an array, also where the installed data model does not know it: the file is the same."""
    if name in _ADDED and name not in model.schema["properties"]:
        model.add_schema_entry(name, _ADDED[name])
    setattr(model, name, array)
