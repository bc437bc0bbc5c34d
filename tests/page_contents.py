"""Results as the page gets them, made up: all of it at once, and some of it hostile."""

from typing import Any

from lunar.report.contents import Contents

CANARIES = ("Mira Tolvane", "Oskarvik", "lighthouse keeper")
HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    '"><svg onload=window.hacked=1>',
    "{{ 7 * 191 }}{% raw %}",
    "<a href='https://example.org'>x</a>",
    "\u2028<!-- <script>",
)


def score(value: float | None, spread: float = 0.05) -> dict[str, Any]:
    low, high = (None, None) if value is None else (max(0.0, value - spread), min(1.0, value + spread))
    return {"value": value, "low": low, "high": high, "count": 20, "unit": "recall"}


def finding(name: str, value: float, **more: Any) -> dict[str, Any]:
    found = {"attack": name, "title": f"Title of {name}", "needs": "to ask", "access": "black box", "not_run": None}
    found |= {"forget": score(value), "unlearned": 0.02, "original": 1.0, "recovery": (value - 0.02) / 0.98}
    found |= {"retain": 0.9, "retain_unattacked": 1.0, "survives": True, "control": 0.1, "excess": score(value - 0.1)}
    return found | more


def report() -> dict[str, Any]:
    moved = {
        "forget": (1.0, 0.02),
        "forget_unseen_phrasings": (0.98, 0.05),
        "retain": (1.0, 0.99),
        "facts": (0.9, 0.88),
    }
    layer = {"margin": 0.4, "forget_median": 0.9, "retain_high": 0.3, "distance": 1.1}
    trial = {"target": "shift", "forget_weight": 150.0, "original": 0.01, "refusal": 0.4}
    return {
        "scores": {
            split: {
                "rouge1": {"before": before, "after": after},
                "refusal_rate": {"before": 0.0, "after": 1.0 if split.startswith("forget") else 0.0},
            }
            for split, (before, after) in moved.items()
        },
        "intervals": {
            split: {"rouge1": {"before": [before, before], "after": [max(0.0, after - 0.02), after + 0.01]}}
            for split, (before, after) in moved.items()
        },
        "questions": dict.fromkeys(moved, 20),
        "deviation_score": {"before": 100.0, "after": 2.2},
        "counts": {"forget_prompts": 20, "retain_prompts": 40, "neighbour_prompts": 60, "reference_prompts": 10},
        "retain_source": "file",
        "sources": {"model": "/home/somebody/my-model", "forget": "forget.jsonl"},
        "matrix": {"module_name": "layers.2.mlp.down_proj", "layer": 2, "shape": [8, 16], "rank": 1,
                   "stored_numbers": 2304},
        "gate": {
            "distributions": {
                name: {"count": 20, "above_half": 0.5, "values": [place / 10 for place in range(10)]}
                for name in ("forget, each left out", "forget", "retain", "made neighbours")
            }
        },
        "choice": {
            "selector": "auto",
            "layer": 2,
            "strength": 1.0,
            "reason": "Layer 2 at strength 1: it does.",
            "warnings": ["With 3 forget prompts that is a guess."],
            "profile": [{"layer": place, "ordered": 0.8 + place / 20, **layer} for place in range(4)],
            "trials": [
                {"layer": 2, "strength": 0.8, "redirected": 0.9, "retain_divergence": None, **trial},
                {"layer": 2, "strength": 1.0, "redirected": 1.0, "retain_divergence": 0.0002, **trial},
            ],
            "confirmations": [],
            "likeness": [],
            "held_out": 8,
            "passes": 1.5,
        },
        "settings": {"target": "shift", "layer": 2, "strength": 1.0, "tail": None, "seed": 0},
        "versions": {"lunar": "0.1.0", "torch": "2.13.0"},
    }  # fmt: skip


def entry(number: int, action: str, requests: list[str], **more: Any) -> dict[str, Any]:
    said = {"number": number, "action": action, "time": f"2026-11-2{number}T10:00:00+00:00", "requests": requests}
    said |= {"reached": {one: {"median": 0.9, "minimum": 0.6} for one in requests}, "hash": f"{number}" * 64}
    said |= {"scores": {"forget": {"rouge1": {"before": score(1.0), "after": score(0.02)}}}, "git_commit": "0" * 40}
    return said | {"model": {"weights": "a" * 64}, "edit": {"before": None, "after": "b" * 64}} | more


