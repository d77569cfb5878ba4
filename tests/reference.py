"""Every equation of the method once more, in plain loops over plain floats: the oracle of the tests.

Nothing here is fast and nothing is shared with the package. Index letters as there: t text, v video, f frame, q concept,
b pair of a batch."""
import math


def dot(x, y):
    return sum(float(a) * float(b) for a, b in zip(x, y))


def cosine(x, y):
    return dot(x, y) / math.sqrt(dot(x, x) * dot(y, y))


# ---- the global module

def frame_weights(sentence, frames, mask, temperature, mask_after=False):
    """a[t][v][f] over the valid frames; `mask_after`: softmax over all frames, then zeros, not renormalised (released code)."""
    weights = []
    for e in sentence:
        weights.append([])
        for y, m in zip(frames, mask):
            logits = [dot(e, frame) / temperature for frame in y]
            counted = [bool(ok) or mask_after for ok in m]
            top = max([x for x, c in zip(logits, counted) if c], default=0.0)
            terms = [math.exp(x - top) if c else 0.0 for x, c in zip(logits, counted)]
            total = sum(terms)
            weights[-1].append([term / total * float(ok) if total else 0.0 for term, ok in zip(terms, m)])
    return weights


def pooled(sentence, frames, mask, temperature, mask_after=False):
    """p[t][v][d] = sum_f a[t,v,f] y[v,f]"""
    a = frame_weights(sentence, frames, mask, temperature, mask_after)
    return [[[sum(a[t][v][f] * float(frames[v][f][d]) for f in range(len(frames[v]))) for d in range(len(sentence[t]))]
             for v in range(len(frames))] for t in range(len(sentence))]


def global_similarity(sentence, frames, mask, temperature, mask_after=False):
    """S_g[t][v] = cos(e[t], p[t,v]); 0 where no frame is valid."""
    p = pooled(sentence, frames, mask, temperature, mask_after)
    return [[cosine(e, p[t][v]) if any(mask[v]) else 0.0 for v in range(len(frames))] for t, e in enumerate(sentence)]


def mean_similarity(sentence, frames, mask):
    """Cosine of the sentence and the mean of the valid frames, each of length 1."""
    S = []
    for e in sentence:
        S.append([])
        for y, m in zip(frames, mask):
            units = [[float(x) / math.sqrt(dot(frame, frame)) for x in frame] for frame, ok in zip(y, m) if ok]
            S[-1].append(cosine(e, [sum(column) / len(units) for column in zip(*units)]) if units else 0.0)
    return S


# ---- the local module

def local_similarity(text_concepts, video_concepts):
    """S_l[t][v] = 1/Q sum_q <c_t[t,q], c_v[v,q]>"""
    return [[sum(dot(a, b) for a, b in zip(c_t, c_v)) / len(c_t) for c_v in video_concepts] for c_t in text_concepts]


def similarity(S_g, S_l, local_weight):
    """S = S_g + lambda S_l"""
    return [[g + local_weight * l for g, l in zip(*rows)] for rows in zip(S_g, S_l)]


# ---- the losses

def contrastive(S, scale, video_ids=None):
    """1/2 [ CE_rows(s S) + CE_cols(s S) ]; captions of one video share the target equally."""
    B = len(S)
    ids = list(range(B)) if video_ids is None else [int(i) for i in video_ids]

    def cross_entropy(M):
        total = 0.0
        for i in range(B):
            logits = [scale * float(M[i][j]) for j in range(B)]
            top = max(logits)
            log_sum = top + math.log(sum(math.exp(x - top) for x in logits))
            positives = [j for j in range(B) if ids[j] == ids[i]]
            total -= sum(logits[j] - log_sum for j in positives) / len(positives)
        return total / B

    return (cross_entropy(S) + cross_entropy([[S[j][i] for j in range(B)] for i in range(B)])) / 2


def inter_consistency(c_v, c_t, weight, target, released):
    """MSE + beta sum_q ( r[q] - target )^2: over pairs and the batch's mean, or (released) over means and a sum by Q."""
    B, Q, D = len(c_v), len(c_v[0]), len(c_v[0][0])
    square = 0.0
    for q in range(Q):
        for d in range(D):
            if released:
                square += (sum(float(c_v[b][q][d]) - float(c_t[b][q][d]) for b in range(B)) / B) ** 2 / (Q * D)
            else:
                square += sum((float(c_v[b][q][d]) - float(c_t[b][q][d])) ** 2 for b in range(B)) / (B * Q * D)
    r = [sum(dot(c_v[b][q], c_t[b][q]) for b in range(B)) / (Q if released else B) for q in range(Q)]
    return square + weight * sum((x - target) ** 2 for x in r)


