"""The steps of CLIP's image tower, for the four methods whose idea lies inside it.

    tower  = TOWERS['CenterCLIP'](clip, max_frames=12)
    videos = head.encode_videos(**tower(clip, pixels, mask))  # pixels [V, F, 3, H, W], mask [V, F]

A tower owns what its method adds to CLIP, and runs the blocks of the CLIP it is given. Pixels of
padded frames are zeros, black as in the released codes, which send them through the tower; each
tower says where they reach the valid frames there. mask_padding=True keeps them out. A video with
no valid frame comes out finite, and masked. In the shapes, W is the tower's width, P the patches of
a frame (49 in ViT-B/32), D the width of the joint space."""
import torch
from torch.utils.checkpoint import checkpoint


def checked(visual, pixels, mask):
    """The mask as bool [V, F]; ValueError if pixels are not [V, F, 3, H, W] of this CLIP's size, or
    the mask is not theirs."""
    if pixels.ndim != 5 or pixels.shape[3:] != visual.image_size:
        raise ValueError(f'pixels are {list(pixels.shape)}, expected [V, F, 3, H, W] with H and W '
                         f'as this CLIP looks at: {visual.image_size}')
    if pixels.shape[:2] != mask.shape or not mask.shape[1]:
        raise ValueError(f'pixels are {list(pixels.shape)}, their mask {list(mask.shape)}: '
                         f'expected [V, F, 3, H, W] and [V, F], one frame at least')
    return mask.bool()


def embed(visual, pixels):
    """pixels [V, F, 3, H, W] -> tokens [V, F, 1 + P, W] with positions, before the first LN."""
    x = visual.conv1(pixels.flatten(0, 1)).flatten(2).transpose(1, 2)         # [V F, P, W]
    cls = visual.class_embedding.to(x.dtype).expand(len(x), 1, -1)
    x = torch.cat([cls, x], 1) + visual.positional_embedding.to(x.dtype)
    return x.unflatten(0, pixels.shape[:2])


def attend(attn, queries, keys=None, valid=None):
    """Multi-head attention `attn`: queries [..., n, W] to keys [..., m, W] -> [..., n, W].

    No keys: the queries attend to themselves. valid [..., m]: the keys that count."""
    q = queries.flatten(0, -3)
    k = q if keys is None else keys.flatten(0, -3)
    bias = None
    if valid is not None:
        # Finite, so that a query whose keys are all hidden stays finite too; after the softmax
        # a hidden key's weight is 0 in any case.
        bias = torch.where(valid.flatten(0, -2), 0.0, -3e4).to(q.dtype)
    return attn(q, k, k, key_padding_mask=bias, need_weights=False)[0].view_as(queries)


def run(visual, x, attention=attend, blocks=slice(None)):
    """Tokens x through pre-LN blocks of the image tower; `attention(block.attn, LN x)` attends."""
    recompute = visual.transformer.grad_checkpointing and torch.is_grad_enabled()
    for block in visual.transformer.resblocks[blocks]:
        if recompute:
            x = checkpoint(through, block, x, attention, use_reentrant=False)
        else:
            x = through(block, x, attention)
    return x


def through(block, x, attention):
    """One block, each residual as CLIP has it."""
    x = x + block.ls_1(attention(block.attn, block.ln_1(x)))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def project(visual, x):
    """tokens [..., W] -> [..., D], CLIP's last LN and projection."""
    return visual.ln_post(x) @ visual.proj
