"""The operations on cosmic rays by two-point differences."""
