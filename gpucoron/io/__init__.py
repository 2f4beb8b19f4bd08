"""Exposures, references and products: the files that jwst and CRDS know."""
