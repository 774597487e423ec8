"""Whatever maps there are: a way through them ends, what is found is what a plain walk finds, and only order counts."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ehr_tl.convert.concept_maps import ConceptMaps
from ehr_tl.convert.naming import Naming
from ehr_tl.errors import AdapterError

SYSTEMS = st.sampled_from(["a", "b", "c"])
CODES = st.sampled_from(["1", "2", "3"])
TAKEN = {"equal": False, "equivalent": False, "wider": True, "subsumes": True}
MEANINGS = st.sampled_from([*TAKEN, "narrower", "inexact", "unmatched"])

#: source system, source code, target system, target code, equivalence
EDGES = st.lists(st.tuples(SYSTEMS, CODES, SYSTEMS, CODES, MEANINGS), max_size=5)


def resource(edges):
    groups = [
        {
            "source": source,
            "target": target,
            "element": [{"code": code, "target": [{"code": other, "equivalence": meaning}]}],
        }
        for source, code, target, other, meaning in edges
    ]
    return {"resourceType": "ConceptMap", "group": groups}


def built(maps):
    return ConceptMaps([(Path(f"{n}.json"), resource(edges)) for n, edges in enumerate(maps)], Naming({}, {}))


def steps(maps):
    """What may be followed at once: of each source code and target system, the first map that has them counts."""
    owner, followed = {}, {}
    for number, edges in enumerate(maps):
        for source, code, target, other, meaning in edges:
            decides = owner.setdefault((source, code, target), number) == number
            if decides and meaning in TAKEN and (source, code) != (target, other):
                followed.setdefault((source, code), []).append(((target, other), TAKEN[meaning]))
    return followed


def walk(followed, start):
    """Target -> whether every way to it is wider; None where a way comes back to a place on it."""
    found, ahead = {}, [(start, False, (start,))]
    while ahead:
        at, wider, way = ahead.pop()
        for target, more in followed.get(at, ()):
            if target in way:
                return None
            found[target] = found.get(target, True) and (wider or more)
            ahead.append((target, wider or more, (*way, target)))
    return found


@given(st.lists(EDGES, max_size=4))
def test_what_is_found_is_what_a_plain_walk_finds(maps):
    followed = steps(maps)
    ways = {start: walk(followed, start) for start in followed}
    try:
        concept_maps = built(maps)
    except AdapterError as error:
        assert "circle" in str(error)
        assert None in ways.values()
        return
    assert None not in ways.values()
    for system in ("a", "b", "c"):
        for code in ("1", "2", "3"):
            found = concept_maps.find(system, code)
            targets = {target.key: target.wider for target in found.targets} if found else {}
            assert targets == ways.get((system, code), {})


@given(st.lists(EDGES, min_size=2, max_size=4), st.randoms())
def test_the_order_of_maps_counts_only_where_two_have_the_same_code(maps, random):
    owners = [{(source, code, target) for source, code, target, *_ in edges} for edges in maps]
    if sum(map(len, owners)) != len(set().union(*owners)):
        return
    shuffled = random.sample(maps, len(maps))
    try:
        one = built(maps)
    except AdapterError:
        try:
            built(shuffled)
        except AdapterError:
            return
        raise AssertionError("a circle is one in any order") from None
    other = built(shuffled)
    for system in ("a", "b", "c"):
        for code in ("1", "2", "3"):
            assert keys(one, system, code) == keys(other, system, code)


def keys(concept_maps, system, code):
    found = concept_maps.find(system, code)
    return found and {target.key for target in found.targets}
