"""What a policy for language models knows of a request: how long its prompt is, what it begins with, who asks.

A prefix is known by the chain of its blocks: each block's hash covers all before it, so that one number stands for
everything up to there, and two prompts share exactly as many blocks as their chains share numbers.
"""

from collections.abc import Sequence
from typing import Final

BLOCK: Final = 256  # characters
CHARACTERS: Final = 4  # of a token, of English text, by OpenAI's rule of thumb
BLOCK_TOKENS: Final = BLOCK // CHARACTERS
HEAD: Final = 100  # characters that `prefix_hash` hashes; KubeAI's default prefixCharLength
LONGEST: Final = 4096  # blocks of a chain (a million characters): what comes behind is found by nobody


class Prompt:
    """The features of one request. `chain` may be shorter than `tokens` say, never longer."""

    __slots__ = ("chain", "head", "output", "principal", "tokens")

    def __init__(
        self,
        tokens: int,
        chain: Sequence[int] = (),
        head: bytes = b"",
        *,
        output: int = 0,
        principal: str = "",
    ) -> None:
        self.tokens = max(tokens, 1)  # an estimate: CHARACTERS make one
        self.chain = chain
        self.head = head
        self.output = output  # the most tokens it may generate; 0: it does not say
        self.principal = principal

    def __repr__(self) -> str:
        return f"<Prompt tokens={self.tokens} blocks={len(self.chain)} of {self.principal or '-'}>"


def read_prompt(text: bytes, *, output: int = 0, principal: str = "") -> Prompt:
    """The features of a prompt that is `text`: whatever bytes begin alike for prompts that begin alike, such as a body
    from its `"messages":` on."""
    return Prompt(len(text) // CHARACTERS, chain_of(text), text[:HEAD], output=output, principal=principal)


def chain_of(text: bytes) -> list[int]:
    """One hash for each whole block of `text`, each of all up to its block's end.

    The interpreter's own keyed hash (SipHash): nobody outside can make two prompts collide, and the workers of one
    master have one key. 64 bits; 0.2 us a block, where blake2b takes 1.
    """
    chain = []
    before = 0
    for at in range(BLOCK, min(len(text), LONGEST * BLOCK) + 1, BLOCK):
        before = hash((before, text[at - BLOCK : at]))
        chain.append(before)
    return chain
