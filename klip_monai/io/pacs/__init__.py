"""A DICOMweb server: series from it, and results back."""
