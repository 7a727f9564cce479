"""The exception whose message is meant for users."""


class UserError(Exception):
    """Something that the user can fix: the message says what is wrong, where, and what to do.

    Commands print the message as one line and exit with status 1; no traceback.
    """
