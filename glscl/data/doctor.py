"""The doctor: what training a recipe needs, what of it is here, and what to do about the rest.

    python -m glscl.data.doctor --recipe msrvtt --data-dir /data/msrvtt
"""
import argparse
import os
import shutil
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import open_clip
import torch

from . import readers, shapes
from ..config import cache_dir, data_path, load_config
from ..clip_models import SMALL, image_size
from .readers.benchmarks import FILES
from .readers.files import folder_of, locate
from .video import VideoError, read_frames
from ..clip_weights import architecture, find_weights

BYTES_A_TOKEN = 34  # times width and blocks: what a transformer block keeps for its backward pass in 16 bits with fused
#                     attention (Korthikanti et al. 2022, "Reducing activation recomputation", section 4.1)


def annotations(config, data_dir):
    """Which annotation files are there: (lines, remedies)."""
    if config.dataset not in FILES:
        return [], []
    have = locate(data_dir, FILES[config.dataset])
    lines = [f'{name}: {have.get(name, "MISSING")}' for name in FILES[config.dataset]]
    lost = [name for name in FILES[config.dataset] if name not in have]
    return lines, [f'put {", ".join(lost)} into {folder_of(data_dir)}; data/README.md says where to get it'] if lost else []


def videos(config, data_dir):
    """Each split's videos, those on disk and the first few that are not: (lines, remedies, {video id: path or None})."""
    if config.dataset == 'shapes':
        count = sum(shapes.SPLITS.values())
        return [f'{count:,} videos, rendered at first use'], [], dict.fromkeys(range(count))
    lines, remedies, every = [], [], {}
    for split in ('train', 'val', 'test') if config.select_on == 'val' else ('train', 'test'):
        try:
            with warnings.catch_warnings(record=True) as notes:
                warnings.simplefilter('always')
                table = readers.load_table(config.dataset, split, data_dir, config.select_on, require_videos=False)
        except (OSError, ValueError) as error:
            lines.append(f'{split}: {error}')
            if config.dataset == 'own' or not isinstance(error, FileNotFoundError):  # annotations() tells of a missing file
                remedies.append(f'{split}: {error}')
            continue
        listed = table.drop_duplicates('video_id')
        ids, places = listed['video_id'].tolist(), listed['path'].tolist()
        if config.dataset != 'own':
            places = readers.find_videos(config.dataset, ids, data_dir)
        found = {video_id: path if path and os.path.isfile(path) else None for video_id, path in zip(ids, places)}
        lost = [video_id for video_id, path in found.items() if path is None]
        every.update(found)
        lines.append(f'{split}: {len(table):,} captions of {len(ids):,} videos, {len(ids) - len(lost):,} of them on disk')
        lines += [f'{split}: {note.message}' for note in notes]
        if lost:
            names = ', '.join(lost[:3]) + (' …' if len(lost) > 3 else '')
            lines.append(f'{split}: {len(lost):,} MISSING: {names}')
            remedies.append(f'{split}: put the {len(lost):,} missing videos ({names}) anywhere below {data_dir}'
                            + ('' if len(lost) == len(ids) else '; training can go on without, with other numbers'))
    return lines, remedies, every


def _unreadable(path, max_frames, framerate, sampling):
    """Why a video cannot be used, or None."""
    try:
        read_frames(path, max_frames, framerate, sampling=sampling)
    except VideoError as error:
        return str(error)


def decoded(config, paths):
    """Decode each video as training would: (lines, remedies)."""
    read = partial(_unreadable, max_frames=config.max_frames, framerate=config.framerate, sampling=config.sampling)
    if len(paths) > 100:
        with ProcessPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            bad = [why for why in pool.map(read, paths, chunksize=16) if why]
    else:
        bad = [why for why in map(read, paths) if why]
    lines = [f'{len(paths) - len(bad):,} of {len(paths):,} videos can be decoded', *bad[:5], *(['…'] if len(bad) > 5 else [])]
    return lines, [f'copy the {len(bad):,} unreadable videos again; training skips and counts them'] if bad else []


def weights(config):
    """CLIP's weights: (lines, remedies)."""
    name, source = config.clip, config.clip_pretrained
    if name == 'small' and source is None:
        return [f'the small CLIP shipped with glscl: {data_path("clip_small.safetensors")}'], []
    if source is None:
        return [f'{name} with random weights: nothing to load'], []
    if Path(source).is_file():
        return [f'{name}: {source}'], []
    known = name != 'small' and open_clip.get_pretrained_cfg(name.replace('/', '-'), source)
    if known and (place := find_weights(name, source)):
        return [f'{name} ({source}): {place}'], []
    if not known:
        return [f'{name}: {source} MISSING'], [f'clip_pretrained: {source!r} is neither a file nor a tag of open_clip for {name}']
    return [f'{name} ({source}): MISSING, neither in ~/.cache/clip nor in the cache of Hugging Face'], [
        f'fetch {known.get("url") or known["hf_hub"]} into ~/.cache/clip, or anywhere and set clip_pretrained to its path; '
        f'with a network, the first training run does it']


