"""Figures of 06: time, growth, storage, cost against accuracy."""
import matplotlib.pyplot as plt

from .style import BLUE, GREEN, GREY, INK, ORANGE, RED


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
