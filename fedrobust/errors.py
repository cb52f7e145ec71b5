"""Errors that a user can correct: each message is one line that says what is wrong, where, and what is allowed."""


class UserError(Exception):
    """An error that the user can correct; the command line prints only the message and exits with `exit_code`."""

    exit_code = 1


class ConfigError(UserError):
    """A setting that is unknown, misspelt or out of range. One line per setting."""

    exit_code = 2


class RunFailed(UserError):
    """A run that cannot continue; its folder holds the results up to then."""


class DataError(UserError, ValueError):
    """A data set that cannot be used as it is. One line: what is wrong, where, and what is allowed."""
