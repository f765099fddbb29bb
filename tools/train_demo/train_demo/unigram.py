"""tokenizer.json of a unigram model with equal costs: the fewest pieces win."""

SPACE = "▁"


def tokenizer(special, pieces, *, bos, unknown, prepend, added=()):
    """Content of tokenizer.json. Ids: `special`, then `pieces`; `added`: further (id, token).

    `bos` and `unknown` are ids. `prepend`: a space before the text, as Llama's.
    """
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokens = [*enumerate(special), *added]
    start = special[bos]
    first = {"SpecialToken": {"id": start, "type_id": 0}}
    text, pair = ({"Sequence": {"id": name, "type_id": k}} for k, name in enumerate("AB"))
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    decoders = [back, {"type": "Fuse"}]
    if prepend:
        before = {"type": "Prepend", "prepend": SPACE}
        spaces = {"type": "Sequence", "normalizers": [before, spaces]}
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": t, **plain, "special": True} for i, t in tokens],
        "normalizer": spaces,
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, text],
            "pair": [first, text, pair],
            "special_tokens": {start: {"id": start, "ids": [bos], "tokens": [start]}},
        },
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "Unigram",
            "unk_id": unknown,
            "vocab": [[t, 0.0] for t in special] + [[piece, -1.0] for piece in pieces],
            "byte_fallback": False,
        },
    }
