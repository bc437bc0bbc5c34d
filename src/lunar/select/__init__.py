"""Choose the layer and the strength of an edit, and say why.

In the order of the data: `holdout.py` keeps retain prompts back to judge by, `profile.py` looks at all layers in one
pass (`separation.py` is its mathematics), `own_words.py` asks the model for its own answers and refusals, `trials.py`
tries edits of the best layers from cached residuals (`resume.py`), `feasible.py` refuses what cannot be done,
`verdict.py` picks one and words the reason, `search.py` is all of that in one function, whose result is a `choice.py`.
`paper.py` is the selector of the LUNAR paper.
"""
