"""The page about a picture set that people see before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from tsuika.core.sections import Data
from tsuika.data.bucket import Bucket, enlarged
from tsuika.data.caption import has_word
from tsuika.data.manifest import REASONS, Manifest
from tsuika.data.scan import left_out_by_reason

_WORDS: Final = {
    "en": {
        "head": "{total} pictures: {usable} usable, {left} left out; captions {captions}/{usable}",
        "trigger": "trigger word in {with_trigger}/{usable} (added to {added})",
        "no_trigger": "no trigger word",
        "left": "Left out",
        "notes": "Notes",
        "buckets": "Sizes",
        "count": "{count} pictures",
        "seen": "{count} pictures, {seen} with repeats",
        "enlarged": "Enlarged to fill their size, so less sharp",
    },
    "ja": {
        "head": "{total}枚 ・ 使える {usable} ・ 除外 {left} ・ キャプション {captions}/{usable}",
        "trigger": "トリガーワード {with_trigger}/{usable}(うち自動追加 {added})",
        "no_trigger": "トリガーワードなし",
        "left": "除外した画像",
        "notes": "お知らせ",
        "buckets": "サイズ分け",
        "count": "{count}枚",
        "seen": "{count}枚(繰り返し込み {seen})",
        "enlarged": "学習サイズに合わせて拡大した画像(少しぼやけます)",
    },
}


def summary(manifest: Manifest, buckets: Sequence[Bucket], config: Data) -> dict[str, Any]:
    """The page as JSON-ready figures.

    `captions` counts pictures whose caption came from a file; `with_trigger` those whose final caption has the trigger.
    """
    samples = manifest.samples
    sources = [sample.caption_source for sample in samples]
    return {
        "total": len(samples) + len(manifest.quarantined),
        "usable": len(samples),
        "left": len(manifest.quarantined),
        "captions": len(samples) - sources.count("built"),
        "trigger": config.trigger,
        "with_trigger": sum(has_word(sample.caption, config.trigger) for sample in samples) if config.trigger else 0,
        "added": sources.count("file+trigger"),
        "left_out": [
            {"path": str(left.path), "reason": left.reason, "words": left.words} for left in manifest.quarantined
        ],
        "notes": [note._asdict() for note in manifest.notes],
        "buckets": [
            {
                "width": bucket.width,
                "height": bucket.height,
                "count": len(bucket.samples),
                "seen": sum(sample.repeats for sample in bucket.samples),
            }
            for bucket in buckets
        ],
        "enlarged": [
            {"name": item.sample.name, "factor": round(item.factor, 2)} for item in enlarged(buckets, config.crop)
        ],
    }


def report(manifest: Manifest, buckets: Sequence[Bucket], config: Data, lang: Literal["en", "ja"] = "en") -> str:
    """The page as text. Particulars of single files (sizes, decoder messages) are in English."""
    words, figures = _WORDS[lang], summary(manifest, buckets, config)
    head = words["head"].format(**figures)
    joint = " ・ " if lang == "ja" else "; "
    lines = [head + joint + (words["trigger"] if config.trigger else words["no_trigger"]).format(**figures)]
    if buckets:
        lines.append(f"{words['buckets']}:")
    for row in figures["buckets"]:
        counted = words["count" if row["seen"] == row["count"] else "seen"].format(**row)
        lines.append(f"  {row['width']}x{row['height']} px: {counted}")
    if figures["enlarged"]:
        lines.append(f"{words['enlarged']}:")
        lines += [f"  {row['name']}: x{row['factor']}" for row in figures["enlarged"]]
    if manifest.quarantined:
        lines.append(f"{words['left']}:")
        for reason, items in left_out_by_reason(manifest):
            lines += [f"  {item.name}: {REASONS[reason][lang]} ({item.words})" for item in items]
    if manifest.notes:
        lines.append(f"{words['notes']}:")
        lines += [f"  {note.name}: {REASONS[note.code][lang]} ({note.words})" for note in manifest.notes]
    return "\n".join(lines)
