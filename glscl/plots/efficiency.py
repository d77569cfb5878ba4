"""Figures of 06: time, growth, storage, cost against accuracy."""
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

from .style import BLUE, GREEN, GREY, INK, ORANGE, RED

# What kind of head it is: colour -> (what it does, which heads); any other is of the first kind.
KINDS = {
    GREY: ('one vector a video (LAFF: eight)', ()),
    ORANGE: ('the text weighs the frames', ('TS2-Net', 'DiCoSA', 'X-Pool', 'T-MASS')),
    BLUE: ('the same and concepts: GLSCL', ('GLSCL',)),
    RED: ('every word meets every frame', ('X-CLIP', 'DRL')),
    GREEN: ('a transformer over each pair', ('CLIP4Clip tightTransf',)),
}


def kind(method):
    """The colour of a method's kind."""
    return next((colour for colour, (_, methods) in KINDS.items() if method in methods), GREY)


def kinds_legend(figure):
    """Below the figure: what each colour means."""
    marks = [Line2D([], [], color=colour, marker='o', ls='', label=label) for colour, (label, _) in KINDS.items()]
    figure.legend(handles=marks, loc='outside lower center', ncols=3, frameon=False, fontsize=8)


def names(ax, points, gap=10, size=8):
    """A name beside each point, pushed up or down until none covers another; a thin line leads back to a point further off.

    points [(name, x, y, beside)]: the name stands right of the x `beside`, or left of it if it is smaller than x. The last
    thing to draw: what follows would move the points."""
    ax.figure.draw_without_rendering()  # only the layout tells what overlaps
    unit = 72 / ax.figure.dpi
    points = sorted(points, key=lambda p: p[2])
    side = [-1 if p[3] < p[1] else 1 for p in points]
    base = [unit * ax.transData.transform((p[3], p[2]))[0] + 9 * s for p, s in zip(points, side)]
    spans = [sorted((x, x + 0.6 * size * len(p[0]) * s)) for x, p, s in zip(base, points, side)]
    at = [unit * ax.transData.transform(p[1:3]) for p in points]
    y = [y for _, y in at]
    for _ in range(300):
        for i in range(len(points)):
            for j in range(i):
                if spans[i][0] < spans[j][1] and spans[j][0] < spans[i][1] and (missing := gap - (y[i] - y[j])) > 0:
                    y[i], y[j] = y[i] + missing / 2, y[j] - missing / 2
    for (name, *xy, _), edge, (x, was), new in zip(points, base, at, y):
        far = abs(new - was) > 3 or abs(edge - x) > 20
        line = dict(arrowstyle='-', lw=0.5, color=GREY, shrinkA=0, shrinkB=3) if far else None
        ax.annotate(name, xy, (edge - x, new - was), textcoords='offset points', va='center', fontsize=size, arrowprops=line,
                    ha='left' if edge > x else 'right', color=INK if kind(name) == GREY else kind(name),
                    bbox=dict(fc='white', ec='none', alpha=0.7, pad=0.3))


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


def growth(counted, measured, encode):
    """A query by number of videos. counted {method: (V's, multiply-adds)}, measured {method: [(V, ms, extrapolated)]}.

    Hollow: extrapolated. encode: the multiply-adds of encoding the query itself. Heads of one vector share a name."""
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.6))
    kinds_legend(figure)
    alike = [m for m in counted if counted[m] == min(counted.values(), key=lambda line: line[1])]
    ends = [[], []]
    for method, (V, macs) in counted.items():
        axes[0].loglog(V, macs, color=kind(method), lw=1.5)
        ends[0].append((method, V[-1], macs[-1]))
    for method, points in measured.items():
        V, ms, extrapolated = zip(*sorted(points))
        last = sum(not guess for guess in extrapolated)
        axes[1].loglog(V[:last], ms[:last], 'o-', color=kind(method), lw=1.2, ms=3)
        axes[1].loglog(V[max(0, last - 1):], ms[max(0, last - 1):], ':', color=kind(method), lw=1.2)
        axes[1].loglog(V[last:], ms[last:], 'o', mfc='white', color=kind(method), ms=4)
        ends[1].append((method, V[-1], ms[-1]))
    galleries = counted[alike[0]][0]
    axes[0].plot(galleries, [encode] * len(galleries), ':', color=INK, lw=1)
    ends[0].append(('encoding the query', galleries[-1], encode))
    for ax, title, points in zip(axes, ('counted: multiply-adds', 'measured: ms'), ends):
        most = max(V for _, V, _ in points)
        ax.set(title=f'{title} of one query', xlabel='videos in the gallery, V', xlim=(None, 300 * most))
        ax.set_xticks([10 ** k for k in range(9) if ax.get_xlim()[0] < 10 ** k <= most])
        shared = f'one vector ({len(alike)} heads)'
        names(ax, [(shared if m == alike[0] else m, *xy, most) for m, *xy in points if m not in alike[1:]])


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
    """Bytes kept a video by method, and of a million."""
    figure = plt.figure(figsize=(8, 4.2))
    order = sorted(amounts, key=amounts.get)
    bars = plt.barh(order, [amounts[m] / 1000 for m in order], color=[kind(m) for m in order])
    plt.bar_label(bars, [f' {amounts[m] / 1000:.1f} kB; a million: {amounts[m] / 1000:.1f} GB' for m in order], fontsize=8)
    plt.xlabel('kept of a video, kB (float32; F = 12, D = 512, Q = 8)')
    plt.grid(False, axis='y')
    plt.xlim(right=1.45 * max(amounts.values()) / 1000)
    kinds_legend(figure)


