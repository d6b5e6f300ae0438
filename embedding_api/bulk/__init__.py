"""Embed a corpus, from files to a file, on every core and in bounded memory. A stopped run resumes where it stopped.

inputs: windows of rows -> pool or ray_cluster: their vectors -> checkpoint: a part for each window -> outputs: one file
"""


class BulkError(Exception):
    """A run cannot continue. The message is one sentence that says what to do. Finished windows remain."""
