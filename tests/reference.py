"""Published algorithms written plainly, to compare with: slow, short, and independent of the library's own."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from editing.config import ValueSearchConfig
from editing.edit import Edit
from editing.layout import layout_of
from editing.tokens import EncodedPrompt, encode_prompt, target_ids


def plain_search(
    model,
    tokenizer,
    edit: Edit,
    layer: int,
    config: ValueSearchConfig,
    prefixes: Sequence[str],
    *others: Edit,
    conversations: Sequence[tuple[EncodedPrompt, Tensor]] = (),
) -> Tensor:
    """MEMIT's loop as published: one edit, its contexts as one padded batch, all of the model at every step.

    `others` share its key, and with it the δ: the loss is the mean over all of them (MEMIT-Merge), δ may be √n times as
    long, and is stepped down √n times as often (ours). `conversations`, each with the target that is wanted there,
    count as much as all else, by turns (ours): a step has one, the bare prompt, and every second other context; an
    answer of n tokens takes √(n / 2) times as many steps, at most twice. Where a norm of gain g follows the MLP,
    δ = g ⊙ η and |η| is held against √m (ours); coordinates more than 20 times the middle one stay as they are.
    """
    module, room = layout_of(model).layer_list(model)[layer], (1 + len(others)) ** 0.5
    gain = layout_of(model).gain_after(model, layer)
    asked = [(one, prefix) for one in (edit, *others) for prefix in prefixes]
    targets = [torch.tensor(target_ids(tokenizer, one.text, one.target_new)) for one, _ in asked]
    asked.append((edit.model_copy(update={"prompt": "{} is a"}), ""))
    prompts = [encode_prompt(tokenizer, prefix, one.prompt, one.subject) for one, prefix in asked]
    for row, (one, _) in enumerate(asked):  # ours, not published: no change at the first token of a text
        if prompts[row].subject_index == 0 and len(prefixes) > 1:
            prompts[row] = encode_prompt(tokenizer, prefixes[1], one.prompt, one.subject)
    for conversation, wanted in conversations:
        prompts.insert(len(targets), conversation)
        targets.append(wanted)
    ids = [[*p.ids, *goal[:-1].tolist()] for p, goal in zip(prompts, targets, strict=False)] + [list(prompts[-1].ids)]
    width = max(map(len, ids))
    input_ids = torch.tensor([row + [0] * (width - len(row)) for row in ids])  # causal: what follows changes nothing
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
    rows, places = torch.arange(len(prompts)), torch.tensor([prompt.subject_index for prompt in prompts])
    hidden = model.config.get_text_config().hidden_size
    delta = torch.zeros(hidden, dtype=next(model.parameters()).dtype, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=config.learning_rate)
    seen: dict[str, Tensor] = {}

    def add(module, args, output):
        tensor = output if isinstance(output, Tensor) else output[0]
        if "z" not in seen:
            z = seen["z"] = tensor[0, places[0]].detach().clone()
            seen["unit"] = torch.ones_like(z) if gain is None else gain * (z.abs() <= 20 * z.abs().median())
        shifted = tensor.index_put((rows, places), tensor[rows, places] + delta * seen["unit"])
        return shifted if isinstance(output, Tensor) else (shifted, *output[1:])

    pace = 4 / 3 * min(max((max(map(len, targets)) / 2) ** 0.5, 1), 2) if conversations else 1
    steps = math.ceil(config.steps * room * pace)
    for step in range(steps):
        optimiser.zero_grad()
        handle = module.register_forward_hook(add)
        logprobs = model(input_ids=input_ids, attention_mask=mask).logits.log_softmax(-1)
        handle.remove()
        losses = []
        for row, (prompt, goal) in enumerate(zip(prompts, targets, strict=False)):
            first = len(prompt.ids) - 1
            losses.append(-logprobs[row, first : first + len(goal)].gather(1, goal[:, None]).mean())
        if conversations:
            turn, bare = step % 4, len(prefixes)
            raw = torch.stack([losses[0], *losses[1 + turn % 2 : bare : 2]])
            losses = [raw.mean(), losses[bare + turn]]
        now = logprobs[-1, len(prompts[-1].ids) - 1]
        base_kl = seen.setdefault("kl", now.detach())
        kl = (now.exp() * (now - base_kl)).sum()
        size = seen["z"].norm() if gain is None else hidden**0.5
        loss = torch.stack(losses).mean() + config.kl_weight * kl
        loss = loss + config.weight_decay * (delta.square().sum() + 1e-30).sqrt() / size**2
        if loss.item() < config.stop_loss or step == steps - 1:
            break
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            delta *= (config.clamp * room * size / delta.norm()).clamp(max=1)
    return (seen["z"] + delta * seen["unit"]).detach().float()


def plain_logprob(model, tokenizer, prompt: str, target: str) -> float:
    """Mean log-probability of the target's tokens after the prompt: one text, through the whole model."""
    ids, goal = tokenizer(prompt)["input_ids"], target_ids(tokenizer, prompt, target)
    logprobs = model(input_ids=torch.tensor([ids + goal])).logits[0].double().log_softmax(-1)
    return sum(logprobs[len(ids) - 1 + k, token].item() for k, token in enumerate(goal)) / len(goal)


@torch.inference_mode()
def plain_metrics(model, tokenizer, edit: Edit) -> dict[str, float]:
    """CounterFact's scores of an edit as ROME's authors publish them: all prompts with both targets, one padded batch.

    https://github.com/kmeng01/rome/blob/main/experiments/py/eval_utils_counterfact.py, by mean log-probability.
    """
    asked = [(prompt, edit.target_true) for prompt in (edit.text, *edit.paraphrases)]
    asked += [(probe.prompt, probe.answer or edit.target_true) for probe in edit.neighborhood]
    texts = []
    for prompt, other in asked:
        ids = tokenizer(prompt)["input_ids"]
        texts += [(ids, target_ids(tokenizer, prompt, target)) for target in (edit.target_new, other)]
    longest = max(len(ids) + len(goal) for ids, goal in texts)
    rows = torch.zeros(len(texts), longest, dtype=torch.long)
    mask = torch.zeros_like(rows)
    for row, (ids, goal) in enumerate(texts):
        rows[row, : len(ids) + len(goal)] = torch.tensor([*ids, *goal])
        mask[row, : len(ids) + len(goal)] = 1
    logits = model(input_ids=rows, attention_mask=mask).logits
    means = []
    for row, (ids, goal) in enumerate(texts):
        logprobs = logits[row, len(ids) - 1 : len(ids) - 1 + len(goal)].double().log_softmax(-1)
        means.append(logprobs.gather(1, torch.tensor(goal)[:, None]).mean())
    prefers_new = (torch.stack(means[::2]) > torch.stack(means[1::2])).double()
    rephrased = 1 + len(edit.paraphrases)
    return {
        "efficacy_prob": prefers_new[0].item(),
        "generalization_prob": prefers_new[1:rephrased].mean().item(),
        "locality_prob": (1 - prefers_new[rephrased:]).mean().item(),
    }
