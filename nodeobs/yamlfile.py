"""YAML that people write: duplicate and unknown keys are refused, with a guess at what was meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any

import yaml

from nodeobs.errors import ConfigurationError


class _Loader(yaml.SafeLoader):
    """The safe loader, but a key given twice is an error and not silently the last one."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.MarkedYAMLError(problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark)
                seen.add((key.tag, key.value))
        return node


def load_yaml(text: str, *, source: str) -> Any:
    """Contents of a YAML document; ``source`` is the file's name for messages. Empty: ``None``.

    Raises:
        ConfigurationError: not YAML, or a key given twice; says the line.
    """
    try:
        # A subclass of the safe loader: it makes plain dicts, lists, strings and numbers only.
        return yaml.load(text, Loader=_Loader)  # noqa: S506
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{source}: not usable YAML: {error}") from error


def unknown_key(key: object, known: Collection[str]) -> str:
    """Text that refuses ``key``, with the known key it resembles, or all of them."""
    guess = difflib.get_close_matches(str(key), known, n=1, cutoff=0.6)
    hint = f"did you mean {guess[0]!r}?" if guess else f"known are {', '.join(known)}"
    return f"unknown key {key!r}; {hint}"
