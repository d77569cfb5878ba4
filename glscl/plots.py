"""Every figure of the notebooks, in one style. Each function draws and returns nothing; the notebook calls plt.show()."""
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.lines import Line2D

INK, BLUE, ORANGE, GREEN, RED, GREY = '#222222', '#2a6fbb', '#e07b26', '#3a9a5b', '#c8402f', '#9aa0a6'


def style():
    """Call once in a notebook's import cell."""
    sns.set_theme(style='whitegrid', font_scale=0.9, rc={
        'figure.dpi': 80, 'figure.constrained_layout.use': True, 'axes.spines.top': False, 'axes.spines.right': False,
        'axes.titlelocation': 'left', 'grid.color': '#e6e6e6', 'axes.edgecolor': '#888888'})


# ---- 02: the model

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


# ---- 01_data, 04_training

def film_strips(films, titles, indices=None, places=None):
    """One row a film: uint8 [F, H, W, 3] side by side, the frame's index below; `places` keeps room for padding."""
    places = places or max(map(len, films))
    fig, axes = plt.subplots(len(films), 1, figsize=(9, 1.12 * len(films)), squeeze=False)
    for row, (film, title, ax) in enumerate(zip(films, titles, axes[:, 0])):
        size, gap = film.shape[1], max(1, film.shape[1] // 16)
        for f in range(places):
            x = f * (size + gap)
            if f < len(film):
                shown = (np.round(film[f] / 25.5) * 25.5).astype(np.uint8)  # fewer levels: noise makes large PNGs
                ax.imshow(shown, extent=(x, x + size, size, 0), interpolation='nearest')
                label = f if indices is None else indices[row][f]
            else:
                ax.add_patch(plt.Rectangle((x, 0), size, size, fc='#f4f4f4', ec=GREY, hatch='///', lw=0.5))
                label = 'pad'
            ax.text(x + size / 2, size * 1.06, label, ha='center', va='top', fontsize=7, color=GREY)
        ax.set(xlim=(-1, places * (size + gap)), ylim=(size * 1.3, -1))
        ax.set_title(title, fontsize=9)
        ax.axis('off')


def caption_lengths(lengths, kinds, max_words):
    """Histogram of tokens a caption, start and end included, by kind."""
    lengths, kinds = np.asarray(lengths), np.asarray(kinds)
    bins = np.arange(lengths.min(), max(lengths.max(), max_words) + 2) - 0.5
    fig, ax = plt.subplots(figsize=(6.5, 2.4))
    ax.hist([lengths[kinds == k] for k in ('scene', 'order')], bins, stacked=True, color=[BLUE, ORANGE],
            label=['one scene', 'two scenes in order'])
    ax.axvline(max_words + 0.5, color=INK, lw=1, ls='--')
    ax.text(max_words + 0.3, ax.get_ylim()[1] * 0.95, f'max_words = {max_words}', ha='right', va='top', fontsize=9)
    ax.set(xlabel='tokens, start and end included', ylabel='captions')
    ax.legend(loc='center right', frameon=False)
    ax.grid(axis='x', visible=False)


def sampling(cases):
    """Time lines of films, cases {label: (n_frames, fps, candidate indices, chosen indices)}; the chosen are filled."""
    fig, ax = plt.subplots(figsize=(8, 0.55 * len(cases) + 0.9))
    for row, (n_frames, fps, candidates, chosen) in enumerate(cases.values()):
        ax.plot([0, n_frames / fps], [row, row], color=GREY, lw=1, zorder=1)
        thinned, taken = ('candidate, thinned out', 'chosen') if row == 0 else (None, None)
        ax.scatter(np.array(candidates) / fps, [row] * len(candidates), s=46, fc='white', ec=GREY,
                   zorder=2, label=thinned)
        ax.scatter(np.array(chosen) / fps, [row] * len(chosen), s=46, color=BLUE, zorder=3, label=taken)
    ax.set(yticks=range(len(cases)), yticklabels=list(cases), ylim=(len(cases) - 0.5, -0.5), xlabel='seconds')
    ax.grid(axis='y', visible=False)
    ax.legend(loc='upper left', bbox_to_anchor=(1, 1), frameon=False)


def clip_transform(stages):
    """stages {title: image}: uint8 [H, W, 3], or float [H, W, 3] in CLIP's scale, its three channels drawn apart."""
    panels = []
    for title, image in stages.items():
        if image.dtype == np.uint8:
            panels.append((title, image // 16 * 16 + 8, {}))  # fewer levels, smaller PNG
        else:
            panels += [(f'{title}\n{colour}', image[..., c], dict(vmin=-2.2, vmax=2.2, cmap=plt.get_cmap('RdBu_r', 11)))
                       for c, colour in enumerate(('red', 'green', 'blue'))]
    fig, axes = plt.subplots(1, len(panels), figsize=(1.6 * len(panels), 1.9))
    for ax, (title, image, options) in zip(axes, panels):
        drawn = ax.imshow(image, interpolation='nearest', **options)
        ax.set_title(title, fontsize=9)
        ax.set(xticks=[0, image.shape[1] - 1], yticks=[0, image.shape[0] - 1])
        ax.grid(False)
    fig.colorbar(drawn, ax=axes[-1], shrink=0.7, ticks=[-2, 0, 2])


def schedule(factors, rates):
    """Learning rate over the steps; factors [steps], rates {name: peak}."""
    fig, ax = plt.subplots(figsize=(6.5, 2.4))
    for (name, rate), colour in zip(rates.items(), (BLUE, ORANGE)):
        ax.plot(np.asarray(factors) * rate, color=colour, label=f'{name}, peak {rate:g}')
    ax.axvline(int(np.argmax(factors)), color=GREY, lw=1, ls='--')
    ax.text(int(np.argmax(factors)), 0, ' end of the warm-up', fontsize=9, color=GREY, va='bottom')
    ax.set(xlabel='step', ylabel='learning rate')
    ax.ticklabel_format(axis='y', style='sci', scilimits=(0, 0))
    ax.legend(frameon=False)


def learning_curves(history):
    """Trainer.history: the contrastive loss, the two small losses on a log axis, recalls on the validation split."""
    fig, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 2.9))
    steps = np.array([h['step'] for h in history])
    window = max(1, len(history) // 30)

    def curve(ax, name, colour, label):
        values = np.array([h[name] for h in history])
        smooth = np.convolve(values, np.ones(window) / window, 'valid')
        ax.plot(steps, np.where(values > 0, values, np.nan), color=colour, lw=0.8, alpha=0.3)  # 0 has no logarithm
        ax.plot(steps[window - 1:], np.where(smooth > 1e-12, smooth, np.nan), color=colour, lw=1.8, label=label)

    curve(left, 'total', GREY, 'total')
    curve(left, 'contrastive', BLUE, 'contrastive')
    for name, colour in (('inter_consistency', ORANGE), ('intra_diversity', GREEN)):
        if max(h[name] for h in history) > 0:
            curve(middle, name, colour, name.replace('_', '-'))
    if middle.lines:
        middle.set_yscale('log')
    seen = [h for h in history if 'val R@1' in h]
    for k, colour, mark in ((10, GREEN, '^'), (5, ORANGE, 's'), (1, BLUE, 'o')):
        right.plot([h['step'] for h in seen], [h[f'val R@{k}'] for h in seen], mark, ls='-', color=colour,
                   label=f'R@{k}')
    right.set(ylim=(0, 102), ylabel='%')
    for ax, title in ((left, 'loss'), (middle, 'the two small losses, log axis'), (right, 'validation, text to video')):
        ax.set_title(title)
        ax.set_xlabel('step')
        if ax.lines:
            ax.legend(frameon=False, loc='lower right' if ax is right else 'best')


def recalls(metrics, chance=None):
    """Recalls with their 95 % intervals, metrics {name: retrieval_metrics}; one panel a direction."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True)
    for ax, (direction, title) in zip(axes, (('t2v', 'text to video'), ('v2t', 'video to text'))):
        for i, ((name, m), colour, mark) in enumerate(zip(metrics.items(), (GREY, ORANGE, BLUE, GREEN), 'D^os')):
            m, x = m[direction], np.arange(3) + 0.16 * (i - (len(metrics) - 1) / 2)
            value = np.array([m[f'R@{k}'] for k in (1, 5, 10)])
            ends = np.array([m[f'R@{k} interval'] for k in (1, 5, 10)]).T
            ax.errorbar(x, value, np.maximum(0, [value - ends[0], ends[1] - value]), fmt=mark, color=colour,
                        ms=6, capsize=3, label=name)
        if chance:
            ax.hlines([chance * k for k in (1, 5, 10)], np.arange(3) - 0.35, np.arange(3) + 0.35, color=INK, lw=1,
                      ls=':', label='chance')
        ax.set(title=title, xticks=range(3), xticklabels=['R@1', 'R@5', 'R@10'], ylim=(-2, 102))
        ax.grid(axis='x', visible=False)
    axes[0].set_ylabel('% of queries')
    axes[1].legend(loc='upper left', bbox_to_anchor=(1, 1), frameon=False)


# ---- 05 evaluation

def recall_intervals(panels, V):
    """R@1, R@5, R@10 with 95 % intervals. panels {title: {label: summary}}; V videos give the level of guessing."""
    figure, axes = plt.subplots(1, len(panels), figsize=(7.8, 3), sharey=True, squeeze=False)
    for ax, (title, groups) in zip(axes[0], panels.items()):
        for i, (label, m) in enumerate(groups.items()):
            value = np.array([m[f'R@{k}'] for k in (1, 5, 10)])
            low, high = np.array([m[f'R@{k} interval'] for k in (1, 5, 10)]).T
            at = np.arange(3) + (i - (len(groups) - 1) / 2) * 0.2
            ax.errorbar(at, value, [value - low, high - value], fmt='os^'[i], color=(BLUE, ORANGE, GREEN)[i], capsize=4,
                        label=label)
        ax.hlines([100 * k / V for k in (1, 5, 10)], np.arange(3) - 0.3, np.arange(3) + 0.3, GREY, 'dotted',
                  label='guessing')
        ax.set(title=title, xticks=range(3), xticklabels=['R@1', 'R@5', 'R@10'], ylim=(0, 102), xlim=(-0.5, 2.5))
        ax.legend(loc='upper center', bbox_to_anchor=(0.5, -0.12), ncols=3, fontsize=8, frameon=False)
    axes[0, 0].set_ylabel('queries answered, %')


def bootstrap(rank, k=1, resamples=1000, seed=0):
    """How R@k varies when the queries are drawn again; the middle 95 % is the interval."""
    hit = 100.0 * (np.asarray(rank) <= k)
    values = hit[np.random.default_rng(seed).integers(len(hit), size=(resamples, len(hit)))].mean(1)
    low, high = np.percentile(values, [2.5, 97.5])
    plt.figure(figsize=(5.2, 2.4))
    plt.axvspan(low, high, color=BLUE, alpha=0.15, label='middle 95 %: the interval')
    plt.hist(values, bins=25, color=BLUE, alpha=0.8)
    plt.axvline(hit.mean(), color=ORANGE, lw=2, label=f'R@{k} of the queries themselves')
    plt.gca().set(xlabel=f'R@{k} of a resampled set of {len(hit)} queries, %', ylabel='resamples')
    plt.margins(y=0.45)
    plt.legend(loc='upper right', fontsize=8)


def rank_histogram(rank, V):
    """How many queries found their video at which rank; bins double in width."""
    edges = [1, 2, 3, 6, 11, 21, 51, 101, 201, 501]
    edges = [x for x in edges if x <= V] + [V + 1]
    counts = np.histogram(np.floor(rank), edges)[0]
    names = [str(a) if b == a + 1 else f'{a}–{b - 1}' for a, b in zip(edges, edges[1:])]
    plt.figure(figsize=(7, 2.4))
    bars = plt.bar(names, 100 * counts / len(rank), color=[GREEN] + [GREY] * (len(counts) - 1))
    plt.bar_label(bars, [str(n) for n in counts], fontsize=8, color=INK)
    plt.gca().set(xlabel='rank of the right video', ylabel='queries, %')
    plt.grid(False, axis='x')
    plt.margins(y=0.15)


def similarity_blocks(S, groups):
    """A square of the similarity matrix, rows (captions) and columns (their videos) grouped by a name each."""
    figure, ax = plt.subplots(figsize=(4.6, 3.8))
    picture = ax.imshow(S, cmap=plt.get_cmap('viridis', 16), interpolation='nearest')
    starts = [i for i in range(len(groups)) if i == 0 or groups[i] != groups[i - 1]]
    middles = [(a + b - 1) / 2 for a, b in zip(starts, [*starts[1:], len(groups)])]
    for at in starts[1:]:
        ax.axhline(at - 0.5, color='white', lw=0.8)
        ax.axvline(at - 0.5, color='white', lw=0.8)
    names = [groups[i] for i in starts]
    ax.set_xticks(middles, names, rotation=60, ha='right', fontsize=8)
    ax.set_yticks(middles, names, fontsize=8)
    ax.set(xlabel='their videos, in the same order', ylabel='captions, by the first colour they name')
    ax.grid(False)
    figure.colorbar(picture, label='S[t, v]', shrink=0.8)


def _film(pairs, v, n=3):
    """n frames of a video, evenly spaced, side by side: uint8 [S, n S, 3], in few shades to keep the picture small"""
    count = int(pairs.frame_mask[v].sum())
    frames = pairs.frames[v][[int((i + 0.5) * count / n) for i in range(n)]]
    return np.concatenate(frames, axis=1) // 32 * 32 + 16


def gallery(pairs, S, rows, best=5):
    """Queries with their top videos, left to right, three frames of each: green and ticked if right, red if not."""
    figure, axes = plt.subplots(len(rows), 1, figsize=(6.8, 0.72 * len(rows)), squeeze=False)
    for ax, row in zip(axes[:, 0], rows):
        order = S[row].argsort(descending=True, stable=True).tolist()
        right = int(pairs.text_to_video[row])
        for place, v in enumerate(order[:best]):
            hit = v == right
            ax.imshow(_film(pairs, v), extent=(3.2 * place, 3.2 * place + 3, 0, 1), interpolation='nearest')
            ax.add_patch(plt.Rectangle((3.2 * place, 0), 3, 1, fill=False, lw=3.5 if hit else 1.5,
                                       ec=GREEN if hit else RED))
            if hit:
                ax.text(3.2 * place + 0.1, 0.12, '✓', color='white', fontsize=9, weight='bold',
                        bbox=dict(boxstyle='square,pad=0.1', fc=GREEN, ec='none'))
        ax.set(xlim=(-0.1, 3.2 * best - 0.1), ylim=(-0.06, 1.06), aspect='equal')
        ax.axis('off')
        ax.set_title(f'rank {order.index(right) + 1} · {pairs.table["caption"][row]}', fontsize=8.5, pad=2)


def confusions(wrong, stated, wrong_else, stated_else):
    """Of the claims of each kind, the share that the video does not meet: wrongly ranked first, and any other video."""
    kinds = ('colour', 'shape', 'count', 'size', 'motion', 'place', 'background', 'order')
    plt.figure(figsize=(6.6, 2.5))
    for i, (w, n, label, colour) in enumerate([(wrong, stated, 'videos wrongly ranked first', RED),
                                               (wrong_else, stated_else, 'other videos, for comparison', GREY)]):
        share = [100 * w[k] / max(1, n[k]) for k in kinds]
        bars = plt.bar(np.arange(len(kinds)) + 0.4 * i - 0.2, share, 0.38, color=colour, label=label)
        plt.bar_label(bars, [f'{w[k]}/{n[k]}' if i == 0 else '' for k in kinds], fontsize=7, color=INK)
    plt.xticks(range(len(kinds)), kinds)
    plt.ylabel('claims not met, %')
    plt.grid(False, axis='x')
    plt.margins(y=0.3)
    plt.legend(fontsize=8, ncols=2, loc='upper right')


def twin_test(right):
    """Share of captions scored higher with their own video than with its twin in another order. right [n], 0 to 1"""
    plt.figure(figsize=(6, 1.4))
    if len(right):
        draws = np.random.default_rng(0).integers(len(right), size=(1000, len(right)))
        value, (low, high) = np.mean(right), np.percentile(np.asarray(right)[draws].mean(1), [2.5, 97.5])
        plt.errorbar(100 * value, 0, xerr=[[100 * (value - low)], [100 * (high - value)]], fmt='o', color=BLUE,
                     capsize=4)
    plt.axvline(50, color=GREY, ls=':')
    plt.text(50, 0.65, ' guessing', color=INK, fontsize=8)
    plt.gca().set(xlim=(0, 100), ylim=(-1, 1), yticks=[], xlabel='right video above its twin in another order, %')


def methods(runs, names, captions, metric='R@1', direction='t2v'):
    """Every seed of every method as a dot, the mean as a bar; one panel a kind of caption."""
    figure, axes = plt.subplots(1, len(captions), figsize=(9, 2.3), sharex=True, sharey=True)
    for ax, kind in zip(axes, captions):
        for i, name in enumerate(names):
            values = [r[kind]['metrics'][direction][metric] for r in runs if r['method'] == name]
            ax.plot(values, np.full(len(values), i), 'o', color=(GREY, ORANGE, BLUE)[i % 3], alpha=0.8, ms=6)
            ax.plot(np.mean(values), i, '|', color=INK, ms=20, mew=2)
        ax.set(title=f'captions: {kind}', xlabel=f'{metric}, %', yticks=range(len(names)), yticklabels=names,
               ylim=(-0.6, len(names) - 0.4))
        ax.margins(x=0.15)


# ---- 06 efficiency

def timings(times, pairs):
    """Seconds by way of scoring: times {title: {way: (median, fastest, slowest)}} for so many pairs."""
    figure, axes = plt.subplots(1, len(times), figsize=(9, 2.1), sharex=True, sharey=True)
    for ax, (title, ways) in zip(axes, times.items()):
        for i, (way, (middle, fast, slow)) in enumerate(ways.items()):
            ax.plot([fast, slow], [i, i], color=INK, lw=2)
            ax.plot(middle, i, 'o', color=(RED, ORANGE, BLUE)[i], ms=8)
            ax.text(slow * 1.5, i, f'{middle:.0f} s' if middle > 10 else f'{middle:.2g} s', va='center', fontsize=8)
        ax.set(title=title, xscale='log', xlabel=f'seconds for {pairs:,} pairs', yticks=range(len(ways)),
               yticklabels=list(ways), ylim=(len(ways) - 0.5, -0.5))
    axes[0].set_xlim(right=axes[0].get_xlim()[1] * 5)


def growth(galleries, lines, encode):
    """Multiply-adds of one query by number of videos. lines {label: a pair's}; encode: the query's own encoding."""
    plt.figure(figsize=(6.2, 3))
    colours, styles = (RED, ORANGE, BLUE, GREEN), ('-', '--', '-', '-.')
    for (label, each), colour, line in zip(lines.items(), colours, styles):
        plt.loglog(galleries, [each * V for V in galleries], line, color=colour)
        nudge = {'GLSCL, direct': 1.7, 'GLSCL, Gram': 0.6}.get(label, 1)
        plt.text(galleries[-1] * 1.3, each * galleries[-1] * nudge, label, color=colour, va='center', fontsize=8)
    plt.plot([galleries[0], galleries[-1]], [encode, encode], color=INK, lw=1, ls=':')
    plt.text(galleries[-1] * 1.3, encode, 'encoding the query', fontsize=8, color=INK, va='center')
    plt.gca().set(xlabel='videos in the gallery, V', ylabel='multiply-adds for one query')
    plt.xlim(right=galleries[-1] * 100)
    plt.xticks(galleries)


def shares(parts):
    """Parts of a whole as one bar. parts {name: amount}"""
    plt.figure(figsize=(8, 1.5))
    left, whole = 0, sum(parts.values())
    for (name, amount), colour in zip(parts.items(), (RED, ORANGE, BLUE)):
        plt.barh(0, 100 * amount / whole, left=left, color=colour, label=f'{name}: {100 * amount / whole:.1f} %')
        left += 100 * amount / whole
    plt.gca().set(yticks=[], xlim=(0, 100), xlabel='multiply-adds of the released evaluation, %')
    plt.legend(ncols=3, loc='lower center', bbox_to_anchor=(0.5, 1), frameon=False, fontsize=9)
    plt.grid(False)


def storage(amounts):
    """Kilobytes kept a video, by method."""
    plt.figure(figsize=(6.5, 2.6))
    names = sorted(amounts, key=amounts.get)
    bars = plt.barh(names, [amounts[n] / 1000 for n in names], color=[BLUE if n == 'GLSCL' else GREY for n in names])
    plt.bar_label(bars, [f' {amounts[n] / 1000:.1f} kB' for n in names], fontsize=8)
    plt.xlabel('kept of a video, kB (float32; F = 12, D = 512, Q = 8)')
    plt.grid(False, axis='y')
    plt.margins(x=0.15)


def cost_accuracy(methods, published, accuracy, counted, gram):
    """R@1 (published) against cost: left the published figures, right our counts (hollow: in Gram form)."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, sharex=True)
    for ax, cost, title in ((axes[0], published, 'R@1 published, cost published'),
                            (axes[1], counted, 'R@1 published, cost counted here')):
        for i, name in enumerate(methods):
            colour = BLUE if name == 'GLSCL' else INK
            ax.plot(cost[i], accuracy[i], 'o', color=colour, ms=7 if name == 'GLSCL' else 5)
            left, above = cost[i] > 50 or name == 'TS2-Net', 8 if name == 'X-Pool' and ax is axes[1] else 0
            ax.annotate(name, (cost[i], accuracy[i]), (-7 if left else 7, above), textcoords='offset points',
                        fontsize=8, color=colour, va='center', ha='right' if left else 'left')
            if ax is axes[1] and gram[i] != cost[i]:
                ax.plot([gram[i], cost[i]], [accuracy[i]] * 2, ':', color=colour, lw=1)
                ax.plot(gram[i], accuracy[i], 'o', mfc='white', color=colour, ms=5)
        ax.set(title=title, xscale='log', xlabel='G multiply-adds, 1000 × 1000', xlim=(0.3, 800))
        ax.margins(y=0.12)
    axes[0].set_ylabel('R@1, MSR-VTT 1k-A')


def shapes_cost(runs, cost, captions='one'):
    """Our own runs on `shapes`: R@1 of every seed against the multiply-adds a pair. cost {method: multiply-adds}"""
    plt.figure(figsize=(5.5, 2.8))
    for i, (name, each) in enumerate(cost.items()):
        values = [r[captions]['metrics']['t2v']['R@1'] for r in runs if r['method'] == name]
        plt.plot([each] * len(values), values, 'o^s'[i % 3], color=(GREY, ORANGE, BLUE)[i % 3], alpha=0.8, label=name)
    if not runs:
        plt.text(0.5, 0.5, 'no stored runs: python -m glscl.comparison', transform=plt.gca().transAxes, ha='center')
    plt.gca().set(xscale='log', xlabel='multiply-adds a pair, counted', ylabel='R@1 on shapes, %', xlim=(60, 10000))
    plt.legend(fontsize=8, loc='center left', bbox_to_anchor=(1, 0.5)) if runs else None
    plt.margins(y=0.25)


# ---- 03: the losses

def sharpness(scores, scales, curve, clamp):
    """What the logit scale does to one row of scores (the best first): probabilities, and the loss over `curve`."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.8, 2.3))
    shades = sns.color_palette('Blues', len(scales) + 1)[1:]
    for i, s in enumerate(scales):
        at = np.arange(len(scores)) + (i - (len(scales) - 1) / 2) * 0.8 / len(scales)
        left.bar(at, (scores * s).softmax(0), 0.8 / len(scales), color=shades[i], label=f's = {s}')
    left.set_xticks(range(len(scores)), [f'{x:.2f}' for x in scores.tolist()])
    left.set(xlabel='score of the video', ylabel='probability')
    left.legend(fontsize=8)
    left.grid(False, axis='x')
    loss = -(scores[:, None] * curve).log_softmax(0)
    right.plot(curve, loss[0], color=BLUE, label='own video scores best')
    right.plot(curve, loss[1], color=ORANGE, ls='--', label='own video scores second')
    right.axvline(clamp, color=GREY, lw=1)
    right.text(clamp + 2, 0.3, 'clamp', color='#666666', fontsize=8, transform=right.get_xaxis_transform())
    right.set(xlabel='scale s', ylabel='loss of this row')
    right.legend(fontsize=8)


def consistency_target(sizes, rest, target, num_queries):
    """Where the cosine of partner concepts comes to rest: measured {(form, B): cosine} and what the formulas say."""
    fig, ax = plt.subplots(figsize=(6, 2.8))
    B = np.array(sizes, float)
    for form, colour, marker, line, label in (('here', BLUE, 'o', np.full(len(B), target), 'here: the target itself'),
                                              ('released', ORANGE, 's', np.minimum(1, target * num_queries / B),
                                               'released code: target · Q / B, at most 1')):
        ax.plot(B, line, color=colour, lw=1, label=label)
        ax.plot(B, [rest[form, b] for b in sizes], marker, color=colour, ms=6)
    ax.set_xscale('log', base=2)
    ax.set_xticks(B, [str(b) for b in sizes])
    ax.set(xlabel='batch size B', ylabel='mean cosine at rest', ylim=(0, 1.08))
    ax.legend(fontsize=8)


def gradient_sizes(tables):
    """Length of each loss's gradient by part of the model: {title: {(loss, part): length}}."""
    fig, axes = plt.subplots(1, len(tables), figsize=(5.0 * len(tables), 2.3), sharey=True)
    for ax, (title, table) in zip(np.atleast_1d(axes), tables.items()):
        losses = list(dict.fromkeys(loss for loss, _ in table))
        parts = ['text tower', 'image tower', 'temporal', 'queries', 'decoder', 'scale']
        sizes = np.array([[table[loss, part] for part in parts] for loss in losses])
        shown = np.where(sizes > 0, np.log10(np.maximum(sizes, 1e-12)), np.nan)
        ax.imshow(shown, cmap='Blues', vmin=-8, vmax=3, aspect='auto')
        for i, j in np.ndindex(sizes.shape):
            ax.text(j, i, f'{sizes[i, j]:.0e}'.replace('e-0', 'e-').replace('e+0', 'e+') if sizes[i, j] else '–',
                    ha='center', va='center', fontsize=8, color='white' if shown[i, j] > -0.5 else INK)
        ax.set_xticks(range(len(parts)), [p.replace(' ', '\n') for p in parts], fontsize=8)
        ax.set_yticks(range(len(losses)), losses, fontsize=8)
        ax.set_title(title, fontsize=9)
        ax.grid(False)


def concept_circles(states):
    """Concepts in the plane {title: (video [B, Q, 2], text [B, Q, 2])}: a column a state, a row a pair."""
    B = len(next(iter(states.values()))[0])
    fig, axes = plt.subplots(B, len(states), figsize=(1.65 * len(states), 1.65 * B + 0.4), squeeze=False)
    for column, (title, sides) in zip(axes.T, states.items()):
        column[0].set_title(title, fontsize=9, loc='center')
        for b, ax in enumerate(column):
            ax.add_patch(plt.Circle((0, 0), 1, fill=False, color='#dddddd'))
            for side, colour, reach, width in zip(sides, (ORANGE, BLUE), (1.2, 1.42), (2.2, 0.8)):  # blue over orange
                for q, (x, y) in enumerate(np.asarray(side[b])):
                    ax.annotate('', (x, y), (0, 0), arrowprops=dict(
                        arrowstyle='-|>', color=colour, lw=width, mutation_scale=6 + 2 * width, shrinkA=0, shrinkB=0))
                    ax.text(reach * x, reach * y, str(q), color=colour, fontsize=7, ha='center', va='center')
            ax.set(xlim=(-1.55, 1.55), ylim=(-1.55, 1.55), aspect='equal', xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
    for b in range(B):
        axes[b, 0].set_ylabel(f'pair {b}')
    fig.legend(handles=[Line2D([], [], color=c, label=f'{side} concepts') for c, side in ((BLUE, 'text'), (ORANGE, 'video'))],
               loc='outside lower center', ncols=2, fontsize=8, frameon=False)


def concept_cosines(matrices):
    """Mean cosines between concepts {title: [Q, Q]}, on one scale."""
    fig, axes = plt.subplots(1, len(matrices), figsize=(2.3 * len(matrices) + 0.6, 2.25))
    for ax, (title, M) in zip(axes, matrices.items()):
        image = ax.imshow(M, cmap='RdBu_r', vmin=-1, vmax=1)
        ax.set_title(title, fontsize=9)
        ax.set_xticks(range(len(M)))
        ax.set_yticks(range(len(M)))
        ax.set(xlabel='concept j')
        ax.grid(False)
    axes[0].set_ylabel('concept i')
    fig.colorbar(image, ax=axes[-1], label='mean cosine')


def recall_by_kind(by_kind, chance):
    """Recalls of each kind of caption with their 95 % intervals; by_kind {kind: summary}."""
    fig, ax = plt.subplots(figsize=(5.2, 2.8))
    for i, ((kind, m), colour) in enumerate(zip(by_kind.items(), (BLUE, ORANGE))):
        value = np.array([m[f'R@{k}'] for k in (1, 5, 10)])
        ends = np.array([m[f'R@{k} interval'] for k in (1, 5, 10)]).T
        ax.bar(np.arange(3) + 0.36 * (i - 0.5), value, 0.34, color=colour, label=kind, zorder=2,
               yerr=np.maximum(0, [value - ends[0], ends[1] - value]), error_kw=dict(ecolor=INK, capsize=3, lw=1))
    ax.hlines([chance * k for k in (1, 5, 10)], np.arange(3) - 0.4, np.arange(3) + 0.4, color=INK, lw=1, ls=':',
              zorder=3, label='chance')
    ax.set(xticks=range(3), xticklabels=['R@1', 'R@5', 'R@10'], ylim=(0, 102), ylabel='% of queries')
    ax.grid(axis='x', visible=False)
    ax.legend(loc='upper left', bbox_to_anchor=(1, 1), frameon=False)
