"""Small models of the field's papers, one recipe a file: how each is made, and what shows that it is what it says.

`python -m exporters.gallery --out DIR` builds them, `--check` holds them to closed forms. A recipe says what it
replaced: data are synthetic where it says so, networks are small, nothing is downloaded but one package of PyPI.
"""
