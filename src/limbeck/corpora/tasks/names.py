"""Which strings of a text name a thing: not a pronoun, not a clause, not a heading that runs into its sentence."""

from __future__ import annotations

from itertools import pairwise

# The closed classes of English: pronouns, determiners, prepositions, conjunctions, auxiliaries, and adverbs that link sentences.
_CLOSED = """
i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers herself it its
itself they them their theirs themselves one ones oneself someone somebody something anyone anybody anything everyone everybody
everything nobody nothing none who whom whose which what whoever whatever whichever
a an the this that these those here there such same other others another each every either neither both all any some no many much
more most few fewer less least several enough own
about above across after against along among amongst around as at before behind below beneath beside besides between beyond by
despite down during except for from in inside into like near of off on onto out outside over past per since through throughout
till to toward towards under underneath unlike until unto up upon via with within without
and but or nor so yet if because although though while whereas unless once than whether when whenever where wherever why how
am is are was were be been being have has had having do does did doing will would shall should can could may might must ought
not only also too even just still again always never often sometimes usually perhaps maybe probably however therefore thus hence
moreover furthermore nevertheless nonetheless instead otherwise meanwhile then now indeed rather quite very almost finally
similarly likewise additionally significantly
"""
FUNCTION_WORDS = frozenset(_CLOSED.split())
LINKS = frozenset(("of", "and", "or", "the", "in", "for"))  # function words that may stand inside a name


def names_a_thing(name: str) -> bool:
    """Whether the subject of a sentence is the name of a thing, which can be looked up by it.

    It may begin with "The", and otherwise has no function word, but for `LINKS` between others. A clause ("Lincoln believed
    Chase"), a heading glued to its sentence ("SynopsisAnimalia", "Ethnography Ethnography") and a noun that points back to what
    was named before ("The country") are none.
    """
    words = name.split()
    rest = words[1:] if words[:1] == ["The"] else words
    if not rest or (len(rest) < len(words) and len(rest) == 1 and rest[0].islower()):
        return False
    if any(_is_function(word) and (i in (0, len(rest) - 1) or word not in LINKS) for i, word in enumerate(rest)):
        return False
    if any(first.islower() and second.isupper() for word in rest for first, second in pairwise(word)):
        return False
    pairs = list(pairwise(rest))
    repeated = any(first.casefold() == second.casefold() for first, second in pairs)
    clause = any(first.islower() and first not in LINKS and second[0].isupper() for first, second in pairs)
    return not repeated and not clause


def names_a_definition(name: str) -> bool:
    """Whether an identifier of a program tells its definition from others: no special method of Python, no function word."""
    return not (name.startswith("__") and name.endswith("__")) and not _is_function(name)


def has_content(words: str) -> bool:
    """Whether some of the words are not function words."""
    return any(not _is_function(word) for word in words.split())


def share_a_word(some: str, others: str) -> bool:
    """Whether a word that is not a function word is in both."""
    first, second = ({word.casefold() for word in text.split() if not _is_function(word)} for text in (some, others))
    return bool(first & second)


def _is_function(word: str) -> bool:
    return word.casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").removesuffix("'s") in FUNCTION_WORDS
