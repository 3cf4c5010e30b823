"""The one exception that is shown to a person without a traceback."""


class UserError(Exception):
    """A fault the user can mend: its text names the key or file, the value and the remedy."""
