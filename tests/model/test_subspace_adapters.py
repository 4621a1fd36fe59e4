"""Parts of one LoRA in the forward pass: held once, against naive mixtures in float64 and against copies that share nothing."""

from __future__ import annotations

import pytest
import torch
from mixtures import batch_of, logits, weights_of, with_dense_mixture
from parts import parts
from refusals import refused
from support import FAMILIES, TARGETS, doubled, random_factors

from clora_cli.algebra.lora import Factor
from clora_cli.model.bank import AdapterBank
from clora_cli.model.changes import LowRank, Shared, Subspaces, find_shared

K = 4


def apart(adapters):
    """Return the same adapters with rows of ``a`` in an order of each one's own: equal deltas, nothing shared."""
    turned = []
    for number, adapter in enumerate(adapters):
        order = {site: torch.arange(one.rank).roll(number) for site, one in adapter.items()}
        turned.append({s: Factor(one.a[order[s]], one.b[:, order[s]], one.scaling) for s, one in adapter.items()})
    return turned


def kinds(bank):
    return {site: [type(change) for change in changes] for site, changes in bank._changes.items()}


def one_hot(bank, choice, count=K):
    return weights_of(bank, len(choice), count, choice)


@pytest.fixture
def four(backbone):
    """Return a model in float64, four parts of one LoRA, and a bank that holds them."""

    def make(family="llama", **how):
        base = backbone(family)
        base.model.double()
        adapters = [doubled(one) for one in parts(base.model, K, **how)]
        bank = AdapterBank(base.model)
        bank.activate(adapters)
        return base, adapters, bank

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_soft_weights_give_the_naive_mixture_of_dense_deltas(four, family):
    base, adapters, bank = four(family)
    inputs = batch_of(base)
    assert set(map(tuple, kinds(bank).values())) == {(Subspaces,)}
    weights = weights_of(bank, 3, K)
    bare = logits(base, inputs)
    bank.gate(weights)
    mixed = logits(base, inputs)
    assert (mixed - bare).abs().max() > 0.1
    bank.clear()
    for row in range(3):
        expected = with_dense_mixture(base, adapters, {site: one[row] for site, one in weights.items()}, inputs)
        assert torch.allclose(mixed[row], expected[row], rtol=1e-7, atol=1e-7)


