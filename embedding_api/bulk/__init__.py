"""Embed a corpus: from files to a file, with every core, in bounded memory, and to be continued after any end.

reading -> windows of rows -> pool or cluster: their vectors -> parts, a file for each window -> writing: the output
"""


class BulkError(Exception):
    """What stops a run, told in one sentence that says what to do. What was done before remains."""
