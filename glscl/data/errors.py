"""What is said of a video that cannot be used."""


class VideoError(ValueError):
    """A video that cannot be used; the message names the file, the reason and the remedy.

    final: it will be so until the file changes; else (a permission, a disk, memory) perhaps not."""

    def __init__(self, message, final=True):
        super().__init__(message)
        self.final = final
