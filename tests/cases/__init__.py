"""Shared cases: small ramps, exposures, batches and references that tests of several folders use."""
