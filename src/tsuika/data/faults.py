"""What can be wrong with an image, its caption or a whole set: for each code what it is, why it matters, what to do.

Placeholders are filled with a finding's values (`check_report.Finding`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tsuika.core.texts import Text, _


class Fault(NamedTuple):
    """Texts with placeholders, which `Finding` fills in; `what` has none."""

    what: Text
    why: Text
    todo: Text


_AGAIN: Final = _("Get the file again, or leave it out: --fix does")
_NOTHING_TO_DO: Final = _("Nothing need be done")
_PARTICULARS: Final = Text("{words}")

FAULTS: Final[dict[str, Fault]] = {
    "unreadable": Fault(
        _("cannot be read"),
        _("The file or folder does not open: {words}"),
        _("Check its permissions, and whether it is there"),
    ),
    "empty": Fault(_("empty file"), _("It holds 0 bytes"), _AGAIN),
    "not-a-picture": Fault(_("not an image"), _("No image format begins like it"), _AGAIN),
    "damaged": Fault(_("damaged or cut off"), _("It cannot be decoded to the end: {words}"), _AGAIN),
    "too-large": Fault(_("too large"), _PARTICULARS, _("Save it smaller; training shrinks it anyway")),
    "too-small": Fault(
        _("too small"),
        _("It has less than half of the training size ({words}); enlarged so far, it would teach blur"),
        _("Find a larger original, or leave it out: --fix does"),
    ),
    "unsupported": Fault(_("image format not supported"), _PARTICULARS, _("Save it as PNG or JPEG")),
    "no-repeats": Fault(
        _("in a folder with 0 repeats"),
        _("A kohya folder `0_name` asks for it not to be used"),
        _("Rename the folder, if that is not meant"),
    ),
    "empty-tail": Fault(
        _("ends in zeros"),
        _("The last bytes are zeros: probably a download that broke off; its lower part may be grey"),
        _("Look at it; get the file again"),
    ),
    "blurred": Fault(
        _("blurrier than the others"),
        _("It has about half of the detail that is usual in this set, or less; its blur would be learnt"),
        _("Take a sharper one, or leave it out"),
    ),
    "upscaled": Fault(
        _("enlarged from a smaller image, or soft"),
        _("It holds no more detail than about {detail_px} px (training size {size_px} px)"),
        _("Look for the original; where the training size is smaller than that, it does no harm"),
    ),
    "detail-lost": Fault(
        _("detail that this base cannot hold at this size"),
        _(
            "Read and drawn again by the VAE of `{base}` at {size_px} px, it keeps {kept}% of the contrast of its finest detail: "
            "dots, hatching or fabric become grey, and no training can bring them ({count} of {tried} images that were tried)"
        ),
        _("Train at a larger size or on another base, or crop it so that the detail is larger"),
    ),
    "overexposed": Fault(
        _("overexposed"),
        _(
            "Many pixels (up to {share}%) are at their limit, far more than is usual in this set: "
            "no detail is left there"
        ),
        _("Make it darker from the original, or leave it out; ignore this if the white is meant"),
    ),
    "underexposed": Fault(
        _("underexposed"),
        _("Even the brightest parts are dark (grey level {grey} of 255)"),
        _("Brighten it, or leave it out; ignore this if the night is meant"),
    ),
    "near-duplicate": Fault(
        _("almost the same image as another"),
        _(
            "Also mirrored, cropped or resized. It counts twice, is memorised sooner, and spoils the test on "
            "held-out images"
        ),
        _("Keep the best of each group: --fix does"),
    ),
    "bars": Fault(
        _("even bars at the sides"), _("They would be learnt as part of the image"), _("Crop them: --fix does")
    ),
    "odd-aspect": Fault(
        _("very long or very wide"),
        _("Of the most extreme one training shows {kept}%; the rest is cropped"),
        _("Crop it yourself around the subject"),
    ),
    "small": Fault(
        _("smaller than the training size"),
        _("It is enlarged, by up to x{factor}, and so gets less sharp"),
        _("A few do no harm; find larger originals, or train at a smaller size"),
    ),
    "caption-none": Fault(
        _("no caption"),
        _("There is neither a caption file nor a trigger or class word to say what it is"),
        _("Write NAME.txt beside NAME.png, or give --trigger and --class-word"),
    ),
    "caption-none-all": Fault(
        _("no captions"),
        _("No image has a caption file, and there is neither a trigger nor a class word to call them by"),
        _(
            "Give --trigger and --class-word; captions that say what else is in the image help more "
            "(NAME.txt beside NAME.png)"
        ),
    ),
    "caption-built": Fault(
        _("no caption file, while others have one"),
        _("It is called by the trigger or class word alone"),
        _("Write one, so that all are described alike"),
    ),
    "caption-empty": Fault(
        _("caption file is empty"),
        _("It counts as none: the image is called by the trigger or class word alone"),
        _("Write the caption, or delete the file"),
    ),
    "caption-identical": Fault(
        _("shares its caption with others"),
        _("What differs between these images is then tied to the same words"),
        _("Say what is different: background, pose, light"),
    ),
    "caption-all-identical": Fault(
        _("all captions are the same"),
        _("Backgrounds and poses will be learnt as part of the subject: “{caption}”"),
        _("Say in each what is not the subject"),
    ),
    "caption-encoding": Fault(
        _("caption is not UTF-8"),
        _("Read as {words}; other programs may read garbage"),
        _("Look whether the text is right, and save it as UTF-8: --fix does"),
    ),
    "caption-unreadable": Fault(
        _("caption file cannot be read"),
        _("The image is treated as without it: {words}"),
        _("Save it as UTF-8; --fix copies it as it is"),
    ),
    "caption-both": Fault(
        _("two caption files"), _("The first one is used: {words}"), _("Delete the one that is not meant")
    ),
    "caption-lines": Fault(
        _("caption of several lines"), _PARTICULARS, _("Set data.caption_lines to `alternatives`, `first` or `join`")
    ),
    "caption-wildcard": Fault(
        _("wildcards in a caption"),
        _("{{a|b}} is not a choice here but trained as text, braces and all"),
        _("Write each choice on a line of its own"),
    ),
    "caption-orphan": Fault(
        _("text file without an image"),
        _("No image has this name, so the text is nobody's caption"),
        _("Give it the name of its image"),
    ),
    "caption-not-read": Fault(
        _("not read as captions"),
        _("Nothing in it names an image and its caption in a way that is known here"),
        _("If it holds captions, write them into NAME.txt beside NAME.png, or into a metadata.jsonl"),
    ),
    "not-read": Fault(
        _("file that is not read"),
        _("Videos and archives are not looked into"),
        _("Unpack it, or save single frames as images"),
    ),
    "mask": Fault(
        _("a mask"),
        _("By its name or folder it is the mask of another image, and is not trained on as an image"),
        _("Rename it, if it is an image to learn"),
    ),
    "masked": Fault(
        _("with a mask"),
        _("{count} of {total} images have one; used in training with data.masks or data.alpha_mask, else not"),
        _("data.masks=auto uses masks among the images; data.mask_outside says how much the rest counts"),
    ),
    "mask-none": Fault(
        _("no mask, while others have one"),
        _("Its background is learned as its subject is"),
        _("Make one of the same name, or leave it so if all of it is meant"),
    ),
    "mask-empty": Fault(
        _("the mask is empty"),
        _("It shows nothing (all black), so that nothing of the image is learned"),
        _("Paint white what is to be learned, or delete the mask"),
    ),
    "mask-white": Fault(
        _("the mask is all white"),
        _("It shows everything, as if there were none"),
        _("Paint black what is not to be learned, or delete the mask"),
    ),
    "mask-size": Fault(
        _("the mask has another size than the image"),
        _("It is stretched to the image's size: {words}"),
        _("Check that it lies on the subject"),
    ),
    "mask-unreadable": Fault(
        _("the mask cannot be read"), _("The whole image is learned: {words}"), _("Save it again as PNG")
    ),
    "mask-orphan": Fault(_("mask without an image"), _("No image has this name"), _("Give it the name of its image")),
    "condition": Fault(
        _("an image of conditions"),
        _("By its name it belongs to another image, for training that tsuika does not do"),
        _("Rename it, if it is an image to learn"),
    ),
    "sample": Fault(
        _("a sample of another training"),
        _("By its name and place a program has drawn it while it trained a model"),
        _("Move it elsewhere, if it is an image to learn"),
    ),
    "regularization": Fault(
        _("a regularization image"),
        _("It lies in a folder of regularization images, and is trained on as one, without the trigger word"),
        _("Rename the folder, if it is the subject; data.reg_images=none leaves these images out"),
    ),
    "system-folder": Fault(
        _("folder of the system, skipped"), _("It holds thumbnails or deleted files: {words}"), _NOTHING_TO_DO
    ),
    "frames": Fault(
        _("several frames or pages"),
        _("One of them is used: {words}"),
        _("Save the others as images of their own, if they are meant"),
    ),
    "reduced": Fault(_("very large"), _("It is read at a smaller size, to save memory: {words}"), _NOTHING_TO_DO),
    "caption-long": Fault(
        _("caption longer than the base reads at once"),
        _(
            "Up to {tokens} tokens, and the base reads {room} at once: it is read in parts, in training and in generating "
            "alike"
        ),
        _("Shorten it, if other programs are to read it whole; the important words first"),
    ),
    "caption-common": Fault(
        _("the same words in almost every caption"),
        _("{phrases}. The trigger word will not learn it apart from these words"),
        _("If it belongs to the subject, take the words out of the captions; else vary them"),
    ),
    "caption-torn": Fault(
        _("words that the base does not know"),
        _("The tokenizer splits them into pieces, which mean little together: {words}"),
        _("Common English words carry more; names of your own are fine"),
    ),
    "caption-foreign": Fault(
        _("caption is not in English"),
        _("The text encoder learnt English; other scripts are read byte by byte"),
        _("Write captions in English"),
    ),
    "trigger-missing": Fault(
        _("caption without the trigger word"),
        _("`{trigger}` stands in {with_trigger} of {usable}; training puts it in front of the others"),
        _NOTHING_TO_DO,
    ),
    "profile-ignored": Fault(
        _("colour profile ignored"), _("It is taken as sRGB: {words}"), _("Check whether its colours are right")
    ),
    "exif-ignored": Fault(
        _("EXIF ignored"),
        _("It cannot be read, so that the image may lie on its side: {words}"),
        _("Check whether it is upright"),
    ),
    "own-output": Fault(
        _("folder written by tsuika, skipped"), _("It is {words}, with no images to learn from"), _NOTHING_TO_DO
    ),
    "same-background": Fault(
        _("the same background"),
        _(
            "It stands behind {count} of {different} images (told from the colours along the edges) and will be learnt "
            "along with the subject"
        ),
        _("Add images taken elsewhere, or name the background in the captions; fine for a style"),
    ),
    "nothing-found": Fault(
        _("no images"),
        _("The folder and its subfolders hold no file that looks like an image"),
        _("Put JPEG, PNG or WebP images into it, and check its path"),
    ),
    "nothing-usable": Fault(
        _("no usable image"),
        _("None of the {left} files that were found can be used"),
        _("See below why; save them again as JPEG or PNG, or find larger ones"),
    ),
}

# Parts of a check that could not be made: for each key of `Report.not_judged` what is missing and why.
NOT_JUDGED: Final[dict[str, Text]] = {
    "text": _("writing and watermarks inside images: they cannot be told from the rest without a trained detector"),
    "few": _("blur, enlargement and variety: they are judged against the set, and that takes four images at least"),
    "drawn": _("exposure of flat drawings: their tones are meant"),
    "vae": _("whether the base can hold the images' detail: its VAE cannot be loaded here"),
    "tokens": _("length of captions and unknown words: the base's tokenizer is not on this machine"),
}
