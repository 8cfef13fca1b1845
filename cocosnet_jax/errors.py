"""The one exception that the command line shows without a traceback."""


class UserError(Exception):
    """Something that the user can mend: bad settings, files or folders.

    The message is complete in itself: it names the file or the field, the value that was
    found, and what to do. Entry points print it as one `error: ...` and exit with status 2.
    """
