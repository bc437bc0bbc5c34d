"""Requests over time: a folder that keeps what was forgotten, so that more can be forgotten and any of it taken back.

store.py       the folder's files, written so that a kill at any moment does no harm
record.py      what was done, one entry per action, chained by hash
naming.py      what a request may be called
parts.py       what is kept of the data, and the least squares over all of it
packing.py     the files that hold it
gathering.py   one pass over what is to be left alone, and one over each request
provenance.py  hashes of the model before and after
changes.py     start, add and undo, as changes that are not written yet
ledger.py      the folder with its verbs
"""
