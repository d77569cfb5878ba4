"""The GPU's benchmark in a tiny form on the CPU: sizes that say nothing about speed."""
import shutil

import pytest
import torch

from glscl.bench import gpu
from glscl.bench.gpu import WAYS


def test_a_tiny_run_has_every_number(clip_file):
    tiny = dict(batch_size=4, max_frames=2, max_words=16, num_queries=2, decoder_layers=1, temporal_layers=1)
    result = gpu.measure('cpu', [(3, 40), (2, 10 ** 9)], dict(shapes=dict(clip_pretrained=str(clip_file))), 3, side=64, ways=WAYS[:3 if shutil.which('g++') else 2], **tiny)
    small, large = result['scoring']
    assert small['ms'].keys() == {'products', 'similarity', 'similarity of float32'}  # top 10 is for a GPU
    assert small['ratio']['similarity']['median'] > 0 and 0 <= small['largest_error'] < 2e-6
    assert large['left_out'].startswith('needs ')
    assert [step['settings'] for step in result['training']][:2] == [{}, dict(deterministic=True)]
    for step in result['training']:
        assert step['tflops'] > 0 and step['share_of_peak'] == pytest.approx(step['tflops'] / result['peak_tflops'], rel=0.05)
        assert step['first_step_s'] > 0 and step['ms']['median'] > 0
    assert all(result['encoding'][0][f'{name}_a_second']['min'] > 0 for name in ('frames', 'captions', 'indexed_videos'))
    assert result['date'] and result['versions']['torch'] and result['card'] == 'none'


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU here')
def test_without_a_gpu_one_sentence_says_what_else_there_is(tmp_path):
    with pytest.raises(ValueError, match='needs an NVIDIA GPU .* For a CPU: glscl bench scoring'):
        gpu.gpu(tmp_path / 'gpu.json')
