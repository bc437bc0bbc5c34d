"""The verdict: one plain sentence on what came of it, and its limits. Never says that anything was erased.

The words follow fixed bars, which the page states; the numbers stand in the sentence itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from lunar.report.contents import Contents, Plain, deviation
from lunar.report.elements import count, holding, number, share
from lunar.settings import BASELINES, HARDENED, RETAIN_ONLY

FORGOTTEN, HALF_FORGOTTEN = 0.15, 0.4
"""Up to so much of the forgotten answers, the model "no longer gives" them, or gives "much less" of them."""
KEPT, HALF_KEPT = 0.95, 0.8
"""From so much of what retained answers scored before, they are given "as before", or "a little worse"."""
BARS = (
    f"“No longer gives” means at most {FORGOTTEN} of the words of the forgotten answers (where none are known, at "
    f"least {1 - FORGOTTEN:.0%} refusals), “gives much less” at most {HALF_FORGOTTEN}; “as before” means at least "
    f"{KEPT:.0%} of what the retained questions got before, “a little worse” at least {HALF_KEPT:.0%}."
)
AS_FAR = 0.9
"""From this share of how far an earlier request's prompts were moved before, they count as moved as far."""
HARDENED_LIMITS = (
    "A hardened edit resists more attacks, not all, at a price. Measured on PISTOL (docs/results.md), the best "
    "steering vector still brought back 0.20 of the answers beyond chance and retraining on other answers 0.24, and "
    "0.03 more of the answers that no retain data covered was lost than with the default. On the demo, half of what "
    "was forgotten brought back most of the other half."
)
"""What the bars for a hardened edit are not met by; see docs/results.md, "Hardened"."""
GOOD, MIXED, BAD, OPEN = "good", "mixed", "bad", "open"

MEASURED = "measured, no answer comes back"
"""What is said of an attack that says something of the model and brings nothing back."""


def fewer_questions(finding: Plain) -> str:
    """On how many of the questions an attack is compared with its control, where not on all: some have none."""
    compared, asked = ((finding.get(name) or {}).get("count") for name in ("excess", "forget"))
    return f"on {compared} of {asked}" if compared and asked and compared < asked else ""


@dataclass(frozen=True)
class Verdict:
    """A sentence, how it sounds (`GOOD` to `BAD`, `OPEN` where nothing was measured), its limits, and key figures."""

    sentence: str
    tone: str
    limits: tuple[str, ...]
    figures: tuple[tuple[str, str, str], ...] = ()


def verdict(contents: Contents) -> Verdict:
    """The verdict on whatever the contents tell of."""
    if contents.comparison:
        return _of_comparison(contents)
    if contents.report.get("undone"):
        return Verdict(
            f"The request {contents.report['undone']} was taken back as if it had never come; "
            f"{holding(len(contents.requests))}.",
            OPEN,
            ("Nothing was measured when it was taken back: lunar evaluate does that.",),
        )
    if not contents.scores():
        return Verdict("Nothing was measured, so there is no verdict.", OPEN, ())
    return _of_request(contents)


def _of_request(contents: Contents) -> Verdict:
    forget, forgotten = _forgets(contents)
    retain, kept = _keeps(contents)
    back = _comes_back(contents)
    tone = {0: GOOD, 1: MIXED}.get(max(forgotten, kept if kept is not None else 0), BAD)
    if back and tone == GOOD:
        tone = MIXED
    sentence = f"The model {forget}{retain}{back}."
    return Verdict(sentence, tone, tuple(_limits(contents)), _figures(contents))


