"""What is wrong with text that should become, or should be, a corpus."""


class CorpusError(ValueError):
    """Text that cannot serve as a corpus; the message says where, why and what to do."""
