"""Errors with the exit code that they end the program with (DESIGN.md, "Exit codes")."""


class ReportError(Exception):
    """One clear message for the user; never shown with a traceback."""

    exit_code = 2


class DocumentError(ReportError):
    """A file that is missing or not what it must be."""


class SchemaError(DocumentError):
    """A result document of a schema that this program does not read."""


class PolicyError(ReportError):
    """A policy that cannot be read, or that does not fit the document."""


class SetupError(ReportError):
    """Something of the installation is missing."""


class OutputError(ReportError):
    """An output that cannot be written because of where it is to go."""


class BrokenError(ReportError):
    """Writing broke half-way: the disk is full, the device failed."""

    exit_code = 6


class EnvironmentRefusedError(ReportError):
    """These documents cannot be compared."""

    exit_code = 4
