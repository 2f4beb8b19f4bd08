"""Reference arrays that the data models of jwst 2.0 (stdatamodels 5) lack, compared with stdatamodels 6.

The reference files are the same; only the schemas differ.
"""

#: attribute missing in stdatamodels 5 -> its schema in stdatamodels 6
_ADDED = {
    "inv_coeffs": {
        "title": "Inverse linearity coefficients",
        "fits_hdu": "INV_COEFFS",
        "ndim": 3,
        "datatype": "float32",
    }
}


def read_array(model, name):
    """Return an array of an open reference, even if the installed data model lacks it.

    Parameters
    ----------
    model : stdatamodels model
        Read from a FITS file.
    name : str

    Returns
    -------
    array or None
        None if the file does not have the array.
    """
    array = getattr(model, name, None)
    if array is not None or name not in _ADDED or not model.hasattr("extra_fits"):
        return array
    extra = getattr(model.extra_fits, _ADDED[name]["fits_hdu"], None)
    return None if extra is None else extra.data


def set_array(model, name, array):
    """Set an array of a reference, even if the installed data model lacks it; the file will be the same."""
    if name in _ADDED and name not in model.schema["properties"]:
        model.add_schema_entry(name, _ADDED[name])
    setattr(model, name, array)
