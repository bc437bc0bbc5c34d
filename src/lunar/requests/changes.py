"""What a request would make of a ledger: started, added or taken back, and solved; nothing is written here.

All requests are solved together, at one layer, from activations of the original model, which no edit at that layer
changes. So an earlier request stays forgotten, the order does not count, and taking a request back is to solve without
it. The model is asked only whether it knows what a request wants forgotten: scores come from the caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import torch
from safetensors.torch import save_file

from lunar import processes
from lunar.collect import Problem, Sets, Work, neighbours_of, tail_of, translated
from lunar.edit import Edit, Factors, fingerprint
from lunar.errors import LunarError
from lunar.gated import build
from lunar.interrupted import SavedSums
from lunar.method import Unlearned, check_changed, prepare
from lunar.models import LoadedModel, Site, site_at
from lunar.neighbours import about_the_same
from lunar.passage import passage_of
from lunar.preflight import check_ledger
from lunar.progress import Progress
from lunar.prompts import reference_records
from lunar.records import Messages, Record, deduplicate, sample
from lunar.requests.gathering import gather_base, gather_part
from lunar.requests.naming import check_name
from lunar.requests.parts import Joint, Part, reach
from lunar.requests.provenance import changes, hashes_of, proof
from lunar.requests.record import KEY_FILE, name_id, new_key, prompt_id, prompts_id, request_id
from lunar.requests.state import Change, Request, Shared, State
from lunar.requests.store import KEPT, Writer, text_writer
from lunar.rewordings import rewordings
from lunar.select.feasible import check_known
from lunar.select.own_words import REFERENCES, OwnWords, answer, declined, own_words
from lunar.select.search import ASKED
from lunar.select.strengths import strengths_of
from lunar.settings import HARDENED, Settings
from lunar.solve import Gate, Solution, thin
from lunar.weights import parameter_of

BASE_FILE = f"{KEPT}/retain.safetensors"
RECOGNISED = 0.5
"""Below which reading of a further request's prompts, in the middle, there is a warning; 0 is left alone."""


def start(
    loaded: LoadedModel,
    forget: Sequence[Record],
    *,
    retain: Sequence[Record] | None = None,
    reference: Sequence[Record] | str = "unverifiable",
    settings: Settings | None = None,
    name: str | None = None,
    forget_moments: bool = False,
    progress: Progress | None = None,
    saved: SavedSums | None = None,
) -> Change:
    """The first request of a ledger, which decides the layer and the strength; arguments as `lunar.unlearn` has them.

    `name` and `forget_moments` are those of `add`; `saved` is where sums are kept in case the run is cut off.
    """
    settings = settings or Settings()
    check_ledger(settings, forget_moments)
    task = prepare(loaded, forget, retain, reference, settings, progress, saved)
    site, work, resolved = task.site, task.work, replace(task.settings, layer=task.site.layer, strengths=())
    text = new_key()
    key = bytes.fromhex(text)
    base = gather_base(work, site, task.retain, task.reference, resolved, key)
    shared = Shared(
        loaded.source,
        hashes_of(loaded.source),
        site,
        fingerprint(parameter_of(site.module(loaded.model))),
        resolved,
        retain is None,
        searched=settings.layer == "auto",
        raises=bool(task.settings.strengths),
    )
    state = State(shared, (), Joint(base, {}, resolved, tail_of(resolved)), key)
    least = None
    if task.settings.strengths:
        least = dict(zip([record.messages for record in forget], task.settings.least(), strict=True))
    change = _joined(
        state, "start", work, forget, task.retain, name, forget_moments, reference=task.reference, least=least
    )
    counts = {"retain_prompts": len(task.retain), "reference_prompts": len(task.reference)}
    found = change.found
    if found is not None:
        # In the ledger, strengths of single prompts stand with the request, and go with it.
        card = {**found.edit.settings, "strengths": list(task.settings.strengths)}
        found = replace(
            found,
            edit=replace(found.edit, settings=card),
            counts={**found.counts, **counts},
            choice=task.choice,
        )
    written = {**change.written, BASE_FILE: base.save, KEY_FILE: text_writer(text + "\n")}
    return replace(change, written=written, found=found)