def _forgets(contents: Contents) -> tuple[str, int]:
    """What is left of the forget set, and how bad that is from 0 to 2."""
    scores = contents.scores().get("forget", {})
    left, refused = _value(scores, "rouge1", "after"), _value(scores, "refusal_rate", "after")
    declines = "" if refused is None else f"declines {share(refused)} of these questions"
    before, declined = _value(scores, "rouge1", "before"), _value(scores, "refusal_rate", "before")
    if left is None:
        if declined is not None and refused is not None and min(declined, refused) >= 1 - FORGOTTEN:
            # Good numbers that the request has no part in are no success.
            figures = f"{share(declined)} of these questions before, {share(refused)} after"
            return f"declined what it was to forget before this request already ({figures})", 1
        level = 0 if (refused or 0) >= 1 - FORGOTTEN else 1 if (refused or 0) >= 1 - HALF_FORGOTTEN else 2
        how = ("no longer answers", "often no longer answers", "still answers")[level]
        return f"{how} what it was to forget: it {declines or 'was asked, and no answers are known'}", level
    level = 0 if left <= FORGOTTEN else 1 if left <= HALF_FORGOTTEN else 2
    how = ("no longer gives", "gives much less of", "still gives")[level]
    figures = f"ROUGE-1 {number(before)} before, {number(left)} after"
    if level == 0 and before is not None and before <= FORGOTTEN:
        hardly = f"gave hardly any of the answers that it was to forget before this request already ({figures})"
        return hardly + (f"; it {declines}" if declines else ""), 1
    return f"{how} the answers that it was to forget ({figures})" + (f" and {declines}" if declines else ""), level


def _keeps(contents: Contents) -> tuple[str, int | None]:
    """What is left of the retained answers, and how bad that is; None where it was not measured."""
    scores = contents.scores().get("retain", {})
    before, after = (_value(scores, "rouge1", moment) for moment in ("before", "after"))
    if before is not None and after is not None and before > 0:
        part, figures = after / before, f"ROUGE-1 {number(before)} before, {number(after)} after"
    else:
        refused = [_value(scores, "refusal_rate", moment) for moment in ("before", "after")]
        if None in refused:
            return "; what is left of everything else was not measured", None
        part = 1 - max(0.0, refused[1] - refused[0])  # type: ignore[operator]
        figures = f"declined {share(refused[0])} before, {share(refused[1])} after; no answers are known"
    level = 0 if part >= KEPT else 1 if part >= HALF_KEPT else 2
    how = ("as before", "a little worse than before", "much worse than before")[level]
    return f"; it answers what it was to retain {how} ({figures})", level


def _comes_back(contents: Contents) -> str:
    """That attacks bring answers back, where they do; the verdict of lunar attack decides."""
    said = str(contents.attacks.get("verdict") or (contents.report.get("attacks") or {}).get("verdict") or "")
    return (
        "; but the answers are suppressed, not erased: attacks bring them back" if said.startswith("Suppressed") else ""
    )


def _limits(contents: Contents) -> list[str]:
    report = contents.report
    asked = sum((report.get("questions") or {}).values())
    limits = [
        "The edit keeps the model from answering. What it learnt is still in its other weights: suppressed is all that "
        "can be said.",
    ]
    if contents.findings:
        limits.append(
            str(contents.attacks.get("verdict") or (report.get("attacks") or {}).get("verdict") or "Attacks were run.")
        )
    else:
        limits.append("Nobody has tried to bring the answers back yet: lunar attack does.")
    if asked:
        limits.append(f"It holds for the {asked} questions that were asked, within the intervals given.")
    if report.get("retain_source") == "built-in prompts":
        limits.append("No retain data was given: built-in prompts of general knowledge stood in for it.")
    if "retain" not in contents.scores():
        limits.append("Retained questions were not asked this time.")
    limits += of_target(report)
    well, others = earlier(report)
    if well:
        limits.append(f"As far as before are moved the prompts of {count(len(well), 'earlier request')}.")
    limits += others
    return [*limits, *((report.get("choice") or {}).get("warnings") or ()), *(report.get("warnings") or ())]


def of_target(report: Plain) -> list[str]:
    """What an edit of its kind is known not to reach, in a sentence."""
    return [HARDENED_LIMITS] if (report.get("settings") or {}).get("target") == HARDENED else []


