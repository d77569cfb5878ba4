"""The doctor: what training a recipe needs, what of it is here, and what to do about the rest.

    glscl check --recipe msrvtt --data-dir /data/msrvtt

Each check below yields lines to print, and among them what to do about it as a Todo."""
import os
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import open_clip
import torch

from .. import heads
from ..clip_models import SMALL, image_size
from ..clip_weights import architecture, find_weights
from ..config import cache_dir, data_path
from ..data.errors import VideoError
from ..data.video import read_frames
from ..datasets import shapes
from ..datasets.readers import load_table
from ..datasets.readers.benchmarks import FILES, HELD_OUT_INSTEAD
from ..datasets.readers.files import EmptySplit, instead, locate
from ..runtime.files import atomic_write
from ..runtime.progress import told
from ..runtime.terminal import shown

# Times width and blocks: what a token leaves for the backward pass in 16 bits, with fused attention
# (Korthikanti et al. 2022, "Reducing activation recomputation", section 4.1).
BYTES_A_TOKEN = 34


class Todo(str):
    """A remedy for something that is missing."""


def annotations(config, data_dir):
    """Which annotation files are there."""
    found = locate(data_dir, FILES[config.dataset])
    for name in FILES[config.dataset]:
        yield f'{name}: {found.get(name, "MISSING")}'
    lost = ', '.join(name for name in FILES[config.dataset] if name not in found)
    if lost:
        yield Todo(f'put {lost} into {data_dir}; data/README.md says where to get it'
                   f'{instead(data_dir, set(FILES[config.dataset]) - set(found))}')


def videos(config, data_dir, split, paths):
    """How many videos of a split are on disk, and the first of the others.

    Their paths go into `paths`, {video id: path, None for a missing one}."""
    spare = split == 'test' and config.select_on == 'held_out'  # a run goes without it
    try:
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter('always')
            table = load_table(config.dataset, split, data_dir, config.select_on,
                               require_videos=False)
    except (OSError, ValueError) as error:
        yield f'{split}: {error}'
        # of a benchmark's missing file `annotations` tells
        told = config.dataset != 'own' and isinstance(error, FileNotFoundError)
        if not told and not (spare and isinstance(error, EmptySplit)):
            yield Todo(error)  # once, where it is the same for several splits
        return
    listed = dict(zip(table['video_id'], table['path']))
    paths.update(listed)
    lost = [video_id for video_id, path in listed.items() if path is None]
    yield (f'{split}: {len(table):,} captions of {len(listed):,} videos, '
           f'{len(listed) - len(lost):,} of them on disk')
    for note in notes:
        yield f'{split}: {note.message}'
    if lost:
        names = ', '.join(lost[:3]) + (' …' if len(lost) > 3 else '')
        yield f'{split}: {len(lost):,} MISSING: {names}'
        if len(lost) < len(listed):
            other = '; without them training gives other numbers'
        elif spare:
            yield 'test: not needed, as what is held out of train measures the run too'
            return
        else:
            other = HELD_OUT_INSTEAD * (split != 'train')
            if config.dataset != 'own':
                other += instead(data_dir, [f'{name}.mp4' for name in lost])
        yield Todo(f'{split}: put the {len(lost):,} missing videos ({names}) anywhere below '
                   f'{data_dir}{other}')


def decoded(config, paths):
    """Decode each video of {video id: path or None} as training would."""
    def why_not(path):
        try:
            read_frames(path, config.max_frames, config.framerate, sampling=config.sampling)
        except VideoError as error:
            return str(error)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding runs outside the GIL
        there = list(filter(None, paths.values()))
        tried = list(told(pool.map(why_not, there), 'decoding', 'videos', len(there)))
    bad = [why for why in tried if why]
    yield f'{len(tried) - len(bad):,} of {len(tried):,} videos can be decoded'
    yield from bad[:5] + ['…'] * (len(bad) > 5)
    if bad:
        yield Todo(f'copy the {len(bad):,} unreadable videos again; training skips and counts them')


def weights(config):
    """CLIP's weights."""
    name, source = config.clip, config.clip_pretrained
    if source is None:
        small = f'shipped with glscl, {data_path("clip_small.safetensors")}'
        yield f'{name}: {small if name == "small" else "random weights, nothing to load"}'
        return
    place = find_weights(name, source)
    yield f'{name} ({source}): {place or "MISSING"}'
    tag = open_clip.get_pretrained_cfg(name.replace('/', '-'), source)
    if not place and tag:
        yield Todo(f'fetch {tag.get("url") or tag["hf_hub"]} into ~/.cache/clip, or anywhere and '
                   f'set clip_pretrained to its path; with a network, the first run does it')
    elif not place:
        yield Todo(f'clip_pretrained: {source!r} is neither a file nor a tag of open_clip for '
                   f'{name}')