def test_float32_stays_within_1e_5_of_float64():
    """One layer's change, against the sum over tasks as eq. 12 and 13 print it."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(8, 64, generator=generator) / 8, torch.randn(48, 8, generator=generator) / 8
    owner = torch.randint(0, 16, (48, 8), generator=generator)
    held = [(number, Factor(a, b * (owner == number), 2.0)) for number in range(15)]
    change = Subspaces(Shared.of(held, torch.empty(0)))
    weights = torch.rand(6, 15, generator=generator).softmax(1)
    inputs, output = torch.randn(6, 9, 64, generator=generator), torch.randn(6, 9, 48, generator=generator)
    change.gate(weights)
    with torch.no_grad():
        found = change.added(output.clone(), inputs)
    masks = torch.stack([owner == number for number in range(15)]).double()
    mixed = torch.einsum("ik,kor->ior", weights.double(), masks) * b.double()
    expected = output.double() + 2 * torch.einsum("ior,rn,itn->ito", mixed, a.double(), inputs.double())
    assert (found.double() - expected).abs().max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_they_do_what_copies_that_share_nothing_do(four, family):
    base, adapters, bank = four(family)
    other, inputs = AdapterBank(base.model), batch_of(base)
    gates = [None, weights_of(bank, 3, K), one_hot(bank, [2, 0, 2]), one_hot(bank, [1, 1, 1])]
    found = []
    for gate in gates:
        bank.gate(gate)
        found.append(logits(base, inputs))
    bank.clear()
    other.activate(apart(adapters))
    assert set(map(tuple, kinds(other).values())) == {(LowRank,)}
    for gate, mine in zip(gates, found, strict=True):
        other.gate(gate)
        assert torch.allclose(mine, logits(base, inputs), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_one_task_gets_the_bits_of_that_adapter_alone(backbone, family, dtype):
    base = backbone(family)
    base.model.to(dtype)
    adapters, inputs, bank = parts(base.model, K), batch_of(base), AdapterBank(base.model)
    alone = []
    for adapter in adapters:
        bank.activate([adapter])
        alone.append(logits(base, inputs))
    assert not torch.equal(alone[0], alone[1])
    bank.activate(adapters)
    for number, expected in enumerate(alone):
        bank.gate(one_hot(bank, [number] * 3))
        assert torch.equal(logits(base, inputs), expected)


def test_in_a_mixed_batch_each_input_meets_the_very_numbers_of_its_own_adapter(backbone):
    base = backbone("llama")
    adapters, bank = parts(base.model, K), AdapterBank(base.model)
    bank.activate(adapters)
    bank.gate(one_hot(bank, [3, 0, 3]))
    for site in bank.sites:
        (change,) = bank._changes[site]
        for row, number in enumerate((3, 0, 3)):
            assert torch.equal(change._now[row], (adapters[number][site].b * adapters[number][site].scaling).mT)


def test_an_input_without_weights_gets_the_base_model_bit_for_bit(backbone):
    base = backbone("llama")
    inputs, bank = batch_of(base), AdapterBank(base.model)
    bare = logits(base, inputs)
    bank.activate(parts(base.model, K))
    weights = {site: torch.eye(K)[[1, 0, 2]] * torch.tensor([[1.0], [0.0], [1.0]]) for site in bank.sites}
    bank.gate(weights)
    mixed = logits(base, inputs)
    assert torch.equal(mixed[1], bare[1])
    assert (mixed[0] - bare[0]).abs().max() > 0.1
    bank.gate({site: torch.zeros(3, K) for site in bank.sites})
    assert torch.equal(logits(base, inputs), bare)
    bank.gate(None)
    assert (logits(base, inputs) - bare)[1].abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("how", [{"num_beams": 1}, {"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True}])
def test_generation_of_a_mixed_batch_is_that_of_each_adapter_alone(four, family, how):
    base, adapters, bank = four(family)
    inputs, choice, copies = batch_of(base), [1, 2, 0], how.get("num_return_sequences", 1)

    def generate():
        torch.manual_seed(0)
        top = {"top_k": 1} if "do_sample" in how else {}
        return base.model.generate(**inputs, max_new_tokens=6, min_new_tokens=6, **how, **top)

    bank.gate(one_hot(bank, choice))
    mixed, alone = generate(), []
    bank.gate(one_hot(bank, [2, 2, 2]))
    same = generate()
    for row, number in enumerate(choice):
        bank.activate([adapters[number]])
        alone.append(generate()[row * copies : (row + 1) * copies])
    assert torch.equal(mixed, torch.cat(alone))
    bank.activate([adapters[2]])
    assert torch.equal(same, generate())


def test_the_bank_holds_one_lora_whatever_the_number_of_tasks(backbone):
    base, held = backbone("llama"), {}
    for count in (1, 2, 15):
        bank = AdapterBank(base.model)
        bank.activate(parts(base.model, count))
        held[count] = bank.nbytes
        bank.clear()
    one_byte_each = sum(one.b.numel() for one in parts(base.model, 1)[0].values())
    assert held[2] == held[15] == held[1] + one_byte_each
    copies = AdapterBank(base.model)
    copies.activate([parts(base.model, 1, seed=number)[0] for number in range(15)])
    assert copies.nbytes == 15 * held[1]


def test_more_parts_than_a_byte_can_count(backbone):
    base = backbone("llama")
    adapters, bank = parts(base.model, 300), AdapterBank(base.model)
    bank.activate(adapters)
    site = bank.sites[0]
    (shared,) = bank._shared[site]
    assert shared.owner.dtype == torch.int16
    bank.gate(one_hot(bank, [299, 7, 256], 300))
    (change,) = bank._changes[site]
    for row, number in enumerate((299, 7, 256)):
        assert torch.equal(change._now[row], (2 * adapters[number][site].b).mT)


def test_the_past_is_told_apart_on_demand(four):
    _, adapters, bank = four(rank=3)
    q, v = ([f"model.layers.{layer}.self_attn.{name}" for layer in (0, 1)] for name in ("q_proj", "v_proj"))
    assert bank.owners(q[0]) == (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3)
    for site in (*q, *v):
        a, b = bank.past(site)
        assert torch.equal(a, torch.cat([one[site].a for one in adapters]))
        assert torch.equal(b, torch.cat([one[site].b * 2 for one in adapters], dim=1))
    a, b = bank.past_of(q)
    assert (a.shape, b.shape) == ((2, 12, 32), (2, 32, 12))
    assert torch.equal(b[1], bank.past(q[1])[1])
    assert bank.past_of(["lm_head"]) is None


def test_one_part_alone_for_a_while(backbone):
    base = backbone("llama")
    adapters, bank, inputs = parts(base.model, K), AdapterBank(base.model), batch_of(base)
    bare = logits(base, inputs)
    bank.activate([adapters[2]])
    alone = logits(base, inputs)
    bank.activate(adapters)
    both = logits(base, inputs)
    with bank.only(2):
        assert torch.equal(logits(base, inputs), alone)
    with bank.only(None):
        assert torch.equal(logits(base, inputs), bare)
    assert torch.equal(logits(base, inputs), both)


def test_adding_them_up_gives_the_one_lora_that_they_are_parts_of(backbone):
    base = backbone("llama")
    adapters, bank, inputs = parts(base.model, K), AdapterBank(base.model), batch_of(base)
    whole = {site: Factor(one.a, sum(other[site].b for other in adapters), 2.0) for site, one in adapters[0].items()}
    bank.activate([whole])
    expected = logits(base, inputs)
    bank.activate(adapters)
    assert torch.equal(logits(base, inputs), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_of_two_loras_and_adapters_of_their_own_act_together(backbone, family):
    """A union: two packages of parts, an adapter of other sites and rank, a dense one, in any order."""
    base = backbone(family)
    base.model.double()
    first, second = parts(base.model, 2), parts(base.model, 2, seed=7, rank=3, targets=TARGETS[family][0])
    lone = random_factors(base.model, 3, 2, TARGETS[family][1])
    dense = {site: one.delta() for site, one in random_factors(base.model, 4, 1).items()}
    mixed = [first[0], second[0], lone, first[1], dense, second[1]]
    adapters = [{s: one if torch.is_tensor(one) else doubled({s: one})[s] for s, one in a.items()} for a in mixed]
    adapters[4] = {site: delta.double() for site, delta in dense.items()}
    bank, other, inputs = AdapterBank(base.model), AdapterBank(base.model), batch_of(base)
    bank.activate(adapters)
    assert max(len(changes) for changes in kinds(bank).values()) >= 3
    naive = [
        a if n == 4 else {s: one.scaling * (one.b @ one.a) for s, one in a.items()} for n, a in enumerate(adapters)
    ]
    for gate in (None, weights_of(bank, 3, 6), one_hot(bank, [5, 1, 2], 6), one_hot(bank, [3, 3, 3], 6)):
        bank.activate(adapters)
        bank.gate(gate)
        found = logits(base, inputs)
        bank.clear()
        other.activate(naive)
        other.gate(gate)
        assert torch.allclose(found, logits(base, inputs), rtol=1e-7, atol=1e-7)
        other.clear()


def changed(one, **parts_of_it):
    return Factor(**{"a": one.a, "b": one.b, "scaling": one.scaling, **parts_of_it})


def test_what_is_no_part_of_the_same_lora_stays_by_itself():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 5, generator=generator), torch.randn(6, 2, generator=generator)
    top, bottom = b.clone(), b.clone()
    top[3:], bottom[:3] = 0, 0
    one, two = Factor(a, top, 2.0), Factor(a.clone(), bottom, 2.0)
    nudged = a.clone()
    nudged[1, 4] += 1e-6
    assert [list(group) for group in find_shared([(0, one), (1, two)])[0]] == [[(0, one), (1, two)]]
    for other in (
        changed(two, a=nudged),
        changed(two, scaling=2.5),
        changed(two, b=b),
        changed(two, b=bottom * float("nan")),
        changed(two, a=torch.cat([a, a]), b=torch.cat([bottom, bottom], dim=1)),
    ):
        assert find_shared([(0, one), (1, other)]) == ([], [(0, one), (1, other)])
    groups, rest = find_shared([(0, changed(two, b=b)), (3, one), (4, changed(two, a=nudged)), (5, two)])
    assert groups == []  # the first owns everything, the next two of its group overlap with it
    assert [number for number, _ in rest] == [0, 3, 4, 5]
    groups, rest = find_shared([(2, one), (3, changed(one, b=top * 2)), (5, two)])
    assert ([[n for n, _ in group] for group in groups], [n for n, _ in rest]) == ([[2, 5]], [3])


def test_gradients_flow_through_a_mixture(backbone):
    base = backbone("llama")
    bank = AdapterBank(base.model)
    bank.activate(parts(base.model, K))
    for weights in (weights_of(bank, 3, K), one_hot(bank, [1, 1, 1])):
        embedded = base.model.get_input_embeddings()(batch_of(base)["input_ids"]).requires_grad_()
        bank.gate(weights)
        base.model(inputs_embeds=embedded).logits.sum().backward()
        assert embedded.grad.abs().max() > 0


def test_weights_of_another_batch_or_number_of_adapters_are_refused(backbone):
    base = backbone("llama")
    bank = AdapterBank(base.model)
    bank.activate(parts(base.model, K))
    with pytest.raises(ValueError, match="2 weights for 4 adapters"):
        bank.gate({site: torch.ones(3, 2) for site in bank.sites})
    for weights in (torch.eye(K)[:2], torch.ones(2, K)):
        bank.gate(dict.fromkeys(bank.sites, weights))
        with refused("gated-inputs-differ", 2):
            logits(base, batch_of(base))


def test_a_forward_pass_may_decide_for_itself_once(backbone):
    base = backbone("llama")
    bank, asked = AdapterBank(base.model), []
    adapters = [*parts(base.model, 2), random_factors(base.model, 9, 2)]
    bank.activate(adapters)

    def choose(site, output):
        asked.append(site)
        return torch.tensor([[0.0, 1.0, 0.0]]).repeat(len(output), 1)

    bank.gate_by(choose)
    live = logits(base, batch_of(base))
    assert sorted(asked) == sorted(bank.sites)
    bank.activate([adapters[1]])
    assert torch.allclose(live, logits(base, batch_of(base)), atol=1e-5)
