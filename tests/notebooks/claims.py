"""Which numbers in the notebooks' prose repeat an output: `test_claims.py` compares them.

A row is (Markdown cell, its words, code cell, the words of its output). In both texts `#` stands for a number that is
compared, in order, and `…` for any text between. Everything else is literal; blanks, line breaks and asterisks do not
count. `01_affinitynet:a46` is an output of another notebook. Prose may round a number.
"""

CLAIMS: dict[str, list[tuple[str, str, str, str]]] = {}
