"""CLIP's byte-pair tokens of captions."""
import numbers
import warnings
from collections.abc import Iterable
from functools import lru_cache

import open_clip
import regex
import torch


@lru_cache(maxsize=1)
def tokenizer() -> open_clip.SimpleTokenizer:
    """CLIP's byte-pair tokenizer, with OpenAI's names of the start and the end token.

    open_clip renamed the two; under OpenAI's names a caption that spells one out gets the tokens
    that it gets there."""
    tok = open_clip.SimpleTokenizer()
    pattern = tok.pat.pattern
    renamed = {'<start_of_text>': '<|startoftext|>', '<end_of_text>': '<|endoftext|>'}
    for old, new in renamed.items():
        pattern = pattern.replace(old, regex.escape(new))
        tok.encoder[new] = tok.encoder.pop(old)
        tok.decoder[tok.encoder[new]] = new
        tok.cache[new] = new
    tok.pat = regex.compile(pattern, regex.IGNORECASE)
    return tok


def tokenize(captions: Iterable[str], max_words: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """CLIP's tokens of captions, start and end token included, zeros after.

    captions: T strings. Returns (token_ids int64 [T, max_words], mask bool [T, max_words]).
    A caption beyond `max_words` is cut, with one warning for all of them; an empty one, or what is
    no text, raises ValueError with its row."""
    if not isinstance(max_words, numbers.Integral) or max_words < 3:
        raise ValueError(f'max_words must be a whole number of 3 or more, for a start, a word and '
                         f'an end, not {max_words!r}')
    if isinstance(captions, (str, bytes)) or not isinstance(captions, Iterable):
        raise ValueError(f'captions are a list of texts, also a single one, not {captions!r:.60}')
    tok, captions = tokenizer(), list(captions)
    token_ids = torch.zeros(len(captions), max_words, dtype=torch.long)
    mask = torch.zeros(len(captions), max_words, dtype=torch.bool)
    too_long = 0
    for row, caption in enumerate(captions):
        if not isinstance(caption, str) or not caption.strip():
            raise ValueError(f'caption in row {row} is empty, or no text ({caption!r:.60}): give '
                             f'it words, or leave the row out')
        pieces = tok.encode(caption)
        too_long += len(pieces) > max_words - 2
        pieces = [tok.sot_token_id, *pieces[:max_words - 2], tok.eot_token_id]
        token_ids[row, :len(pieces)] = torch.tensor(pieces)
        mask[row, :len(pieces)] = True
    if too_long:
        warnings.warn(f'{too_long} of {len(captions)} captions are longer than {max_words} tokens '
                      f'and were cut; raise max_words to keep them whole', stacklevel=2)
    return token_ids, mask