def earlier(report: Plain) -> tuple[list[str], list[str]]:
    """A sentence per earlier request that is moved as far as before, and one per other: less far, or not known."""
    well, others = [], []
    for one in report.get("earlier") or ():
        name, before, after = f"Earlier request {one['name']}", one["before"], one["after"]
        if before is None or after is None:
            others.append(
                f"{name}: nothing was kept of it, so only its questions can show whether it still holds: ask them with "
                "lunar evaluate."
            )
            continue
        figures = [
            f"{number(reach['median'])} of the way (lowest {number(reach['minimum'])})" for reach in (after, before)
        ]
        if all(after[which] >= AS_FAR * before[which] for which in ("median", "minimum")):
            well.append(
                f"{name}: its prompts are still moved towards a refusal, {figures[0]}; before this request, "
                f"{figures[1]}."
            )
        else:
            others.append(
                f"{name}: its prompts are moved less far towards a refusal than before, {figures[0]} instead of "
                f"{figures[1]}: ask its questions again with lunar evaluate."
            )
    return well, others


def _figures(contents: Contents) -> tuple[tuple[str, str, str], ...]:
    """Label, value and a word below of the few numbers that everybody wants."""
    scores, found = contents.scores(), []
    for split, label in (("forget", "forgotten answers"), ("retain", "retained answers")):
        one = scores.get(split, {}).get("rouge1", {})
        after = one.get("after", {})
        if after.get("value") is not None:
            moved = f"{number(one['before'].get('value'))} → {number(after['value'])}"
            low, high = after.get("low"), after.get("high")
            between = "" if low is None or high is None else f", 95%: {number(low)} to {number(high)}"
            found.append((label, moved, f"ROUGE-1{between}"))
    refused = scores.get("forget", {}).get("refusal_rate", {}).get("after", {}).get("value")
    if refused is not None:
        found.append(("coherent refusals", share(refused), "of the forget questions"))
    score = (contents.report.get("deviation_score") or {}).get("after")
    if score is not None:
        found.append(("Deviation Score", number(score, 1), "0 is best, 100 the untouched model"))
    matrix = contents.report.get("matrix")
    if matrix:
        found.append(("size of the edit", f"{matrix['stored_numbers']:,}", f"numbers, layer {matrix['layer']}"))
    return tuple(found)


def _of_comparison(contents: Contents) -> Verdict:
    cells = [one for one in contents.comparison.get("cells", ()) if "failed" not in one]
    ours: Plain = contents.ours()
    baseline: Plain = min((cell for cell in cells if _is_baseline(cell)), key=deviation, default={})
    limits = (
        "One model, one request and one seed: another may order the methods otherwise.",
        "What each method says is suppressed at most; how easily it comes back was not tried here: lunar attack does.",
        *(
            [f"{sum(contents.comparison['own_answers'].values())} questions had no known answer, so the model's own "
             "stood in."] if sum((contents.comparison.get("own_answers") or {}).values()) else []
        ),
    )  # fmt: skip
    if not ours and not baseline:
        return Verdict("No method gave a result, so there is nothing to compare.", OPEN, limits)
    if not (ours and baseline):
        only = ours or baseline
        return Verdict(
            f"{only['method']} reaches a Deviation Score of {_said(only)}; no other kind of method was run beside it.",
            OPEN,
            limits,
        )
    better = deviation(ours) <= deviation(baseline)
    sentence = (
        f"The best of ours, {ours['method']}, does {'better' if better else 'no better'} here than the best method of "
        f"the literature, {baseline['method']}: a Deviation Score of {_said(ours)} against {_said(baseline)}; lower is "
        "better."
    )
    figures = tuple(
        (f"{title}: {cell['method']}", number(cell.get("deviation_score"), 1), "Deviation Score, 0 is best")
        for title, cell in (("best of ours", ours), ("best of the literature", baseline))
    )
    return Verdict(sentence, GOOD if better else MIXED, limits, figures)


def _is_baseline(cell: Plain) -> bool:
    return cell["method"] in BASELINES and cell["method"] != RETAIN_ONLY


def _said(cell: Plain) -> str:
    forget, retain = (cell["scores"].get(split, {}).get("rouge1", {}).get("value") for split in ("forget", "retain"))
    return f"{number(cell.get('deviation_score'), 1)} (forget {number(forget)}, retain {number(retain)})"


def _value(scores: Plain, metric: str, moment: str) -> float | None:
    return scores.get(metric, {}).get(moment, {}).get("value")
