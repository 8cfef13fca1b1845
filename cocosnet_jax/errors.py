"""The one exception that the command line shows without a traceback."""


class UserError(Exception):
    """Something that the user can mend: bad settings, files or folders.

    The message is complete in itself: it names the file or the field, the value that was
    found, and what to do. Entry points print it as one `error: ...` and exit with its status.
    """

    status = 2


class StorageError(UserError):
    """What is to be stored cannot be: another start may find the disk or the network mended."""

    status = 75  # EX_TEMPFAIL
