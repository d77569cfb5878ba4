"""The doctor: what training a recipe needs, what of it is here, and what to do about the rest.

    glscl check --recipe msrvtt --data-dir /data/msrvtt

Each look at one thing returns (lines, remedies): what to print, and what to do."""
import os
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import open_clip
import torch

from ..clip_weights import architecture, find_weights
from ..config import cache_dir, data_path
from ..encoders import SMALL, image_size
from . import readers, shapes
from .readers.benchmarks import FILES
from .readers.files import locate
from .video import VideoError, read_frames

# What a transformer block keeps of a token for its backward pass, in 16 bits and with fused
# attention, in bytes times its width (Korthikanti et al. 2022, "Reducing activation
# recomputation", section 4.1).
BYTES_A_TOKEN = 34


def annotations(config, data_dir):
    """Which annotation files are there."""
    names = FILES[config.dataset]
    found = locate(data_dir, names)
    lines = [f'{name}: {found.get(name, "MISSING")}' for name in names]
    lost = ', '.join(name for name in names if name not in found)
    remedy = f'put {lost} into {data_dir}; data/README.md says where to get it'
    return lines, [remedy] if lost else []


def captions(config, data_dir):
    """Each split's captions, and a split that cannot be read: ({split: table}, lines, remedies)."""
    tables, lines, remedies = {}, [], []
    for split in ('train', 'val', 'test') if config.select_on == 'val' else ('train', 'test'):
        try:
            with warnings.catch_warnings(record=True) as notes:
                warnings.simplefilter('always')
                tables[split] = readers.load_table(config.dataset, split, data_dir,
                                                   config.select_on, require_videos=False)
            lines += [f'{split}: {note.message}' for note in notes]
        except (OSError, ValueError) as error:
            lines.append(f'{split}: {error}')
            # of a benchmark's missing file `annotations` tells
            if config.dataset == 'own' or not isinstance(error, FileNotFoundError):
                remedies.append(f'{split}: {error}')
    return tables, lines, remedies


def videos(config, data_dir, tables):
    """How many videos of each table are on disk, and the first of the others.

    Returns ({video id: path or None}, lines, remedies)."""
    paths = {}
    for table in tables.values():
        paths.update(zip(table['video_id'], table['path'], strict=True))
    if paths and config.dataset != 'own':
        paths = dict(zip(paths, readers.find_videos(config.dataset, paths, data_dir), strict=True))
    paths = {name: path if path and os.path.isfile(path) else None for name, path in paths.items()}
    lines, remedies = [], []
    for split, table in tables.items():
        ids = table['video_id'].unique()
        lost = [video_id for video_id in ids if paths[video_id] is None]
        lines.append(f'{split}: {len(table):,} captions of {len(ids):,} videos, '
                     f'{len(ids) - len(lost):,} of them on disk')
        if lost:
            names = ', '.join(lost[:3]) + (' …' if len(lost) > 3 else '')
            lines.append(f'{split}: {len(lost):,} MISSING: {names}')
            remedy = f'{split}: put the {len(lost):,} missing videos ({names}) below {data_dir}'
            if len(lost) < len(ids):
                remedy += '; training can go on without, with other numbers'
            remedies.append(remedy)
    return paths, lines, remedies


def decoded(config, paths):
    """Decode each video as training would."""
    def why_not(path):
        try:
            read_frames(path, config.max_frames, config.framerate, sampling=config.sampling)
        except VideoError as error:
            return str(error)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding runs outside the GIL
        bad = [why for why in pool.map(why_not, paths) if why]
    lines = [f'{len(paths) - len(bad):,} of {len(paths):,} videos can be decoded', *bad[:5]]
    if len(bad) > 5:
        lines.append('…')
    remedy = f'copy the {len(bad):,} unreadable videos again; training skips and counts them'
    return lines, [remedy] if bad else []


def weights(config):
    """CLIP's weights."""
    name, source = config.clip, config.clip_pretrained
    if source is None and name == 'small':
        return [f'the small CLIP shipped with glscl: {data_path("clip_small.safetensors")}'], []
    if source is None:
        return [f'{name} with random weights: nothing to load'], []
    if Path(source).is_file():
        return [f'{name}: {source}'], []
    tag = {} if name == 'small' else open_clip.get_pretrained_cfg(name.replace('/', '-'), source)
    if not tag:
        return [f'{name}: {source} MISSING'], [
            f'clip_pretrained: {source!r} is neither a file nor a tag of open_clip for {name}']
    place = find_weights(name, source)
    if place:
        return [f'{name} ({source}): {place}'], []
    return [f'{name} ({source}): MISSING, neither in ~/.cache/clip nor in Hugging Face\'s cache'], [
        f'fetch {tag.get("url") or tag["hf_hub"]} into ~/.cache/clip, or anywhere and set '
        f'clip_pretrained to its path; with a network, the first training run does it']


