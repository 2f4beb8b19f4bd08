"""Exposures, references and products in the file formats of jwst and CRDS."""
