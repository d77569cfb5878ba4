"""Whether weights fit the place that they are meant for."""


def misfits(wanted, state):
    """What keeps the weights `state` from taking the place of `wanted`: text, empty if all fit."""
    wrong = [f'{name} is missing' for name in wanted if name not in state]
    wrong += [f'{name} is unknown' for name in state if name not in wanted]
    wrong += [f'{name} is {list(state[name].shape)}, not {list(value.shape)}'
              for name, value in wanted.items()
              if name in state and state[name].shape != value.shape]
    wrong += [f'{name} holds {state[name].dtype}, not floats' for name, value in wanted.items()
              if name in state and value.is_floating_point() > state[name].is_floating_point()]
    wrong += [f'{name} holds NaN or infinity' for name in wanted
              if name in state and not finite(state[name])]
    more = f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''
    return '; '.join(wrong[:3]) + more


def finite(x):
    """Whether a tensor holds no NaN and no infinity."""
    total = x.float().sum()  # thirty times as fast as a look at each; it may overflow
    return bool(total.isfinite() or x.float().isfinite().all())


def fill(clip, state, source, name):
    """Put weights into open_clip's CLIP; ValueError says what does not fit of those in `source`."""
    if 'logit_scale' in state and state['logit_scale'].numel() == 1:
        state['logit_scale'] = state['logit_scale'].reshape(())  # some files have a list of one
    wrong = misfits(clip.state_dict(), state)
    if wrong:
        raise ValueError(f'{source} does not hold the weights of {name}: {wrong}. '
                         f'Is it another architecture\'s file?')
    clip.load_state_dict(state)  # OpenAI's float16 becomes float32 on the way in
