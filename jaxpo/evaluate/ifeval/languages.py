"""The language of a text, by langdetect with its draws fixed. Imports langdetect when it is first asked."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jaxpo.errors import ConfigError

SEED = 0
CHINESE = ("zh-cn", "zh-tw")


def known_languages() -> tuple[str, ...]:
    """ISO 639-1 codes that can be told, `zh` among them.

    Raises:
      ConfigError: langdetect is not installed.
    """
    return (*sorted(_detector().get_lang_list()), "zh")


def is_language(text: str, code: str) -> bool:
    """Whether a text as a whole is most likely in a language.

    The detector averages over random trials; they are drawn with `SEED`, so that an answer is judged once and for all.
    `zh` is either of the detector's `zh-cn` and `zh-tw`. A text without letters is in no language.

    Args:
      code: as in ISO 639-1.

    Raises:
      ConfigError: langdetect is not installed.
    """
    detector = _detector().create()
    from langdetect import LangDetectException

    detector.append(text)
    try:
        found = detector.detect()
    except LangDetectException:
        return False
    return found in CHINESE if code == "zh" else bool(found == code)


@lru_cache(maxsize=1)
def _detector() -> Any:
    """The profiles of 55 languages, in a factory of our own: the package's is shared and draws without a seed."""
    try:
        from langdetect import PROFILES_DIRECTORY, DetectorFactory
    except ImportError as error:
        raise ConfigError(
            "ifeval: telling an answer's language needs langdetect, which is not installed; pip install 'jaxpo[eval]'."
        ) from error
    factory = DetectorFactory()
    factory.set_seed(SEED)
    factory.load_profile(PROFILES_DIRECTORY)
    return factory
