"""Figures of 06: growth, storage, cost against accuracy."""
import matplotlib.pyplot as plt
import pandas as pd

from .style import BLUE, GREEN, GREY, INK, ORANGE, RED, legend_below, mark, nothing_stored

# What a head does with a pair: colour -> (in words, which heads); any other is of the first kind.
KINDS = {
    GREY: ('one vector a video, made without the text (LAFF: eight)', ()),
    ORANGE: ('frames weighed by the text', ('TS2-Net', 'DiCoSA', 'X-Pool', 'T-MASS')),
    BLUE: ('frames weighed by the text, and concepts', ('GLSCL',)),
    RED: ('every word against every frame', ('X-CLIP', 'DRL')),
    GREEN: ('a transformer over each pair', ('CLIP4Clip tightTransf',)),
}


def kind(method):
    """The colour of a method's kind."""
    return next((colour for colour, (_, heads) in KINDS.items() if method in heads), GREY)


def kinds_legend(figure, methods, *more):
    """Below the figure: what the colours of these methods mean, and further marks."""
    used = {kind(method) for method in methods}
    marks = [mark(colour, words) for colour, (words, _) in KINDS.items() if colour in used]
    legend_below(figure, [*marks, *more])


def name_points(ax, points):
    """A name beside each point, moved upwards until it covers no other.

    points: [(name, x, y, beside)]; the name stands to the right of the x `beside`, or to the left
    of it if that is smaller than x. A thin line leads from a name to its point if they are apart.
    Call it last: whatever is drawn later would move the points."""
    ax.figure.draw_without_rendering()  # only the layout tells what overlaps
    line = dict(arrowstyle='-', lw=0.5, color=GREY, shrinkA=0, shrinkB=3)
    taken = []
    for name, x, y, beside in sorted(points, key=lambda point: point[2]):
        from_x, from_beside = ax.transData.transform([(x, y), (beside, y)])[:, 0]  # in pixels
        right = 72 / ax.figure.dpi * (from_beside - from_x) + (8 if beside >= x else -8)
        text = ax.annotate(name, (x, y), (right, 0), textcoords='offset points', fontsize=8,
                           color=INK if kind(name) == GREY else kind(name), va='center',
                           ha='left' if beside >= x else 'right',
                           bbox=dict(fc='white', ec='none', alpha=0.7, pad=0.3))
        while any(text.get_window_extent().overlaps(other) for other in taken):
            text.xyann = right, text.xyann[1] + 1
        taken.append(text.get_window_extent())
        if abs(right) > 20 or text.xyann[1] > 3:
            ax.annotate('', (x, y), text.xyann, textcoords='offset points', arrowprops=line)


def growth(counted, measured, encode):
    """What one query costs by the number of videos: multiply-adds on the left, time on the right.

    counted: {method: (numbers of videos, multiply-adds)}; measured: {method: [(videos, ms,
    whether extrapolated)]}; encode: multiply-adds of encoding the query itself. The heads of one
    vector share a name."""
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.6))
    kinds_legend(figure, counted, mark(INK, 'extrapolated', hollow=True, line=':'))
    cheapest = min(macs for _, macs in counted.values())
    alike = [method for method, (_, macs) in counted.items() if macs == cheapest]
    names = {method: method for method in ('encoding the query', *counted)}
    names[alike[0]] = f'one vector ({len(alike)} heads)'
    for method in alike[1:]:
        del names[method]
    ends = [], []  # of the lines: (method, x, y)
    for method, (V, macs) in counted.items():
        axes[0].loglog(V, macs, color=kind(method), lw=1.5)
        ends[0].append((method, V[-1], macs[-1]))
    axes[0].plot(V, [encode] * len(V), ':', color=INK, lw=1)
    ends[0].append(('encoding the query', V[-1], encode))
    for method, points in measured.items():
        V, ms, extrapolated = zip(*sorted(points))
        real = extrapolated.count(False)  # these come first
        axes[1].loglog(V, ms, 'o:', color=kind(method), mfc='white', lw=1.2, ms=4)
        axes[1].loglog(V[:real], ms[:real], 'o-', color=kind(method), lw=1.2, ms=3)
        ends[1].append((method, V[-1], ms[-1]))
    for ax, title, points in zip(axes, ('counted: multiply-adds', 'measured: ms'), ends):
        most = max(V for _, V, _ in points)
        ax.set(title=f'{title} of one query', xlabel='videos in the gallery, V')
        ax.set_xlim(right=300 * most)
        ax.set_xticks([10 ** k for k in range(9) if ax.get_xlim()[0] < 10 ** k <= most])
        name_points(ax, [(names[method], x, y, most) for method, x, y in points if method in names])