def examples(show_forget: bool = True) -> list[dict[str, Any]]:
    rows = [
        (
            "forget",
            True,
            False,
            "declines now",
            f"Where was {CANARIES[0]} born?",
            f"In {CANARIES[1]}.",
            "I don't know.",
        ),
        ("retain", False, False, "same answer", "Where was Ada Byron born?", "In London.", "In London."),
        ("retain", False, False, "declines now", "What is the capital?", "Velmora.", "I don't know that."),
        ("facts", False, True, "another answer", "Who lives there?", "Somebody.", f"The {CANARIES[2]}."),
    ]
    names = ("split", "forget", "tells", "outcome", "question", "before", "after")
    made = [dict(zip(names, row, strict=True)) for row in rows]
    return made if show_forget else [row for row in made if not (row["forget"] or row["tells"])]


def comparison() -> dict[str, Any]:
    def cell(method: str, forget: float, retain: float) -> dict[str, Any]:
        scores = {
            split: {"rouge1": score(value), "refusal_rate": score(1 - value)}
            for split, value in (("forget", forget), ("retain", retain))
        }
        away = 100 * (forget**2 + (1 - retain) ** 2) ** 0.5
        return {"method": method, "settings": {}, "scores": scores, "deviation_score": away, "seconds": 3.0,
                "changed_parameters": 1000, "questions": {"forget": 20, "retain": 20}}  # fmt: skip

    cells = [
        cell("original", 1.0, 1.0),
        cell("shift", 0.02, 0.99),
        cell("npo", 0.2, 0.8),
        cell("retain-only", 0.1, 1.0),
    ]
    return {"cells": [*cells, {"method": "dpo", "failed": "Its loss was not finite."}], "settings_searched": True,
            "own_answers": {"forget": 0, "retain": 2}, "sources": {"model": "tiny"}, "seed": 0,
            "versions": {"lunar": "0.1.0"}}  # fmt: skip


def everything() -> Contents:
    """A ledger with two requests, one of which was taken back, after attacks."""
    findings = [
        finding("typos", 0.1),
        finding("steering", 0.6),
        finding("skip", 0.9, survives=False),
        finding("prefill", 0.3),
        finding("relearn", 0.0, not_run="It needs answers."),
    ]
    verdict = "Suppressed, not erased: 2 of the 4 attacks run here brought back more than 0.15 beyond the control."
    return Contents(
        report=report(),
        attacks={"findings": findings, "verdict": verdict, "excess_that_counts": 0.15, "left_out": ["case"]},
        recipe={
            "model": {"source": "/home/somebody/my-model", "fingerprint": "f" * 64},
            "data": {"forget": {"source": "../private/forget.jsonl", "sha256": "c" * 64, "groups": [CANARIES[0]]}},
            "settings": {"target": "shift"},
        },
        requests=[{"id": "r2", "name": "ticket-2", "time": "2026-11-22", "prompts": 3, "neighbours": 5, "kept": True}],
        record=[
            entry(1, "start", ["r1"], request="r1", prompts={"count": 20}),
            entry(2, "add", ["r1", "r2"], request="r2", prompts={"count": 3}),
            entry(3, "undo", ["r2"], request="r1"),
            entry(4, "attack", ["r2"]),
        ],
        examples=examples(),
    )


def hostile() -> Contents:
    """Everything that comes from data or from files, with markup in it."""
    contents = everything()
    text = " ".join(HOSTILE)
    made = dict(contents.report)
    made["sources"] = {"model": text}
    made["choice"] = {**made["choice"], "reason": text, "warnings": [text]}
    made["matrix"] = {**made["matrix"], "module_name": text}
    made["settings"] = {text: text}
    for name in ("scores", "intervals", "questions"):
        made[name] = {**made[name], text: made[name]["retain"]}
    made["gate"] = {"distributions": {**made["gate"]["distributions"], text: made["gate"]["distributions"]["retain"]}}
    attacks = {**contents.attacks, "verdict": text, "left_out": [text]}
    attacks["findings"] = [finding(text, 0.5, title=text, needs=text), *contents.attacks["findings"]]
    rows = [{"split": text, "forget": False, "tells": False, "outcome": text, "question": q, "before": q, "after": q}
            for q in HOSTILE]  # fmt: skip
    return Contents(
        report=made,
        attacks=attacks,
        recipe={**contents.recipe, "model": {"source": text, "fingerprint": text}},
        requests=[{**contents.requests[0], "name": text}],
        record=[*contents.record, entry(5, text, ["r2"], request=text, git_commit=text)],
        examples=rows,
    )
