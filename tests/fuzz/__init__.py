"""Random exposures, settings and damaged files."""
