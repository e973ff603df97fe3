"""Errors a user can act on. Each message names what was got, what was expected, and the way out, on one line."""

from __future__ import annotations


class KlipError(Exception):
    """Base of every error that the command line shows as one line with exit code 2.

    The message may quote what a damaged file says: control characters, which would act on a terminal, become spaces.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class InputError(KlipError, ValueError):
    """A scan, sinogram or argument that cannot be used as it is."""


class BundleError(KlipError, ValueError):
    """A bundle that is missing, incomplete, or used outside what its ID reference was made for."""


class OutputError(KlipError, OSError):
    """A place that cannot be written to."""


class PacsError(KlipError, OSError):
    """A DICOMweb server that cannot be reached, does not let us in, or answers with what is no use."""


def no_access(path: object, error: OSError) -> InputError:
    """Of the disk or the network, not of the file: no verdict on what it holds."""
    reason = error.strerror or type(error).__name__
    return InputError(f"{path}: got no access ({reason}), expected a file that can be read; try again")


def printable(message: str) -> str:
    """A message on one line, without characters that would act on a terminal."""
    if message.isprintable():
        return message
    return " ".join("".join(letter if letter.isprintable() else " " for letter in message).split())


def known_error(error: BaseException) -> KlipError | None:
    """The KlipError behind an error that MONAI's transforms and engines wrapped, if there is one."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, KlipError):
        seen = seen.__cause__ or seen.__context__
    return seen
