"""What the parsers that a model's config may name make of its answers.

From `HasToolSupport` and `HasThinkingSupport` of Ollama's parsers (`model/parsers`); those of `deepseek3`, `glm-4.7`,
`harmony`, `passthrough`, `qwen3-coder` and `qwen3-vl-thinking` were seen in the answers of a running one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PARSERS: Final[Mapping[str, tuple[bool, bool]]] = {
    "cogito": (True, True),
    "cohere": (True, True),
    "deepseek3": (True, True),
    "functiongemma": (True, False),
    "gemma4": (True, True),
    "gemma4-no-thinking": (True, False),
    "glimmer": (True, True),
    "glm-4.7": (True, True),
    "glm-ocr": (True, False),
    "harmony": (True, True),
    "laguna": (True, True),
    "lfm2": (True, False),
    "lfm2-thinking": (True, True),
    "ministral": (True, False),
    "nemotron-3-nano": (True, True),
    "olmo3": (True, False),
    "olmo3-think": (False, True),
    "passthrough": (False, False),
    "poolside-v1": (True, True),
    "qwen3": (True, False),
    "qwen3-coder": (True, False),
    "qwen3-thinking": (True, True),
    "qwen3-vl-instruct": (True, False),
    "qwen3-vl-thinking": (True, True),
    "qwen3.5": (True, True),
}
"""By the parser's name, whether it reads calls of tools, and thoughts. One that is not here does neither."""
