"""Other files in: NIfTI, NRRD, MetaImage, arrays and raw sinograms."""