def frame_bytes(config, count):
    """Bytes of the frame cache of `count` videos: max_frames square uint8 pictures each."""
    return count * config.max_frames * image_size(config.clip) ** 2 * 3


def disk(config, count):
    """Room for decoded frames: (lines, remedies)."""
    if not config.cache_frames:
        return ['no frames are kept (cache_frames: false)'], []
    place = cache_dir()
    there = next((p for p in (place, *place.parents) if p.exists()), Path.cwd())
    need, free = frame_bytes(config, count) / 1e9, shutil.disk_usage(there).free / 1e9
    line = (f'frame cache in {place}: {need:.1f} GB at most ({count:,} videos x {config.max_frames} frames, estimate), '
            f'{free:.1f} GB free')
    return [line], [] if need < free else [
        f'point the variable GLSCL_CACHE to a disk with {need:.0f} GB, or set cache_frames: false']


def training_bytes(config):
    """Estimated bytes on one GPU for a training step in 16 bits: activations of both towers plus 16 a trained parameter.

    Kept per token: BYTES_A_TOKEN x width x blocks; with grad_checkpointing the blocks' inputs only, and one block in full.
    16 = float32 weight, gradient and Adam's two moments. Nothing is kept for a frozen CLIP."""
    cfg = SMALL if config.clip == 'small' else architecture(config.clip)
    vision, text, D = cfg['vision_cfg'], cfg['text_cfg'], cfg['embed_dim']
    patches, kept = 1 + (vision['image_size'] // vision['patch_size']) ** 2, 0
    at_once = min(config.batch_size, config.chunk or config.batch_size)
    for tokens, tower in ((config.max_frames * patches, vision), (config.max_words, text)):
        blocks = tower['layers'] * 2 + BYTES_A_TOKEN if config.grad_checkpointing else tower['layers'] * BYTES_A_TOKEN
        kept += 0 if config.freeze_clip else at_once * tokens * tower['width'] * blocks
    clip = sum(12 * tower['layers'] * tower['width'] ** 2 for tower in (vision, text))
    clip += text.get('vocab_size', 0) * text['width']
    head = config.decoder_layers * (8 * D ** 2 + 2 * D * 2048)
    head += config.temporal_layers * 12 * D ** 2 if config.temporal == 'transformer' else 0
    return kept + head * 16 + clip * (4 if config.freeze_clip else 16)


def memory(config):
    """GPU memory against batch size: (lines, remedies)."""
    need = training_bytes(config) / 1e9
    line = f'about {need:.1f} GB for a batch of {config.batch_size} in 16 bits (estimate, and 1 GB for CUDA itself)'
    if not torch.cuda.is_available():
        return [line, 'no GPU that CUDA can use here' + (' (Apple\'s MPS is)' if torch.backends.mps.is_available() else '')], []
    gpu = torch.cuda.get_device_properties(0)
    have = gpu.total_memory / 1e9
    return [line, f'{gpu.name}: {have:.1f} GB'], [] if need + 1 < have else [
        'set grad_checkpointing: true or chunk: 16 (slower, far less memory, the same gradients), or a smaller batch_size (fewer '
        'negatives: other results)']


def check(config, data_dir=None, decode=False, say=print):
    """Print what is here and what is missing for a Config; returns the remedies, an empty list where nothing is missing.

    Raises ValueError or FileNotFoundError where there is no data_dir at all."""
    remedies = []

    def section(title, lines, more):
        for line in lines:
            say(f'{title:12} {line}')
        remedies.extend(more)

    say(f'{"data set":12} {config.dataset} in {data_dir or "the cache folder"}')
    section('annotations', *annotations(config, data_dir))
    lines, more, every = videos(config, data_dir)
    section('videos', lines, more)
    if decode:
        section('decoding', *decoded(config, [path for path in every.values() if path]))
    section('CLIP', *weights(config))
    section('disk', *disk(config, len(every)))
    section('memory', *memory(config))
    remedies = list(dict.fromkeys(remedies))
    say('\nTo do:\n' + '\n'.join(f'- {remedy}' for remedy in remedies) if remedies else '\nNothing is missing.')
    return remedies


def main(argv=None):
    """Say what training a recipe needs and what of it is missing; the exit status is 1 where something is."""
    parser = argparse.ArgumentParser(prog='glscl check', description=main.__doc__)
    parser.add_argument('--recipe', default='shapes')
    parser.add_argument('--data-dir', help='the folder with annotation files and videos; layout: data/README.md')
    parser.add_argument('--decode', action='store_true', help='decode every video too (slow on a large set)')
    args = parser.parse_args(argv)
    try:
        return int(bool(check(load_config(args.recipe), args.data_dir, args.decode)))
    except (OSError, ValueError) as error:  # no recipe, no such CLIP, no data_dir: nothing further can be looked at
        print(f'\nTo do:\n- {error}')
        return 1


if __name__ == '__main__':
    sys.exit(main())
