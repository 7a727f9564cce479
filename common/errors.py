"""The exception whose message is meant for users."""


class UserError(Exception):
    """What the user can fix: the message says what is wrong, where, and what to do; commands exit with 1."""
