"""The one exception that is meant for people."""


class UserError(Exception):
    """Something the user can mend: the message says what is wrong, where, and what to do.

    Commands print the message as one line and exit with status 1; no traceback.
    """
