"""Errors that are a user's to mend: each message is one line that says what, where and what is allowed."""


class UserError(Exception):
    """Something the user can change; the command line prints the message alone and exits with `exit_code`."""

    exit_code = 1


class ConfigError(UserError):
    """A setting that is unknown, misspelt or out of range. One line per setting."""

    exit_code = 2


class RunFailed(UserError):
    """The run cannot go on; what it had reached lies in its folder."""


class DataError(UserError, ValueError):
    """A data set that cannot be used as it is. One line: what is wrong, where, and what is allowed."""
