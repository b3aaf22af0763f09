"""Where the facts of some edits are read at one layer, and what is missing there.

Shapes: d = key size, m = hidden size, n = edits, c = conversations of an edit, k = kinds of columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editing.groups import KeyGroup
from editing.methods.shared.solve import factors
from editing.weights import Factors


@dataclass(frozen=True)
class Located:
    """Where the facts of some edits are read, and what is missing there."""

    K_nd: Tensor
    """Keys averaged over all contexts, the conversations being one, (n, d) float32."""
    raw_nd: Tensor
    """The same without the conversations."""
    bare_nd: Tensor
    """Keys of the prompts without a context, (n, d) float32."""
    R_mn: Tensor
    """What the layer is to write in addition, (m, n) float32."""
    missing_nm: Tensor
    """(z* − z) / (L − l + 1), or its like by `spread`: R but for a norm behind the layer, (n, m) float32."""
    written_nm: Tensor
    """What the layer's down projection writes at the bare prompts, (n, m) float32."""
    contexts: int
    chat_cnd: Tensor
    """Keys of the conversations that ask for an edit and those that share its key, (c, n, d) float32; zero where one
    has fewer of them."""
    R_chat_mn: Tensor
    """What the layer is to write in addition in the conversations, in the mean over those of an edit, (m, n)."""
    wanted_cnm: Tensor
    """The hidden states wanted in the conversations, (c, n, m) float32; zero where an edit has fewer of them."""

    def columns(self, bare_apart: bool) -> Tensor:
        """K (d, n); or of each kind n columns: the bare prompts, the means of their contexts, each conversation."""
        if not bare_apart:
            return self.K_nd.T
        bare = [self.raw_nd]
        if self.contexts > 1:
            bare = [self.bare_nd, (self.raw_nd * self.contexts - self.bare_nd) / (self.contexts - 1)]
        return torch.cat([*bare, *self.chat_cnd]).T

    def factors(self, gain_knd: Tensor) -> Factors:
        """Δ of the gains of each kind of columns: the conversations' write what is missing there, the others R."""
        chats = len(self.chat_cnd) if len(gain_knd) > 1 else 0
        raw = len(gain_knd) - chats
        if not chats:
            return factors(self.R_mn, gain_knd.sum(0))
        gain_nd = torch.cat([gain_knd[:raw].sum(0), gain_knd[raw:].sum(0)])
        return factors(torch.cat([self.R_mn, self.R_chat_mn], dim=1), gain_nd)

    def of(self, number: int) -> "Located":
        """Of one edit alone."""
        one = slice(number, number + 1)
        return replace(self, R_mn=self.R_mn[:, one], R_chat_mn=self.R_chat_mn[:, one])

    def remembered(self, groups: Sequence[KeyGroup]) -> Tensor:
        """What the history is told, (h, d) on the CPU: each fact counts, so those that share a key make it longer.

        The conversations of a fact are told by their mean.
        """
        size_n = torch.tensor([float(len(group.edits)) for group in groups]).to(self.raw_nd)
        chat_nd = over_conversations(self.chat_cnd.any(2), self.chat_cnd)
        return torch.cat([size_n.sqrt()[:, None] * self.raw_nd, chat_nd[chat_nd.any(1)]]).cpu()


def over_conversations(asked_cn: Tensor, states_cnx: Tensor) -> Tensor:
    """The mean over those that each edit has; zero where it has none. (n, x)."""
    return states_cnx.sum(0) / asked_cn.sum(0).clamp(min=1)[:, None]
