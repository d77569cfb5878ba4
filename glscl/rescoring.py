"""QB-Norm and dual softmax: scores once more, in the light of other queries. They need all queries
at once, so that their recalls are reported apart from the plain ones."""
import torch

from .metrics import refuse_nan


def activated(bank: torch.Tensor, k: int = 1, theta: float = 3) -> torch.Tensor:
    """QB-Norm's activation set: items in the top k of at least theta bank queries.

    bank [N, M]; returns sorted int64."""
    bank = torch.as_tensor(bank)
    found = bank.topk(min(k, bank.shape[1]), 1).indices.flatten()
    return (torch.bincount(found, minlength=bank.shape[1]) >= theta).nonzero().flatten()


def qb_norm(S: torch.Tensor, bank: torch.Tensor, k: int = 1, beta: float = 70.0,
            theta: float = 3) -> torch.Tensor:
    """QB-Norm by the dynamic inverted softmax: items that many queries are drawn to (hubs) are held
    back.

    S [N, M]: rows are queries, so S.T for video to text; bank [B, M]: scores of training queries
    with the same items. Rows whose best item is `activated` become
    exp(beta S) / sum_b exp(beta bank[b]); the others stay. theta is 3 for text to video and 5 for
    video to text in the released code, which has the step switched off. Returns a float64 copy:
    float32 would overflow in the sum, and take low scores down to equal zeros. ValueError for
    shapes that do not fit, NaN, and scores too large for beta."""
    if not (k >= 1 and theta >= 1 and 0 < beta < float('inf')):
        raise ValueError(f'k, theta and beta are 1 or more, and positive; not {k}, {theta}, {beta}')
    S, bank = (torch.as_tensor(x).detach().cpu().double() for x in (S, bank))
    if S.ndim != 2 or bank.ndim != 2 or S.shape[1] != bank.shape[1] or not bank.numel():
        raise ValueError(f'the bank holds scores of training queries with the same items: S is '
                         f'{list(S.shape)}, the bank {list(bank.shape)}')
    refuse_nan(S)
    refuse_nan(bank, 'bank scores')
    logs = beta * S - (beta * bank).logsumexp(0)                            # [N, M]
    rows = torch.isin(S.argmax(1), activated(bank, k, theta))
    if rows.any() and logs[rows].abs().max() > 700:                    # float64 ends at exp(709)
        raise ValueError(f'scores up to {float(S.abs().max()):.3g} are too large for beta {beta}: '
                         f'QB-Norm takes cosines, not logits')
    return torch.where(rows[:, None], logs.exp(), S)


def dual_softmax(S: torch.Tensor, kappa: float = 100.0) -> torch.Tensor:
    """S' = S * softmax over the queries (rows) of kappa S: an item already taken by another query
    counts for less.

    S [N, M] cosines, rows are queries, so S.T for video to text. Returns a float64 copy."""
    S = torch.as_tensor(S).detach().cpu().double()
    refuse_nan(S)
    if S.ndim != 2 or not 0 < kappa < float('inf') or S.isinf().any():
        raise ValueError(f'dual softmax takes a matrix of finite scores and a positive kappa, not '
                         f'{list(S.shape)} and {kappa}')
    return S * (kappa * S).softmax(0)
