"""Exposures, settings and damaged files drawn at random."""
