"""Reading with decord, as the released code does."""
from .sampling import resize
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
        film = survey(path, container, stream)  # decord fills up what a truncated file lacks
        video = decord.VideoReader(f'file:{path}', ctx=decord.cpu(0), num_threads=1)
        if len(video) != film.n:
            film = film._replace(n=len(video), seconds=None)
        indices = choose(path, film._replace(fps=video.get_avg_fps()), wish)
        frames = video.get_batch(indices[:limit]).asnumpy()
        return [resize(frame, size) for frame in frames], indices
