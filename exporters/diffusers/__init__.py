"""From a folder of Hugging Face's diffusers to model folders: graphs, cards, tokenizers, and the pipeline's card.

`read` says what a folder holds (`source.py`); `samplers.py`, `texts.py` and `codecs.py` make a module, its inputs and
its card of each part; `writing.py` exports them all into a repository, or nothing. Nothing is ever downloaded, and no
code of a folder is run.
"""
