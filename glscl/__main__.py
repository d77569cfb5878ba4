"""The command line: `glscl COMMAND …` and `python -m glscl COMMAND …` alike."""
import importlib
import sys

COMMANDS = {'walkthrough': 'run the six notebooks in order', 'check': 'what a recipe needs, and what of it is missing',
            'train': 'train a recipe', 'index': 'make a gallery of your own videos', 'search': 'find videos in a gallery',
            'rescore': 'score a saved similarity matrix again, without the model',
            'efficiency': 'what each method costs', 'compare': 'compare the methods over seeds',
            'sweep': 'run notebooks over many settings and seeds',
            'pretrain': 'train the small CLIP again'}
MODULES = {'train': 'training', 'check': 'data.doctor', 'compare': 'experiments.comparison', 'pretrain': 'experiments.pretrain',
           'search': 'search.gallery', 'index': 'search.index', 'sweep': 'experiments.sweep', 'rescore': 'experiments.rescore',
           'efficiency': 'heads.costs'}


def main():
    """Hand over to the command's own module."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print('usage: glscl COMMAND [--help]\n\n' + '\n'.join(f'  {name:12} {text}' for name, text in COMMANDS.items()))
        return 0 if sys.argv[1:] in ([], ['-h'], ['--help']) else 2
    command = sys.argv.pop(1)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors='backslashreplace')  # for names of files that the terminal's encoding lacks
    return importlib.import_module(f'glscl.{MODULES.get(command, command)}').main()


if __name__ == '__main__':
    sys.exit(main())
