"""The local module's other forms, and the two losses that go with them."""
import pytest
import torch

from glscl import GLSCL, Config, load_config
from glscl.clip_models import load_clip
from glscl.interaction import LocalInteraction, local_similarity
from glscl.local_forms import Centre, CrossAttention, LocalForm
from glscl.losses import contrastive, intra_diversity

FORMS = ('decoder', 'fresh', 'cross', 'slots')


def tokens(n=3, length=5, width=16):
    torch.manual_seed(1)
    mask = torch.ones(n, length, dtype=torch.bool)
    mask[1, 3:] = False
    return torch.randn(n, length, width), mask


def test_without_being_asked_the_module_is_the_papers():
    clip = load_clip()
    torch.manual_seed(0)
    plain = GLSCL(load_config('shapes', temporal='none'), clip).local
    torch.manual_seed(0)
    papers = LocalInteraction(128, 8, 3)
    assert type(plain) is LocalInteraction
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), papers.parameters()))


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('centred', [False, True])
def test_what_is_padded_has_no_say_and_an_empty_item_has_no_concepts(form, centred):
    local = LocalForm(16, 4, 2, form=form, centred=centred).eval()
    x, mask = tokens()
    c = local.video_concepts(x, mask)
    assert c.shape == (3, 4, 16) and torch.allclose(c.norm(dim=-1), torch.ones(3, 4))
    rubbish = torch.where(mask[..., None], x, torch.full_like(x, 9.0))
    assert torch.allclose(local.video_concepts(rubbish, mask), c, atol=1e-5)
    mask[2] = False
    assert torch.equal(local.video_concepts(x, mask)[2], torch.zeros(4, 16))
    local.mask_padding = False
    assert not torch.allclose(local.video_concepts(rubbish, mask)[1], c[1], atol=1e-5)


def test_queries_start_at_right_angles_and_layers_apart():
    torch.manual_seed(0)
    local = LocalForm(48, 8, 3, form='fresh')
    q = local.video_queries
    assert torch.allclose(q @ q.T, 16 * torch.eye(8), atol=1e-4)  # length sqrt(48 / 3)
    first, second, _ = local.video_decoder.layers
    assert not torch.equal(first.linear1.weight, second.linear1.weight)
    assert not torch.equal(first.multihead_attn.in_proj_weight, second.multihead_attn.in_proj_weight)
    assert local.text_queries is q and local.text_decoder is local.video_decoder
    apart = LocalForm(48, 8, 3, False, False, form='slots')
    assert apart.text_queries is not apart.video_queries and apart.text_decoder is not apart.video_decoder


def test_competing_queries_share_each_token_out():
    torch.manual_seed(0)
    x, mask = tokens()
    queries = 5 * torch.randn(4, 16)
    for compete in (False, True):
        attention = CrossAttention(16, compete)
        weights = attention.weights(queries, x, mask)
        assert torch.allclose(weights.sum(-1), torch.ones(3, 8, 4), atol=1e-5)
        assert not weights[1, ..., 3:].any()
    # by hand: one head's logits, a softmax over the queries, then each query's mean
    q, k = (z.unflatten(-1, (8, -1))[..., 0, :] for z in (attention.query(queries), attention.key(x[0])))
    shares = (q @ k.T / 2 ** 0.5).softmax(0)
    assert torch.allclose(weights[0, 0], shares / shares.sum(1, keepdim=True), atol=1e-5)


def test_a_concept_of_cross_attention_holds_what_was_read_alone():
    attention = CrossAttention(16)
    x, mask = tokens()
    same = x[:, :1].expand_as(x)  # whatever the query, this is what there is to read
    c = attention(torch.randn(4, 16), same, mask)
    assert torch.allclose(c, c[:, :1].expand_as(c), atol=1e-5)


def test_the_mean_is_that_of_the_first_training_batch():
    centre, (x, mask) = Centre(16), tokens()
    assert torch.equal(centre.eval()(x, mask), x)
    mean = x[mask].mean(0)
    assert torch.allclose(centre.train()(x, mask), x - mean)
    assert torch.allclose(centre(x + 1, mask), x + 1 - mean)
    other = Centre(16)
    other.load_state_dict(centre.state_dict())
    assert torch.equal(other.train()(x + 1, mask), centre(x + 1, mask))


def test_an_own_loss_is_added_and_reaches_the_local_module_alone():
    torch.manual_seed(0)
    model = GLSCL(load_config('shapes', local_form='slots'))
    x, e = torch.randn(6, 4, 128), torch.randn(6, 128)
    words, mask = torch.randn(6, 5, 128), torch.ones(6, 5)
    texts, videos = model.encode_words(e, words, mask), model.encode_features(x, torch.ones(6, 4))
    without = model.losses(texts, videos)
    model.config = model.config.replace(local_loss=0.5)
    own = contrastive(local_similarity(texts.concepts, videos.concepts), model.scale)
    assert model.losses(texts, videos).contrastive.item() == pytest.approx((without.contrastive + 0.5 * own).item())


def test_diversity_of_each_item_is_the_mean_of_their_losses():
    torch.manual_seed(0)
    c = torch.nn.functional.normalize(1 + 0.3 * torch.randn(5, 4, 8), dim=-1)
    c[0] = c[0, :1]  # all alike: of the batch's mean it is hidden
    each = torch.stack([intra_diversity(item[None], 1.0, 0.1) for item in c])
    assert intra_diversity(c, 1.0, 0.1, per_item=True) == pytest.approx(float(each.mean()))
    assert each[0] == pytest.approx(0.2) and each.mean() > intra_diversity(c, 1.0, 0.1)


@pytest.mark.parametrize('wrong', [dict(local_form='slot'), dict(local_loss=-1), dict(local_centred='maybe'), dict(diversity_per_item=2)])
def test_settings_that_cannot_be(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Config(**wrong)


def test_a_checkpoint_of_another_form_is_refused_by_name(tmp_path):
    from glscl.checkpoints import load_model, save_model
    model = GLSCL(load_config('shapes', local_form='slots', num_queries=2))
    save_model(model, tmp_path / 'm.safetensors')
    again = load_model(tmp_path / 'm.safetensors', model.config)
    assert isinstance(again.local, LocalForm) and torch.equal(again.local.video_queries, model.local.video_queries)
    with pytest.raises(ValueError, match="local_form: 'slots' in the file, 'decoder' wanted"):
        load_model(tmp_path / 'm.safetensors', model.config.replace(local_form='decoder'))