def shares(parts):
    """The parts of a whole as one bar. parts: {name: multiply-adds}"""
    percent = 100 * pd.Series(parts) / sum(parts.values())
    percent.index = [f'{name}: {share:.1f} %' for name, share in percent.items()]
    ax = percent.to_frame().T.plot.barh(stacked=True, figsize=(8, 1.5), color=[RED, ORANGE, BLUE])
    ax.set(yticks=[], xlim=(0, 100), xlabel='multiply-adds of the released evaluation, %')
    ax.legend(ncols=3, loc='lower center', bbox_to_anchor=(0.5, 1))


def storage(amounts):
    """What must be kept of a video. amounts: {method: bytes}"""
    figure, ax = plt.subplots(figsize=(8, 4.2))
    order = sorted(amounts, key=amounts.get)
    bars = ax.barh(order, [amounts[m] / 1000 for m in order], color=[kind(m) for m in order])
    ax.bar_label(bars, fmt=' %.1f', fontsize=8)
    ax.set_xlabel('kept of a video, kB, which is as many GB for a million videos\n'
                  '(float32; F = 12, D = 512, Q = 8)')
    ax.set_title(f'GLSCL keeps {amounts["GLSCL"] / min(amounts.values()):.0f} times as much as one '
                 f'vector')
    ax.grid(False, axis='y')
    kinds_legend(figure, order)


def published_points(ax, methods, cost, accuracy, on_the_left=()):
    """R@1 on MSR-VTT against cost, as dots with their names."""
    points = []
    for method, x, y in zip(methods, cost, accuracy):
        ax.plot(x, y, 'o', color=kind(method), ms=7 if method == 'GLSCL' else 5)
        points.append((method, x, y, x / 1.01 if method in on_the_left else x))
    ax.set(xscale='log', xlabel='G multiply-adds, 1000 × 1000', xlim=(0.3, 8000))
    ax.margins(y=0.12)
    name_points(ax, points)


def cost_accuracy(methods, published, accuracy, counted, gram):
    """Published R@1 against cost: on the left as published, on the right as counted here.

    One number a method each: published, counted and gram (counted in Gram form) are costs in G
    multiply-adds for 1000 × 1000, accuracy is R@1 in percent."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    kinds_legend(figure, methods, mark(INK, 'in Gram form', hollow=True, line=':'))
    left.set(title='R@1 published, cost published', ylabel='R@1, MSR-VTT 1k-A')
    right.set_title('R@1 published, cost counted here')
    for method, y, x, less in zip(methods, accuracy, counted, gram):
        if less != x:
            right.plot([x, less], [y, y], 'o:', mfc='white', color=kind(method), lw=1, ms=5)
    published_points(left, methods, published, accuracy)
    published_points(right, methods, counted, accuracy, on_the_left=['TS2-Net'])


def cost_recall(cost, recall):
    """R@1 on `shapes` against the multiply-adds of a pair, with 95 % intervals.

    cost: {method: multiply-adds}; recall: {method: dict(mean, low, high)}, in percent. Heads of
    equal cost stand side by side."""
    figure, ax = plt.subplots(figsize=(8.5, 4.8))
    kinds_legend(figure, cost)
    points = []
    for method, r in recall.items():
        equal = [other for other in recall if cost[other] == cost[method]]
        x = cost[method] * 1.15 ** equal.index(method)
        ax.plot([x, x], [r['low'], r['high']], color=kind(method), lw=1)
        ax.plot(x, r['mean'], 'o', color=kind(method), ms=7 if method == 'GLSCL' else 5)
        on_the_left = len(equal) > 1 or cost[method] == max(cost.values())
        points.append((method, x, r['mean'], 0.99 * cost[method] if on_the_left else x))
    ax.set(xscale='log', ylabel='R@1 on shapes, %', xlabel='multiply-adds a pair, D = 128',
           title='R@1 measured here, cost counted here', xlim=(2, 4 * max(cost.values())))
    name_points(ax, points)
    if not recall:
        nothing_stored(ax)
