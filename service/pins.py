"""What the setting `variant` pins: one variant for all models, or MODEL=VARIANT for some."""

from __future__ import annotations

from service.errors import InvalidSetting

AUTO = "auto"


def pins(text: str, said: str) -> dict[str, str]:
    """Model -> variant, of a comma list of MODEL=VARIANT; empty where it is one for all models.

    Args:
        text: the setting.
        said: what whoever gave it wrote: the flag, or the environment variable.

    Raises:
        InvalidSetting: it is neither one variant nor such a list, or it names a model twice.
    """
    if "=" not in text and "," not in text:
        return {}
    pairs = [tuple(word.strip() for word in pair.split("=")) for pair in text.split(",")]
    found = {pair[0]: pair[-1] for pair in pairs}
    if any(len(pair) != 2 or not all(pair) for pair in pairs) or len(found) < len(pairs):
        raise InvalidSetting(
            f"{said} is '{text}'; it takes auto, one variant for all models, or a comma list of "
            "MODEL=VARIANT that names each model once"
        )
    return found


def pinned(text: str, model: str) -> str:
    """What the setting says of one model: a variant's name, or ``auto``.

    Raises:
        InvalidSetting: as of ``pins``.
    """
    found = pins(text, "--variant")
    return found.get(model, AUTO) if found else text