def model(config):
    """Whether the model can be built: what training would refuse, the doctor refuses."""
    try:
        built = heads.build(config)
        built.check_lengths()
    except (ValueError, OSError) as error:
        if config.clip_pretrained is None or find_weights(config.clip, config.clip_pretrained):
            yield 'cannot be built'
            yield Todo(error)
        else:
            yield f'{config.head}, not tried without the weights of its CLIP'
        return
    parameters = sum(p.numel() for p in built.parameters())
    yield f'{config.head}, {parameters / 1e6:.1f} M parameters'
    if config.batch_size < 2:
        yield Todo('raise batch_size: a batch of 1 caption has nothing to contrast')


def disk(config, paths):
    """Room for the decoded frames of these videos: max_frames square uint8 pictures each."""
    if not config.cache_frames:
        yield 'no frames are kept (cache_frames: false)'
        return
    place = cache_dir()
    existing = next(folder for folder in (place, *place.parents, Path('.')) if folder.exists())
    free = shutil.disk_usage(existing).free / 1e9
    need = len(paths) * config.max_frames * image_size(config.clip) ** 2 * 3 / 1e9
    yield (f'frame cache in {place}: {need:.1f} GB at most ({len(paths):,} videos x '
           f'{config.max_frames} frames, estimate), {free:.1f} GB free')
    if need >= free:
        yield Todo(f'point GLSCL_CACHE to a disk with {need:.0f} GB, or set cache_frames: false')


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
    yield (f'about {need:.1f} GB for a batch of {config.batch_size} in 16 bits (estimate, and '
           f'1 GB for CUDA itself)')
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        yield f'{gpu.name}: {gpu.total_memory / 1e9:.1f} GB'
        if need + 1 >= gpu.total_memory / 1e9:
            yield Todo('set grad_checkpointing: true or chunk: 16 (slower, far less memory, the '
                       'same gradients), or a smaller batch_size (fewer negatives: other results)')
    else:
        apple = ' (Apple\'s MPS is)' if torch.backends.mps.is_available() else ''
        yield f'no GPU that CUDA can use here{apple}'


def check(config, data_dir=None, decode=False, say=print, missing=None):
    """Print what training with a Config needs: what of it is here, and what is missing.

    data_dir: the set's own folder or file (layout: data/README.md), None for `shapes`; decode:
    try every video too, slow on a large set; say: prints a line; missing: a file for the ids of all
    missing videos, one a line. Returns the remedies, an empty
    list where nothing is missing. Raises ValueError or FileNotFoundError without a data_dir."""
    paths = {}
    sections = [('data set', [f'{config.dataset} in {data_dir or "the cache folder"}'])]
    if config.dataset in FILES:
        sections += [('annotations', annotations(config, data_dir))]
    if config.dataset == 'shapes':
        paths = dict.fromkeys(range(sum(shapes.SPLITS.values())))
        sections += [('videos', [f'{len(paths):,} videos, rendered at first use'])]
    else:
        splits = dict.fromkeys(('train', config.select_on, 'test'))
        sections += [('videos', videos(config, data_dir, split, paths)) for split in splits]
    if decode:
        sections += [('decoding', decoded(config, paths))]
    sections += [('CLIP', weights(config)), ('model', model(config)), ('disk', disk(config, paths)),
                 ('memory', memory(config))]
    remedies = []
    for title, lines in sections:  # each looks at its thing only now: `paths` fills on the way
        for line in lines:
            if not isinstance(line, Todo):
                say(f'{title:12} {shown(line)}')
            elif shown(line) not in remedies:
                remedies.append(shown(line))
    if missing:
        lost = [video_id for video_id, path in paths.items() if path is None]
        with atomic_write(missing) as half:
            half.write_text(''.join(f'{video_id}\n' for video_id in lost), encoding='utf-8')
        say(f'missing      {len(lost):,} ids written to {missing}')
    lines = ['To do:', *(f'- {remedy}' for remedy in remedies)]
    say('\n' + ('\n'.join(lines) if remedies else 'Nothing is missing.'))
    return remedies
