"""Figures of 02: what captions and queries see."""
import matplotlib.pyplot as plt
import numpy as np
import torch

from .data import frame_strip
from .style import BLUE, GREY, ORANGE, heat_map, lines


def frame_weights(frames, weights, captions, scene):
    """The global module's weights over the frames of one video, a row a caption.

    frames: uint8 [F, S, S, 3]; weights: [T, F]; scene: [F], the scene that each frame shows.
    Caption t tells of scene t: the bars of its frames are coloured."""
    T, F = weights.shape
    _, axes = plt.subplots(T + 1, 1, figsize=(0.68 * F + 0.8, 0.75 + T), sharex=True,
                           height_ratios=[0.75] + [1] * T)
    frame_strip(axes[0], frames, aspect='auto')
    for t, ax in enumerate(axes[1:]):
        own = np.asarray(scene) == t
        ax.bar(range(F), weights[t], width=0.8, color=np.where(own, BLUE, GREY))
        share = 100 * weights[t][own].sum()
        ax.set_title(f'“{captions[t]}”: {share:.0f} % of the weight on its scene', fontsize=9)
        ax.set(ylim=(0, max(1e-9, weights.max()) * 1.05), ylabel='$a_{t,v,f}$')
        ax.grid(False, axis='x')
    axes[-1].set(xticks=range(F), xlabel='frame f')


def temperatures(weights, taus):
    """One caption's weights over the frames, a row a temperature. weights: [n, F]; taus: n"""
    _, ax = plt.subplots(figsize=(0.6 * weights.shape[1] + 1.2, 2.3))
    numbers = [['1' if a >= 0.995 else f'{a:.2f}'.lstrip('0') for a in row] for row in weights]
    names = [f'{tau:,.2f}'.rstrip('0').rstrip('.') for tau in taus]
    heat_map(ax, weights, vmin=0, vmax=1, cmap='Blues', annot=numbers, fmt='', yticklabels=names,
             annot_kws=dict(fontsize=7.5), cbar_kws=dict(label='weight', pad=0.01))
    ax.set(xlabel='frame f', ylabel=r'temperature $\tau$',
           title=r'the smaller $\tau$, the fewer frames get the weight')


def padding_drift(positions, ours, released):
    """The local score of one pair as its caption is padded to more positions.

    positions: n numbers; ours, released: n scores each, padding masked and not"""
    _, ax = plt.subplots(figsize=(5.6, 2.4))
    lines(ax, positions, {'here: padding masked': ours, 'released: padding attended to': released},
          symbol='o', xlabel='positions the caption is padded to', ylabel='$S_l$ of one pair',
          title=f'padding moves the score by {np.ptp(ours):.3f} here, by {np.ptp(released):.3f} as '
                f'released')
    ax.xaxis.get_major_locator().set_params(integer=True)


def query_attention(frames, to_frames, words, to_words):
    """What each query attends to.

    frames: uint8 [F, S, S, 3]; to_frames: attention [Q, F]; words: L strings; to_words: [Q, L]"""
    F, L = len(frames), len(words)
    _, axes = plt.subplots(2, 2, figsize=(0.46 * (F + L) + 1.6, 3.4), height_ratios=[0.6, 2.6],
                           width_ratios=[F, L])
    frame_strip(axes[0, 0], frames, aspect='auto')
    axes[0, 1].axis('off')
    apart = max(float(np.ptp(a, 0).max()) for a in map(np.asarray, (to_frames, to_words)))
    axes[0, 1].text(0, 0.4, f'No two queries differ by more than {apart:.3f} in any column.')
    scale = dict(cmap='Blues', vmin=0, vmax=max(float(to_frames.max()), float(to_words.max())))
    heat_map(axes[1, 0], to_frames, **scale, cbar=False)
    heat_map(axes[1, 1], to_words, **scale, cbar_kws=dict(label='attention', pad=0.02))
    axes[1, 0].set(xlabel='frame f', ylabel='query q')
    axes[1, 1].set_xticklabels(words, rotation=45, ha='right', rotation_mode='anchor')


def answers(sentence, videos, weights, titles):
    """The videos found for a sentence, best first, and above each frame the weight it gets.

    videos: uint8 [n, S, S, 3] each, its real frames; weights: [k, F], the first n of a row theirs;
    titles: k strings"""
    k, F = weights.shape
    figure, axes = plt.subplots(k, 1, figsize=(0.58 * F, 1.45 * k + 0.3), squeeze=False)
    for n, ax in enumerate(axes[:, 0]):
        frame_strip(ax, videos[n])
        ax.bar(range(F), 0.8 * weights[n], 0.94, bottom=1.06, color=BLUE)
        for f in np.flatnonzero(weights[n] >= 0.05):
            ax.text(f, 1.1 + 0.8 * weights[n][f], f'{100 * weights[n][f]:.0f} %', fontsize=7.5,
                    ha='center')
        ax.set(xlim=(-0.5, F - 0.5), ylim=(-0.02, 2.05))
        ax.set_title(f'{n + 1} · {titles[n]}', fontsize=9, parse_math=False)
    figure.suptitle(f'“{sentence}”', x=0.01, ha='left', fontsize=10, parse_math=False)


def similarity_parts(parts):
    """Similarity matrices side by side, with each caption's best video marked.

    parts: {title: S [T, V]}, caption t of video t. Blue: the right video; orange: another"""
    _, axes = plt.subplots(1, len(parts), figsize=(3.5 * len(parts), 3.5), sharey=True)
    for ax, (title, S) in zip(axes, parts.items()):
        best, own = np.asarray(S).argmax(1), np.arange(len(S))
        heat_map(ax, S, cmap='Greys', square=True, cbar=False, xticklabels=5, yticklabels=5)
        ax.scatter(best + 0.5, own + 0.5, s=16, c=np.where(best == own, BLUE, ORANGE), ec='white',
                   lw=0.5)
        ax.set_title(f'{title}: {(best == own).sum()} of {len(S)} found', fontsize=9)
        ax.set_xlabel('video v')
    axes[0].set_ylabel('caption t')


@torch.no_grad()
def query_weights(local, tokens, mask, side='video'):
    """What each query of a LocalInteraction attends to in its last decoder layer, averaged over
    heads.

    tokens [N, n, D], mask [N, n], side "video" or "text"; returns [N, Q, n]."""
    decoder, queries = local.video_decoder, local.video_queries
    if side == 'text':
        decoder, queries = local.text_decoder, local.text_queries
    last, seen = decoder.layers[-1].multihead_attn, {}

    def keep(module, args, kwargs):
        seen['query'] = args[0]
    hook = last.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        local._concepts(decoder, queries, tokens, mask)
    finally:
        hook.remove()
    padding = ~mask.bool() if local.mask_padding else None
    return last(seen['query'], tokens, tokens, key_padding_mask=padding)[1]
