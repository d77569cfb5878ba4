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


# ---- the rivals' heads: one text and one video at a time; `seen` tokens count, as each head's mask says

def unit(x):
    size = math.sqrt(dot(x, x))
    return [float(a) / size if size else 0.0 for a in x]


def softmax(x, seen=None):
    seen = [True] * len(x) if seen is None else seen
    top = max([float(a) for a, s in zip(x, seen) if s], default=0.0)
    terms = [math.exp(float(a) - top) if s else 0.0 for a, s in zip(x, seen)]
    return [a / (sum(terms) or 1.0) for a in terms]


def linear(layer, x):
    """W x + b for a layer with .weight and .bias"""
    bias = [0.0] * len(layer.weight) if layer.bias is None else layer.bias
    return [dot(row, x) + float(b) for row, b in zip(layer.weight, bias)]


def layer_norm(layer, x):
    mean = sum(x) / len(x)
    var = sum((a - mean) ** 2 for a in x) / len(x)
    return [(a - mean) / math.sqrt(var + layer.eps) * float(g) + float(b) for a, g, b in zip(x, layer.weight, layer.bias)]


def floats(x):
    return [float(a) for a in x]


def mixed(weights, vectors):
    """sum_i w_i x_i"""
    return [sum(w * float(x[d]) for w, x in zip(weights, vectors)) for d in range(len(vectors[0]))]


def perceptron(layers, x):
    """Linear, ReLU, Linear to one number"""
    return linear(layers[2], [max(0.0, a) for a in linear(layers[0], x)])[0]


def xclip(head, e, w, x, y, mask, seen_words, seen_frames):
    e, w, x = unit(e), [unit(a) for a in w], [unit(a) for a in x]
    u = unit(mixed([1.0 / sum(mask) if m else 0.0 for m in mask], [unit(a) for a in y]))

    def weighed(values, seen, A):
        a = softmax([v / 0.01 for v in values], seen)
        return sum(sum(a[k] * float(A[k][i]) for k in range(len(a))) * values[i] for i in range(len(a)))

    def mapped(a, W, b):
        return sum(a[i] * W[i][j] * b[j] for i in range(len(a)) for j in range(len(b)))

    of_sentence, of_word = head.sentence_map.tolist(), head.word_map.tolist()
    w = [a if s else [0.0] * len(a) for a, s in zip(w, seen_words)]
    x = [a if s else [0.0] * len(a) for a, s in zip(x, seen_frames)]
    G = [[mapped(a, of_word, b) for b in x] for a in w]
    alpha = [weighed([G[l][f] for l in range(len(w))], seen_words, head.words_of_frame) for f in range(len(x))]
    gamma = [weighed(G[l], seen_frames, head.frames_of_word) for l in range(len(w))]
    return (mapped(e, of_sentence, u) + weighed([dot(a, u) for a in w], seen_words, head.words_of_video)
            + weighed([dot(e, b) for b in x], seen_frames, head.frames_of_sentence)
            + (weighed(alpha, seen_frames, head.frames_last) + weighed(gamma, seen_words, head.words_last)) / 2) / 4


def drl(head, e, w, y, word_mask, mask, pad):
    G = [[dot(unit(a), unit(b)) if m and n else pad for b, n in zip(y, mask)] for a, m in zip(w, word_mask)]
    omega = softmax([perceptron(head.weigh_words, a) for a in w], word_mask)
    nu = softmax([perceptron(head.weigh_frames, b) for b in y], mask)
    return (sum(o * max(row) for o, row in zip(omega, G)) + sum(n * max(col) for n, col in zip(nu, zip(*G)))) / 2


def gelu(x):
    return x / 2 * (1 + math.erf(x / math.sqrt(2)))


def selected(select, frame, patches, noise):
    """The k patches that TS2-Net's network rates highest, each the mean over what noisy rates put in that place."""
    looks = [[gelu(a) for a in linear(select.look[1], layer_norm(select.look[0], floats(token)))] for token in (frame, *patches)]
    rates = [math.tanh(linear(select.rate[2], [gelu(a) for a in linear(select.rate[0], look + looks[0])])[0]) for look in looks[1:]]
    share = [[0.0] * len(patches) for _ in range(select.k)]
    for draw in noise:
        noisy = [r + select.sigma * float(n) for r, n in zip(rates, draw)]
        for place, i in enumerate(sorted(sorted(range(len(noisy)), key=lambda i: -noisy[i])[:select.k])):
            share[place][i] += 1 / len(noise)
    return [mixed(of_place, patches) for of_place in share]