def frame_bytes(config, count):
    """Bytes of the frame cache of `count` videos: max_frames square uint8 pictures each."""
    return count * config.max_frames * image_size(config.clip) ** 2 * 3


def disk(config, count):
    """Room for the decoded frames of `count` videos."""
    if not config.cache_frames:
        return ['no frames are kept (cache_frames: false)'], []
    place = cache_dir()
    existing = next(folder for folder in (place, *place.parents, Path('.')) if folder.exists())
    need = frame_bytes(config, count) / 1e9
    free = shutil.disk_usage(existing).free / 1e9
    line = (f'frame cache in {place}: {need:.1f} GB at most ({count:,} videos x '
            f'{config.max_frames} frames, estimate), {free:.1f} GB free')
    remedy = (f'point the variable GLSCL_CACHE to a disk with {need:.0f} GB, or set '
              f'cache_frames: false')
    return [line], [] if need < free else [remedy]


def training_bytes(config):
    """Estimated bytes on one GPU for a training step in 16 bits.

    Activations of both towers: BYTES_A_TOKEN x width x blocks a token; with grad_checkpointing
    the blocks' inputs and one block in full; none for a frozen CLIP. Parameters: 16 bytes each
    (float32 weight and gradient, Adam's two moments), 4 where CLIP is frozen."""
    clip = SMALL if config.clip == 'small' else architecture(config.clip)
    vision, text, width = clip['vision_cfg'], clip['text_cfg'], clip['embed_dim']
    patches = (vision['image_size'] // vision['patch_size']) ** 2
    activations, parameters = 0, text.get('vocab_size', 0) * text['width']
    for tokens, tower in ((config.max_frames * (1 + patches), vision), (config.max_words, text)):
        kept = tower['layers'] * BYTES_A_TOKEN
        if config.grad_checkpointing:
            kept = tower['layers'] * 2 + BYTES_A_TOKEN
        activations += tokens * tower['width'] * kept
        parameters += 12 * tower['layers'] * tower['width'] ** 2
    head = config.decoder_layers * (8 * width ** 2 + 2 * width * 2048)
    if config.temporal == 'transformer':
        head += config.temporal_layers * 12 * width ** 2
    if config.freeze_clip:
        return head * 16 + parameters * 4
    at_once = min(config.batch_size, config.chunk or config.batch_size)
    return at_once * activations + (head + parameters) * 16


def memory(config):
    """GPU memory against batch size."""
    need = training_bytes(config) / 1e9
    line = (f'about {need:.1f} GB for a batch of {config.batch_size} in 16 bits (estimate, and '
            f'1 GB for CUDA itself)')
    if not torch.cuda.is_available():
        apple = ' (Apple\'s MPS is)' if torch.backends.mps.is_available() else ''
        return [line, f'no GPU that CUDA can use here{apple}'], []
    gpu = torch.cuda.get_device_properties(0)
    have = gpu.total_memory / 1e9
    remedy = ('set grad_checkpointing: true or chunk: 16 (slower, far less memory, the same '
              'gradients), or a smaller batch_size (fewer negatives: other results)')
    return [line, f'{gpu.name}: {have:.1f} GB'], [] if need + 1 < have else [remedy]


def check(config, data_dir=None, decode=False, say=print):
    """Print what is here and what is missing of what training with a Config needs.

    data_dir: the set's own folder, or file of own videos (layout: data/README.md), None for
    `shapes`; decode: try every video too, slow on a large set; say: prints a line.
    Returns the remedies, an empty list where nothing is missing. Raises ValueError or
    FileNotFoundError where there is no data_dir at all."""
    remedies = []

    def section(title, lines, more):
        for line in lines:
            say(f'{title:12} {line}')
        remedies.extend(remedy for remedy in more if remedy not in remedies)

    section('data set', [f'{config.dataset} in {data_dir or "the cache folder"}'], [])
    if config.dataset in FILES:
        section('annotations', *annotations(config, data_dir))
    if config.dataset == 'shapes':
        paths = dict.fromkeys(range(sum(shapes.SPLITS.values())))
        section('videos', [f'{len(paths):,} videos, rendered at first use'], [])
    else:
        tables, *told = captions(config, data_dir)
        section('captions', *told)
        paths, *told = videos(config, data_dir, tables)
        section('videos', *told)
    if decode:
        section('decoding', *decoded(config, [path for path in paths.values() if path]))
    section('CLIP', *weights(config))
    section('disk', *disk(config, len(paths)))
    section('memory', *memory(config))
    if remedies:
        say('\nTo do:\n' + '\n'.join(f'- {remedy}' for remedy in remedies))
    else:
        say('\nNothing is missing.')
    return remedies
