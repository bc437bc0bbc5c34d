"""The sections of the page, one file each: from `Contents` to a `Section`, or None where there is nothing to say."""

from lunar.report.contents import Contents
from lunar.report.elements import Section
from lunar.report.sections.back import back
from lunar.report.sections.compared import compared
from lunar.report.sections.layers import layers
from lunar.report.sections.over_time import over_time
from lunar.report.sections.recognised import recognised
from lunar.report.sections.reproduce import reproduce
from lunar.report.sections.scores import scores


def sections(contents: Contents) -> dict[str, Section]:
    """By name, in the order of the page; those with nothing to say are left out."""
    made = (compared, scores, back, recognised, layers, over_time, reproduce)
    found = (one(contents) for one in made)
    return {section.name: section for section in found if section is not None}


__all__ = ["sections"]
