"""Shared test cases: small ramps, exposures, batches and references."""
