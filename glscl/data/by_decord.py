"""Reading with decord, as the released code does."""
from .pixels import resize
from .video import choose, open_video, survey


def read(path, wish, size, limit=None):
    """(frames in their final form, indices) as `read_frames` takes them; limit: of the frames."""
    try:
        import decord
    except ImportError:
        raise ImportError('reader "decord" is not installed (it exists for Windows, and Linux on '
                          'x86-64): pip install decord, or set reader to "auto"') from None
    decord.logging.set_level(decord.logging.QUIET)
    with open_video(path) as (container, stream):
        video = survey(path, container, stream)  # decord fills up what a truncated file lacks
        reader = decord.VideoReader(f'file:{path}', ctx=decord.cpu(0), num_threads=1)
        if len(reader) != video.n:
            video = video._replace(n=len(reader), seconds=None)
        indices = choose(path, video._replace(fps=reader.get_avg_fps()), wish)
        frames = reader.get_batch(indices[:limit]).asnumpy()
        return [resize(frame, size) for frame in frames], indices
