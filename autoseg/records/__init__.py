"""The nouns: frozen records that stages hand to each other, in pipeline order.

dataset -> fingerprint (+ budget) -> plan -> case -> checkpoint -> prediction -> evaluation -> selection;
`workspace` says where each lies, `files` how each is written.
"""