def add(
    state: State,
    loaded: LoadedModel,
    forget: Sequence[Record],
    *,
    retain: Sequence[Record] = (),
    name: str | None = None,
    forget_moments: bool = False,
    progress: Progress | None = None,
) -> Change:
    """One more request, solved together with those that hold; runs its own prompts and their neighbours only.

    Args:
        state: of the ledger.
        loaded: the model that the ledger was started with; left as it was.
        forget: prompts to forget; answers are needed only for `redirect_answers`.
        retain: what the ledger was started with. Those about the same as the request (`about_the_same`) are released;
            the names of the others are put into neighbours (invented names otherwise). The model sees the released
            ones only.
        name: to take it back by; "request-N" if none is given.
        forget_moments: keep the request's change and nothing else of it: it cannot be taken back.
        progress: called with each stage.

    Raises LunarError for another model, for a name or a request that is there already, where the original model
    declines the prompts anyway (unless the ledger's layer was named: then that is a warning), and as `unlearn` does.
    """
    if not forget:
        raise LunarError("The forget set must hold at least one prompt, but it is empty: add one.")
    if state.shared.settings.target == HARDENED:
        raise LunarError(
            "A hardened ledger was expected to stay with the request it was started with: ask for all prompts in one "
            "request of a new ledger, or start one without --harden, which takes any number."
        )
    site = site_at(loaded.model, state.shared.site.layer)
    _check_model(state.shared, loaded, site)
    # Whoever is forgotten is no neighbour: neither this request's own prompts nor those of an earlier one.
    gone = state.joint.forgotten() | {prompt_id(state.key, record) for record in forget}
    retained = state.joint.retained()
    same = [one for one in about_the_same(forget, retain) if prompt_id(state.key, one) in retained]
    free = {record.messages for record in same}
    others = [one for one in retain if prompt_id(state.key, one) not in gone and one.messages not in free]
    return _joined(state, "add", Work(loaded, progress), forget, others, name, forget_moments, same)


def undo(state: State, name: str) -> Change:
    """Take a request back: the others are solved together again, as if it had never come. Needs no model.

    Raises LunarError for a request of which nothing was kept.
    """
    request = next(one for one in state.requests if one.name == name)
    if not request.kept:
        raise LunarError(f"The request {name} cannot be undone: nothing was kept of it, as --forget-moments asked.")
    rest = replace(state.joint, parts={id: part for id, part in state.joint.parts.items() if id != request.id})
    left = tuple(one for one in state.requests if one.name != name)
    edit = edit_of_all(rest, state.shared)
    # No model is at hand: what the record says of it is what it was when the last request came.
    entry = _entry(request, left, state, rest, edit) | {"edited": changes(edit), "model_checked": False}
    return Change("undo", request, left, state.shared, edit, entry, dropped=(request.file,))


def edit_of_all(joint: Joint, shared: Shared) -> Edit:
    """The edit of all requests together; of rank 0 without any. A hardened one is kept as it is."""
    for part in joint.parts.values():
        if part.hardened is not None:
            return part.hardened
    solution, strength = joint.solve(), shared.settings.strength or 0.0
    pairs = [] if solution is None else [(solution.write * strength, solution.read)]
    pairs += [(one.write, one.read) for one in joint.frozen]
    if not pairs:
        site = shared.site
        total = Solution(torch.zeros(site.width, 0), torch.zeros(0, site.inner_width))
    elif len(pairs) == 1:
        total = Solution(*pairs[0])
    else:
        total = thin(torch.cat([write for write, _ in pairs], dim=1), torch.cat([read for _, read in pairs]))
    total = translated(total, joint.base.factor)
    card = shared.settings.as_dict() | {"tail": joint.tail}
    return Edit((Factors.of(shared.site.module_name, total, shared.site.transposed, shared.fingerprint),), card)


# Steps


