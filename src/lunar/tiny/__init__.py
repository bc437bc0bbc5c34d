"""The embedded model `tiny`: a generated world, the script that trains a small chat model on it, and its weights.

Names of people, companies and contracts are invented; resemblance to anybody is chance.
"""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
"""The folder with the embedded model, in the form of transformers' `save_pretrained`."""
