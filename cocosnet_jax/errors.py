"""Exceptions that the command line shows without a traceback."""


class UserError(Exception):
    """An error that the user can fix: bad settings, files or folders.

    The message names the file or field, the actual value, and what to do. Entry points print
    `error: MESSAGE` and exit with `status`.
    """

    status = 2


class ProcessError(UserError):
    """Another process is missing or hangs; the same command may succeed."""

    status = 75  # EX_TEMPFAIL


class StorageError(UserError):
    """The storage failed; the same command may succeed once disk or network work again."""

    status = 75  # EX_TEMPFAIL
