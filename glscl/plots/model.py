"""Figures of 02: what captions and queries see."""
import matplotlib.pyplot as plt
import numpy as np

from .style import BLUE, GREY, INK, ORANGE


def _strip(ax, frames, gap=2):
    """Frames side by side in one image: uint8 [F, S, S, 3]; frame f is centred at x = f."""
    frames = np.asarray(frames)
    padded = np.pad(frames, ((0, 0), (0, 0), (gap, gap), (0, 0)), constant_values=255)
    ax.imshow(np.concatenate(list(padded), axis=1), extent=(-0.5, len(frames) - 0.5, 0, 1), aspect='auto')
    ax.set_xlim(-0.5, len(frames) - 0.5)
    ax.axis('off')


def frame_weights(frames, weights, captions, scene):
    """The global module's weights [T, F] over the frames of one video; `scene` [F] says which scene a frame is of.

    Caption t tells scene t: the bars of its frames are coloured."""
    T, n = weights.shape
    fig, axes = plt.subplots(T + 1, 1, figsize=(0.68 * n + 0.8, 0.75 + 1.0 * T), sharex=True,
                             height_ratios=[0.75] + [1] * T)
    _strip(axes[0], frames)
    for t, ax in enumerate(axes[1:]):
        mine = np.asarray(scene) == t
        ax.bar(range(n), weights[t], width=0.8, color=np.where(mine, BLUE, GREY))
        share = weights[t][mine].sum()
        ax.set_title(f'“{captions[t]}”: {100 * share:.0f} % of the weight on its scene', fontsize=9)
        ax.set_ylim(0, max(1e-9, weights.max()) * 1.05)
        ax.set_ylabel('$a_{t,v,f}$')
        ax.grid(False, axis='x')
    axes[-1].set_xticks(range(n))
    axes[-1].set_xlabel('frame f')


def temperatures(weights, taus):
    """One caption's weights over the frames, one row a temperature. weights [n, F]"""
    n = weights.shape[1]
    fig, ax = plt.subplots(figsize=(0.6 * n + 1.2, 2.3))
    image = ax.imshow(weights, cmap='Blues', vmin=0, vmax=1, aspect='auto')
    for i, row in enumerate(weights):
        for f, a in enumerate(row):
            ax.text(f, i, f'{a:.2f}'.lstrip('0') if a < 0.995 else '1', ha='center', va='center', fontsize=7,
                    color='white' if a > 0.5 else INK)
    ax.set_yticks(range(len(taus)), [f'{t:,.2f}'.rstrip('0').rstrip('.') for t in taus])
    ax.set_xticks(range(n))
    ax.set(xlabel='frame f', ylabel=r'temperature $\tau$')
    ax.grid(False)
    fig.colorbar(image, ax=ax, label='weight', pad=0.01)


def padding_drift(positions, ours, released):
    """The local score of one pair as its caption is padded to more positions."""
    fig, ax = plt.subplots(figsize=(5.6, 2.4))
    ax.plot(positions, ours, color=BLUE, marker='o', ms=3, label='here: padding masked')
    ax.plot(positions, released, color=ORANGE, marker='s', ms=3, label='released code: padding attended to')
    ax.set(xlabel='positions the caption is padded to', ylabel='$S^l$ of one pair')
    ax.legend(fontsize=8)


def query_attention(frames, to_frames, words, to_words):
    """What each query attends to: to_frames [Q, F] under the frame strip, to_words [Q, L] with the words."""
    n, L = to_frames.shape[1], len(words)
    fig, axes = plt.subplots(2, 2, figsize=(0.46 * (n + L) + 1.6, 3.4), height_ratios=[0.6, 2.6], width_ratios=[n, L])
    _strip(axes[0, 0], frames)
    axes[0, 1].axis('off')
    high = max(float(to_frames.max()), float(to_words.max()))
    for ax, a, name in ((axes[1, 0], to_frames, 'frame f'), (axes[1, 1], to_words, '')):
        image = ax.imshow(a, cmap='Blues', vmin=0, vmax=high, aspect='auto')
        ax.set_yticks(range(len(a)))
        ax.set_xlabel(name)
        ax.grid(False)
    axes[1, 0].set_xticks(range(n))
    axes[1, 0].set_ylabel('query q')
    axes[1, 1].set_xticks(range(L), words, rotation=45, ha='right', rotation_mode='anchor')
    fig.colorbar(image, ax=axes[1, 1], label='attention', pad=0.02)


def similarity_parts(parts):
    """Similarity matrices {title: [T, V]} side by side, with each row's best video marked."""
    fig, axes = plt.subplots(1, len(parts), figsize=(3.5 * len(parts), 3.5), sharey=True)
    for ax, (title, S) in zip(axes, parts.items()):
        S = np.asarray(S)
        ax.imshow(S, cmap='Greys')
        best = S.argmax(1)
        for t, v in enumerate(best):
            ax.plot(v, t, 'o', ms=4, color=BLUE if t == v else ORANGE, mec='white', mew=0.5)
        ax.set_title(f'{title}: {int((best == np.arange(len(S))).sum())} of {len(S)} found', fontsize=9)
        ax.set_xlabel('video v')
        ax.grid(False)
    axes[0].set_ylabel('caption t')
