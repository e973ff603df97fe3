"""Errors a user can act on. Each message names what was got, what was expected, and the way out, on one line."""

from __future__ import annotations


class KlipError(Exception):
    """Base of every error that the command line shows as one line with exit code 2."""


class InputError(KlipError, ValueError):
    """A scan, sinogram or argument that cannot be used as it is."""


class BundleError(KlipError, ValueError):
    """A bundle that is missing, incomplete, or used outside what its ID reference was made for."""


class OutputError(KlipError, OSError):
    """A place that cannot be written to."""


class PacsError(KlipError, OSError):
    """A DICOMweb server that cannot be reached, does not let us in, or answers with what is no use."""