def _joined(
    state: State,
    action: str,
    work: Work,
    forget: Sequence[Record],
    named: Sequence[Record],
    name: str | None,
    forget_moments: bool,
    released: Sequence[Record] = (),
    reference: Sequence[Record] = (),
    least: Mapping[Messages, float] | None = None,
) -> Change:
    """A request collected and solved together with those of the state; its neighbours bear the names in `named`."""
    shared, settings = replace(state.shared, asked=state.shared.asked + 1), state.shared.settings
    forget = deduplicate(forget)
    beside = neighbours_of(forget, named, settings)
    ids = [prompt_id(state.key, record) for record in forget]
    request = _request(state, shared, _free_name(state, shared, name, forget), ids, len(beside), not forget_moments)
    # A first request was checked by the search for its layer.
    warnings, words = _asked(work, forget, shared) if action == "add" else ([], None)
    again = rewordings(forget, settings.rewordings_of(len(forget)), settings.seed)
    part = _part(state, shared, work, Sets(forget, named, beside, reference, again), released, words, least)
    joint = replace(state.joint, parts={**state.joint.parts, request.id: part})
    with work.stage("solve", announced=True):
        gate, rows = joint.gates()[request.id], joint.counts()
        written: dict[str, Writer] = {request.file: part.save}
        if forget_moments:
            share = _share(joint, request.id, shared)
            written = {request.file: _solution_writer(share)}
            joint = replace(state.joint, frozen=(*state.joint.frozen, share))
        edit = edit_of_all(joint, shared)
    if action == "add":
        warnings += _recognised(gate)
    check_changed(work, edit, forget)
    requests = (*state.requests, request)
    entry = _entry(request, requests, state, joint, edit) | proof(work.loaded, edit) | {"model_checked": True}
    entry["reached"][request.id] = reached(part, edit, joint)
    entry["prompts"] = {"count": len(ids), "ids": [one.hex() for one in ids]}
    entry["neighbours"] = {"count": len(beside), "names": "given" if named else "invented"}
    if released:
        entry["released"] = len(released)
    counts = {"forget_prompts": len(forget), "neighbour_prompts": len(beside), "released": len(released), **rows}
    found = Unlearned(edit, gate, shared.site, counts, work.seconds, shared.builtin_retain, resumed=dict(work.resumed))
    return Change(
        action,
        request,
        requests,
        shared,
        edit,
        entry,
        written,
        beside=tuple(beside),
        found=found,
        warnings=tuple(warnings),
    )


def _part(
    state: State,
    shared: Shared,
    work: Work,
    sets: Sets,
    released: Sequence[Record],
    words: OwnWords | None,
    least: Mapping[Messages, float] | None,
) -> Part:
    """What is kept of a request, with what each prompt is to get at least: known before, or found from `words`."""
    part = gather_part(work, shared.site, sets.forget, sets.neighbours, shared.settings, state.key, released)
    each = [] if words is None else _least(work, state.joint, part, sets.forget, words, shared)
    if least is not None:
        each = [least[record.messages] for record in sets.forget]
    if each:
        part = replace(part, least=torch.tensor(each, dtype=torch.float64)[part.given])
    if shared.settings.target == HARDENED:
        part = replace(part, hardened=_hardened(work, state.joint, part, sets, shared))
    return part


def _request(state: State, shared: Shared, name: str, ids: Sequence[bytes], neighbours: int, kept: bool) -> Request:
    """What a ledger lists; LunarError where it has a request of the same prompts already."""
    time = datetime.now(UTC).isoformat(timespec="seconds")
    asked = prompts_id(state.key, ids)
    for one in state.requests:
        if one.asked == asked:
            do = "undo it first, or leave it as it is" if one.kept else "nothing was kept of it, so leave it as it is"
            raise LunarError(f"These prompts are the request {one.name} of the ledger already: {do}.")
    return Request(request_id(state.key, asked, shared.asked), name, time, len(ids), neighbours, kept, asked)


def _alone(work: Work, joint: Joint, part: Part, shared: Shared) -> Problem:
    """The least squares of one request as if there were no other, from the sums that are kept."""
    redirected = part.redirected(joint.tail)
    prompt = part.prompt[redirected]
    given = part.given[prompt]
    return Problem(
        shared.site,
        passage_of(work.loaded.model, shared.site).with_factor(joint.base.factor),
        joint.base.mean,
        replace(joint, parts={"": part}, frozen=()).pinned,
        part.inner[redirected],
        part.residual,
        part.from_end[redirected],
        given,
        prompt != given,
    )


def _hardened(work: Work, joint: Joint, part: Part, sets: Sets, shared: Shared) -> Edit:
    """The hardened edit of a first request."""
    problem = _alone(work, joint, part, shared)
    card = shared.settings.as_dict() | {"tail": joint.tail}
    return build(work, sets, problem, shared.settings).edit(work.loaded, shared.site, card)


