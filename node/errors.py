"""What stops a command, as its user should read it."""


class UserError(Exception):
    """Something the user can mend; the message says what happened and what to do. Exit code 2, no traceback."""


class NodeFailure(Exception):
    """The environment failed us (a process died, a pipe broke); the message says which. Exit code 1."""
