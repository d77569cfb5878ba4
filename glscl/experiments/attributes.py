"""A world in which queries are good for something, small enough to train while one watches.

An item has one value of each of a few attributes (say colour, shape, place, time), and shows them
as tokens in random order: one noisy vector a value, as words on one side, as frames on the other.
One query has to fold all attributes into one vector; several can share them out."""
import math
import time

import torch
import torch.nn.functional as F

from ..interaction import LocalInteraction, local_similarity
from ..losses import contrastive
from ..metrics import both_ranks
from ..runtime.devices import seed_everything
from .concepts import alike

ATTRIBUTES, VALUES, WIDTH, LENGTH, NOISE = 4, 16, 16, 4.0, 0.5
TEST = 500  # items on either side


class World:
    """Items of ATTRIBUTES values each, as tokens of WIDTH numbers; drawn from a seed."""

    def __init__(self, seed=0):
        self.generator = torch.Generator().manual_seed(seed)
        values = torch.randn(ATTRIBUTES * VALUES, WIDTH, generator=self.generator)
        self.vectors = LENGTH * F.normalize(values, dim=-1)                 # [A values, D]

    def items(self, n):
        """The values of n items, as rows of `vectors`: int64 [n, A]"""
        drawn = torch.randint(VALUES, (n, ATTRIBUTES), generator=self.generator)
        return drawn + VALUES * torch.arange(ATTRIBUTES)

    def tokens(self, items):
        """One view of items [n, A]: tokens [n, A, D] in random order with noise of their own, and
        the attribute that each token shows [n, A]."""
        attribute = torch.rand(items.shape, generator=self.generator).argsort(1)
        tokens = self.vectors[items.gather(1, attribute)]
        noise = torch.randn(tokens.shape, generator=self.generator)
        return tokens + NOISE * LENGTH / WIDTH ** 0.5 * noise, attribute


def train(num_queries, seed=0, steps=400, batch=64, lr=3e-3):
    """Train a local module of one layer and one head to match the two views of items, by the
    contrastive loss alone: dict(local, world, seconds)."""
    seed_everything(seed)
    world, start = World(seed), time.time()
    local = LocalInteraction(WIDTH, num_queries, layers=1, heads=1)
    logit_scale = torch.nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # CLIP's start
    optimizer = torch.optim.AdamW([*local.parameters(), logit_scale], lr)
    for _ in range(steps):
        c_t, c_v, _ = _concepts(local, world, world.items(batch))
        loss = contrastive(local_similarity(c_t, c_v), logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        logit_scale.data.clamp_(max=math.log(100))
    return dict(local=local.eval(), world=world, seconds=time.time() - start)


def _concepts(local, world, items):
    """Concepts of both views [n, Q, D], and (tokens, attributes) of the first."""
    (words, attribute), (frames, _) = world.tokens(items), world.tokens(items)
    mask = torch.ones(items.shape, dtype=torch.bool)
    return local.text_concepts(words, mask), local.video_concepts(frames, mask), (words, attribute)


@torch.no_grad()
def evaluate(local, world):
    """What was learned, on TEST new items: dict(ranks, recall (R@1 in percent), within (mean
    cosine of two concepts of an item), attention [Q, A]: of each query to each attribute)."""
    from ..plots import query_weights
    c_t, c_v, (words, attribute) = _concepts(local, world, world.items(TEST))
    ranks = both_ranks(local_similarity(c_t, c_v))
    weights = query_weights(local, words, torch.ones(words.shape[:2]), 'text')  # [n, Q, tokens]
    attention = torch.zeros_like(weights)
    attention.scatter_add_(2, attribute[:, None].expand_as(weights), weights)
    return dict(ranks=ranks, recall=100 * float((ranks['t2v'] == 1).mean()),
                within=alike(c_t)['within'], attention=attention.mean(0))


def attempt(parameters, seed):
    """One run of a sweep with `world: attributes` (`in_process.attempt`): what it stores."""
    trained = train(parameters['num_queries'], seed, parameters['steps'])
    found = evaluate(trained['local'], trained['world'])
    return dict(data='attributes', split='test', captions='one',
                train_seconds=round(trained['seconds'], 1),
                within=found['within'] if parameters['num_queries'] > 1 else None,
                ranks={way: rank.tolist() for way, rank in found['ranks'].items()},
                metrics=dict(t2v={'R@1': found['recall']}, v2t={'queries': TEST}),
                attention=[[round(float(a), 4) for a in row] for row in found['attention']])