def _least(
    work: Work, joint: Joint, part: Part, forget: Sequence[Record], words: OwnWords, shared: Shared
) -> Sequence[float]:
    """How much of the ledger's strength each prompt of a further request needs.

    Tried on the request alone, so that it depends on no other: taking one back leaves nothing of it behind.
    """
    with work.stage("trials", announced=True):
        tried = strengths_of(work, _alone(work, joint, part, shared), forget, words, shared.settings)
        found = processes.of_first(tried)
    return [one / (shared.settings.strength or 1.0) for one in found]


def _asked(work: Work, forget: Sequence[Record], shared: Shared) -> tuple[list[str], OwnWords | None]:
    """What the original model says to what is to be forgotten, where strengths are tried by it; and a warning, or
    LunarError, where it declines already."""
    seed = shared.settings.seed
    asked = sample(forget, ASKED, seed)
    reference = reference_records("unverifiable") if shared.raises else []
    words = None
    with work.stage("asking"):
        if shared.raises:
            report = work.reporter("asking", 2 * len(asked) + min(len(reference), REFERENCES))
            words = own_words(work.loaded, asked, reference, seed, progress=report)
            share = words.forget_declined
        else:
            share = declined(answer(work.loaded, asked, progress=work.reporter("asking", len(asked)))[0])
    return check_known(share, len(asked), shared.searched), words


def _recognised(gate: Gate) -> list[str]:
    """A warning where a request is hardly told from what the ledger holds against it."""
    middle = float(gate.values.double().quantile(0.5))
    if middle >= RECOGNISED:
        return []
    return [
        f"The prompts of this request read {middle:.2f}, where 1 is forgotten and 0 is left alone: what the ledger "
        "retains about the same may stand against it. If they are still answered, take it back and give the retain "
        "data that the ledger was started with as --retain."
    ]


def _check_model(shared: Shared, loaded: LoadedModel, site: Site) -> None:
    """Raise LunarError unless this is the model that the ledger was started with: its kept activations are of that.

    Another tokenizer or chat template makes other tokens of the same prompt, and another configuration other
    activations of the same tokens.
    """
    hashes, known = hashes_of(loaded.source) or {}, shared.hashes or {}
    changed = sorted(name for name in hashes.keys() & known.keys() if hashes[name] != known[name])
    if "weights" in changed or fingerprint(parameter_of(site.module(loaded.model))) != shared.fingerprint:
        raise LunarError("The ledger was started with another model than this one: load the one it was made for.")
    if changed:
        raise LunarError(
            f"The ledger was started with the same weights, but with another {' and '.join(changed)}: restore the "
            "model's files as they were."
        )


def _share(joint: Joint, id: str, shared: Shared) -> Solution:
    """One request's own part of the change, strength included."""
    found = joint.solve(only=id)
    if found is None:
        raise LunarError("At least one request was expected, but there is none.")
    return Solution(found.write * (shared.settings.strength or 0.0), found.read)


def _solution_writer(solution: Solution) -> Writer:
    tensors = {"write": solution.write.contiguous(), "read": solution.read.contiguous()}
    return lambda path: save_file(tensors, path)


def _entry(request: Request, requests: Sequence[Request], state: State, joint: Joint, edit: Edit) -> dict[str, Any]:
    """What the record says of every action."""
    shared = state.shared
    return {
        "request": request.id,
        "name": name_id(state.key, request.name),
        "kept": request.kept,
        "model": shared.hashes,
        "settings": shared.settings.as_dict(),
        "seed": shared.settings.seed,
        "requests": [one.id for one in requests],
        "reached": {id: reached(part, edit, joint) for id, part in joint.parts.items()},
    }


def reached(part: Part, edit: Edit, joint: Joint) -> dict[str, float]:
    """How far an edit moves the prompts of a request; see `lunar.requests.parts.reach`."""
    values = reach(part, edit, joint.base, joint.tail)
    return {"minimum": float(values.min()), "median": float(values.median())}


def _free_name(state: State, shared: Shared, name: str | None, forget: Sequence[Record]) -> str:
    """The name of a new request, checked; the next "request-N" that is free where none is given."""
    taken = {one.name for one in state.requests}
    if name is None:
        free = (f"request-{number}" for number in range(shared.asked, shared.asked + len(taken) + 1))
        return next(one for one in free if one not in taken)
    check_name(name, taken, forget)
    return name
