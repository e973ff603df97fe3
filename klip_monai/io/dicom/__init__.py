"""DICOM in: files, headers, pixels, geometry, and which images make a volume."""
