"""The tests of gpucoron, in folders that mirror the package."""