def published_points(ax, methods, cost, accuracy, title, left=()):
    """R@1 on MSR-VTT against cost, as dots with names, on the left of those in `left`."""
    for method, x, y in zip(methods, cost, accuracy):
        ax.plot(x, y, 'o', color=kind(method), ms=7 if method == 'GLSCL' else 5)
    ax.set(title=title, xscale='log', xlabel='G multiply-adds, 1000 × 1000', xlim=(0.3, 8000), ylabel='R@1, MSR-VTT 1k-A')
    ax.margins(y=0.12)
    names(ax, [(m, x, y, x / 1.01 if m in left else x) for m, x, y in zip(methods, cost, accuracy)])


def cost_accuracy(methods, published, accuracy, counted, gram):
    """R@1 (published) against cost: left the published figures, right our counts (hollow: in Gram form)."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
    published_points(axes[0], methods, published, accuracy, 'R@1 published, cost published')
    published_points(axes[1], methods, counted, accuracy, 'R@1 published, cost counted here', left=['TS2-Net'])
    axes[1].set(ylabel='')
    for method, y, x, less in zip(methods, accuracy, counted, gram):
        if less != x:
            axes[1].plot([less, x], [y] * 2, ':', color=kind(method), lw=1)
            axes[1].plot(less, y, 'o', mfc='white', color=kind(method), ms=5)


def figure_one(methods, published, accuracy, cost, recall):
    """Figure 1 as published, and as measured on `shapes`: recall {method: dict(mean, low, high)} against cost {method: a pair's}.

    Heads of equal cost stand side by side. Without measurements the right half names the command that makes them."""
    figure, (left, ax) = plt.subplots(1, 2, figsize=(12, 5), width_ratios=(1, 1.6))
    kinds_legend(figure)
    published_points(left, methods, published, accuracy, 'as published: MSR-VTT, published cost')
    points = []
    for method, r in recall.items():
        equal = [m for m in recall if cost[m] == cost[method]]
        x = cost[method] * 1.15 ** equal.index(method)
        ax.plot([x, x], [r['low'], r['high']], color=kind(method), lw=1)
        ax.plot(x, r['mean'], 'o', color=kind(method), ms=7 if method == 'GLSCL' else 5)
        on_the_left = len(equal) > 1 or cost[method] == max(cost.values())
        points.append((method, x, r['mean'], 0.99 * cost[method] if on_the_left else x))
    ax.set(title='as measured here: shapes, counted cost', xscale='log', xlabel='multiply-adds a pair, D = 128',
           ylabel='R@1, shapes, %', xlim=(2, 4 * max(cost.values())))
    names(ax, points)
    if not recall:
        ax.text(0.5, 0.5, 'not measured yet:\npython -m glscl.experiments.bench_recall', transform=ax.transAxes, ha='center')


def shapes_cost(runs, cost, captions='one'):
    """Our own runs on `shapes`: R@1 of every seed against the multiply-adds a pair. cost {method: multiply-adds}"""
    plt.figure(figsize=(5.5, 2.8))
    for i, (name, each) in enumerate(cost.items()):
        values = [r[captions]['metrics']['t2v']['R@1'] for r in runs if r['method'] == name]
        plt.plot([each] * len(values), values, 'o^s'[i % 3], color=(GREY, ORANGE, BLUE)[i % 3], alpha=0.8, label=name)
    if not runs:
        plt.text(0.5, 0.5, 'no stored runs: python -m glscl.experiments.comparison', transform=plt.gca().transAxes, ha='center')
    plt.gca().set(xscale='log', xlabel='multiply-adds a pair, counted', ylabel='R@1 on shapes, %', xlim=(60, 10000))
    plt.legend(fontsize=8, loc='center left', bbox_to_anchor=(1, 0.5)) if runs else None
    plt.margins(y=0.25)