def intra_diversity(c, weight, margin):
    """alpha [ sum_{i!=j} max(0, m + M_ij - M_ii) + max(0, m + M_ij - M_jj) ] / ( Q (Q-1) ), M = mean_b c c^T; 0 if Q = 1."""
    B, Q = len(c), len(c[0])
    M = [[sum(dot(c[b][i], c[b][j]) for b in range(B)) / B for j in range(Q)] for i in range(Q)]
    hinge = sum(max(0.0, margin + M[i][j] - M[i][i]) + max(0.0, margin + M[i][j] - M[j][j])
                for i in range(Q) for j in range(Q) if i != j)
    return weight * hinge / (Q * (Q - 1)) if Q > 1 else 0.0


# ---- the metrics

def rank(scores, wanted):
    """From 1: the mean of the rank if every tie were won and the rank if every tie were lost."""
    best = 1 + sum(s > scores[wanted] for s in scores)
    worst = sum(s >= scores[wanted] for s in scores)
    return (best + worst) / 2


def metrics(S, text_to_video):
    """Both directions: R@k in percent, MdR, MnR. A video's score for a group of texts is the maximum over the group."""
    T, V = len(S), len(S[0])
    t2v = [rank(list(S[t]), text_to_video[t]) for t in range(T)]
    told = [v for v in range(V) if v in list(text_to_video)]
    v2t = [rank([max(S[t][v] for t in range(T) if text_to_video[t] == group) for group in told], told.index(v)) for v in told]

    def summary(ranks):
        ordered, n = sorted(ranks), len(ranks)
        out = {f'R@{k}': 100 * sum(r <= k for r in ranks) / n for k in (1, 5, 10, 50)}
        return {**out, 'MdR': (ordered[(n - 1) // 2] + ordered[n // 2]) / 2, 'MnR': sum(ranks) / n}

    return dict(t2v=summary(t2v), v2t=summary(v2t))


def released_ranks(S, wanted):
    """From 1, the released code's way: the place of every score of the sorted row that equals the wanted one, row after row."""
    return [place + 1 for row, w in zip(S, wanted) for place, s in enumerate(sorted(row, reverse=True)) if s == row[w]]


def qb_norm(S, bank, k, beta, theta):
    """(scores, activation set, rows that changed): the dynamic inverted softmax."""
    def best(row):
        return sorted(range(len(row)), key=lambda j: -row[j])

    hubs = [j for j in range(len(S[0])) if sum(j in best(row)[:k] for row in bank) >= theta]
    total = [sum(math.exp(beta * row[j]) for row in bank) for j in range(len(S[0]))]
    rows = [i for i, row in enumerate(S) if best(row)[0] in hubs]
    return ([[math.exp(beta * s) / total[j] for j, s in enumerate(row)] if i in rows else list(row) for i, row in enumerate(S)],
            hubs, rows)


def dual_softmax(S, kappa):
    """S[i][j] * exp(kappa S[i][j]) / sum_i' exp(kappa S[i'][j])"""
    total = [sum(math.exp(kappa * row[j]) for row in S) for j in range(len(S[0]))]
    return [[s * math.exp(kappa * s) / total[j] for j, s in enumerate(row)] for row in S]


# ---- the released optimizer

def warmup_cosine_released(x, warmup):
    """The factor at the share x of the schedule's steps."""
    return x / warmup if x < warmup else 0.5 * (1 + math.cos(math.pi * x))


def bert_adam(start, gradients, rates, weight_decay, b1=0.9, b2=0.98, eps=1e-6, max_norm=1.0):
    """The values of one tensor, flat, after each step; rates: the learning rate of each."""
    p, m, v, path = list(start), [0.0] * len(start), [0.0] * len(start), []
    for gradient, lr in zip(gradients, rates):
        clip = min(1.0, max_norm / (math.sqrt(dot(gradient, gradient)) + 1e-6))
        for i, g in enumerate(gradient):
            m[i] = b1 * m[i] + (1 - b1) * g * clip
            v[i] = b2 * v[i] + (1 - b2) * (g * clip) ** 2
            p[i] = p[i] - lr * (m[i] / (math.sqrt(v[i]) + eps) + weight_decay * p[i])
        path.append(list(p))
    return path
