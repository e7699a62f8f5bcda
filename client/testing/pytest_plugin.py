"""The pytest plugin `sira`, loaded by pytest wherever Sira is installed."""