def ts2net_frames(head, frames, patches, mask, noise):
    """(class tokens after the temporal transformer, which of them count): the mask tiled over all tokens as in the released code,
    where padded frames take part; or each frame's own, and padded frames are nothing."""
    every, tokens, D = head.select.k + 1, [], len(frames[0])
    for frame, of_frame, m in zip(frames, patches, mask):
        some = [floats(frame), *selected(head.select, frame, of_frame, noise)]
        tokens += some if m or not head.mask_padding else [[0.0] * D] * every
    seen = [mask[i // every if head.mask_padding else i % len(mask)] for i in range(len(tokens))]
    z = [[a + float(p) for a, p in zip(row, position)] for row, position in zip(tokens, head.temporal.positions)]
    y = [[a + b for a, b in zip(*rows)] for rows in zip(blocks(head.temporal.blocks, z, seen), tokens)]
    return y[::every], seen[::every]


def top_k_gradient(scores, noise, k, sigma, weights, diagonal):
    """d/d scores of sum_pi weights[p][i] indicator[p][i], as the perturbed optimiser has it; noise: a list of draws."""
    n, slope = len(scores), [0.0] * len(scores)
    for draw in noise:
        noisy = [s + sigma * x for s, x in zip(scores, draw)]
        for place, i in enumerate(sorted(sorted(range(n), key=lambda i: -noisy[i])[:k])):
            for j in [i] if diagonal else range(n):
                slope[j] += weights[place][i] * draw[j] / sigma / len(noise)
    return slope


def ts2net(e, y, mask):
    q = [dot(unit(e), unit(a)) for a in y]
    n = unit([a * float(m) for a, m in zip(q, mask)])
    return sum(a * b for a, b in zip(softmax([4 * x for x in n], mask), q))


def dicosa(head, e, y, mask, seen):
    a = [w * float(m) for w, m in zip(softmax([dot(e, b) / head.temperature for b in y], seen), mask)]
    p, d, score = mixed(a, y), len(e) // head.concepts, 0.0
    for c in range(head.concepts):
        t, v = floats(e[c * d:c * d + d]), p[c * d:c * d + d]
        score += perceptron(head.weigh, t + v) * cosine(t, v)
    return score


def xpool_vector(head, e, x, seen):
    query = linear(head.query, layer_norm(head.norm1, floats(e)))
    inner = [layer_norm(head.norm1, floats(a)) for a in x]
    a = softmax([dot(linear(head.key, b), query) / math.sqrt(len(e)) for b in inner], seen)
    o = layer_norm(head.norm2, linear(head.out, mixed(a, [linear(head.value, b) for b in inner])))
    return layer_norm(head.norm3, [b + c for b, c in zip(o, linear(head.map, o))])


def tmass(head, e, x, seen, noise):
    p = xpool_vector(head, e, x, seen)
    c = [dot(unit(e), unit(a)) if s else 0.0 for a, s in zip(x, seen)]
    rho = [math.exp(a) for a in linear(head.radius, c)]
    return max(cosine([float(a) + float(n) * r for a, n, r in zip(e, row, rho)], p) for row in noise)


def teachclip(head, e, y, seen):
    a = softmax([perceptron(head.importance, b) / 0.1 for b in y], seen)
    return cosine(e, mixed(a, [unit(b) for b in y]))


def laff_spaces(fusion, clip, features):
    """The fused vector of each space; `features` beside CLIP's. Batch norm by its running statistics."""
    norm, H, D = fusion.clip_norm, len(fusion.attend), len(clip)
    z = [[(float(clip[i % D]) - float(norm.running_mean[i])) / math.sqrt(float(norm.running_var[i]) + norm.eps)
          * float(norm.weight[i]) + float(norm.bias[i]) for i in range(H * D)]]
    z += [[math.tanh(a) for a in linear(layer[0], x)] for layer, x in zip(fusion.others, features)]
    parts = [[row[h * D:h * D + D] for row in z] for h in range(H)]
    return [mixed(softmax([linear(fusion.attend[h], row)[0] for row in parts[h]]), parts[h]) for h in range(H)]


def cross_transformer(head, e, x, mask):
    z = [[float(a) + float(p) for a, p in zip(row, position)] for row, position in zip([e, *x], head.positions)]
    z = blocks(head.blocks, z, [True, *mask])
    dense = linear(head.pooler[1], layer_norm(head.pooler[0], z[0]))
    return linear(head.pooler[3], [x / (1 + math.exp(-1.702 * x)) for x in dense])[0]


def blocks(layers, z, seen):
    """Tokens z through pre-LN transformer blocks with QuickGELU; the tokens that are `seen` serve as keys."""
    D = len(z[0])
    for block in layers:
        inner, heads = [layer_norm(block.ln_1, a) for a in z], block.attn.num_heads
        W, b = block.attn.in_proj_weight, block.attn.in_proj_bias
        q, k, v = ([[dot(row, a) + float(c) for row, c in zip(W[i:i + D], b[i:i + D])] for a in inner] for i in (0, D, 2 * D))
        out, d = [], D // heads
        for i in range(len(z)):
            read = []
            for h in range(0, D, d):
                a = softmax([dot(q[i][h:h + d], k[j][h:h + d]) / math.sqrt(d) for j in range(len(z))], seen)
                read += mixed(a, [v[j][h:h + d] for j in range(len(z))])
            out.append(linear(block.attn.out_proj, read))
        z = [[a + c for a, c in zip(*rows)] for rows in zip(z, out)]
        hidden = [linear(block.mlp.c_fc, layer_norm(block.ln_2, a)) for a in z]
        z = [[a + c for a, c in zip(row, linear(block.mlp.c_proj, [x / (1 + math.exp(-1.702 * x)) for x in h]))]
             for row, h in zip(z, hidden)]
    return z
