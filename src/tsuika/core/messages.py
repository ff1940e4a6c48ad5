"""What tsuika says when something is wrong: a code and its message, in what, why, do. A table, kept in code order.

RC recipe and usage, DS images, MD models, FM file formats, RS resources, TR training, GD guard, EV evaluation, GN
generation (notes), NW network, VA VAEs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from tsuika.core.texts import Text, _

Part = Literal["what", "why", "do"]
NOTHING: Final = Text("")


@dataclass(frozen=True)
class Message:
    """A message with gaps (`{name}`); `part` and `sentence` fill them."""

    what: Text
    why: Text = NOTHING
    do: Text = NOTHING

    def part(self, name: Part, params: Mapping[str, object]) -> Text:
        """One part, filled. Raises KeyError: a gap has no value."""
        text: Text = getattr(self, name)
        return text.filled(params)

    def sentence(self, params: Mapping[str, object]) -> Text:
        """All parts in one line. Raises KeyError: a gap has no value."""
        what, why, do = (self.part(name, params) for name in ("what", "why", "do"))
        if why and do:
            return _("{what}. {why} {do}", what=what, why=why, do=do)
        rest = why or do
        return _("{what}. {rest}", what=what, rest=rest) if rest else _("{what}.", what=what)


def sentence(code: str, params: Mapping[str, object]) -> Text:
    """The message of a code in one line. Raises KeyError: the code has no message, or a gap no value."""
    return MESSAGES[code].sentence(params)


def percent(log_ratio: float | None) -> str:
    """A log ratio of losses in percent: `-1.4%`; a dash if there is none, `> 1000×` above a thousandfold."""
    if log_ratio is None or not math.isfinite(log_ratio):
        return "-"
    if log_ratio >= math.log(1000):
        return "> 1000×"
    text = f"{100 * math.expm1(log_ratio):+.1f}%"
    return "0.0%" if text in ("-0.0%", "+0.0%") else text


MESSAGES: Final[Mapping[str, Message]] = {
    "RC001": Message(
        _("Unknown setting `{key}`"), _("There is no setting of this name."), _("Did you mean `{nearest}`?")
    ),
    "RC002": Message(
        _("Setting `{key}` cannot be `{found}`"),
        Text("{why}"),
        _("Give `{key}` another value: by its option, in the recipe or with --set."),
    ),
    "RC003": Message(_("The recipe cannot be read"), Text("{why}"), _("Correct the file, or give another one.")),
    "RC004": Message(
        _("`{found}` is not of the form key=value"),
        _("A setting needs a key, `=`, and a value."),
        _("For example: --set train.steps=400"),
    ),
    "RC005": Message(_("{found} is needed"), _("The command cannot start without it."), Text("{do}")),
    "RC006": Message(
        _("The output folder is already in use"),
        _("It holds another training run. Nothing is ever overwritten."),
        _("Choose another --out, or go on with: tsuika resume {where}"),
    ),
    "RC007": Message(
        _("The output exists already"),
        _("Files are not overwritten unless you ask for it."),
        _("Choose another --out, or add --overwrite (files only)."),
    ),
    "RC008": Message(
        _("L1 cannot be used on the vectors of a new word"),
        _("Its zeros depend on the axes of the embedding space, which mean nothing by themselves."),
        _("Use regularize.l2, which pulls the vectors back to where they started: --set regularize.l1=0"),
    ),
    "RC009": Message(
        _("`{key}` cannot be used for this training"),
        _("It limits a difference of weights. A hypernetwork, or an adapter other than `lora`, is not one."),
        _("Use regularize.l2: --set {key}=0"),
    ),
    "RC010": Message(
        _("`regularize.l1` cannot be combined with `train.ema`"),
        _("An average of weights that are zero only from time to time is never zero."),
        _("Switch one of them off: --set train.ema=0"),
    ),
    "RC011": Message(
        _("The settings of `regularize` cannot be combined with the optimizer `schedule-free`"),
        _("It keeps the weights in two places, so that a change of one of them is undone."),
        _("Choose another optimizer: --set train.optimizer=adamw"),
    ),
    "RC012": Message(
        _("`regularize.max_norm` cannot be combined with the optimizer `riemannian`"),
        _("This optimizer keeps the length of vectors anyway."),
        _("Switch it off: --set regularize.max_norm=0"),
    ),
    "RC013": Message(
        _("A hypernetwork that ends in a sigmoid cannot be pulled towards the base model"),
        _("Its output is never zero, so it always changes the base model."),
        _("Set method.activate_output=false, or choose another activation."),
    ),
    "RC014": Message(_("There is no option `{found}`"), Text("{why}"), _("All options: {do}")),
    "RC015": Message(_("`{key}` cannot be `{found}`"), Text("{why}"), _("How it is used: {do}")),
    "RC016": Message(_("`{found}` needs a value"), _("No value follows it."), _("How it is used: {do}")),
    "RC017": Message(_("There is no command `{found}`"), NOTHING, _("All commands: {do}")),
    "RC018": Message(_("`{found}` is too much"), _("The command takes fewer arguments."), _("How it is used: {do}")),
    "RC019": Message(_("The command line cannot be understood"), Text("{why}"), _("How it is used: {do}")),
    "RC020": Message(
        _("The optimizer {found} finds its learning rate by itself, so there is none to search for"),
        _("The learning rate of the recipe is a factor on it, and 1 is best."),
        _("Choose another optimizer: --set {key}=adamw"),
    ),
    "RC021": Message(
        _("`--over {found}` cannot be searched"),
        Text("{why}"),
        _("For example: --over train.learning_rate=1e-4..3e-3 --over method.rank=8,16,32"),
    ),
    "RC022": Message(
        _("A search needs the package optuna"),
        _("It is not installed here ({why})."),
        _('pip install "tsuika[search]", or pip install optuna'),
    ),
    "RC023": Message(
        _("The output folder holds another search"),
        _("Its recipe or the settings that are searched differ: {why}"),
        _("Give the same settings to go on with it, or choose another --out."),
    ),
    "RC024": Message(
        _("A search needs held-out images to compare its trials"),
        Text("{why}"),
        _("Give at least 4 different images, and leave --guard on."),
    ),
    "RC026": Message(
        _("No method fits these limits"), Text("{why}"), _("Raise --vram-gb or --max-file-mb, or leave --for out.")
    ),
    "RC027": Message(
        _("Another process is at work in this folder"),
        Text("{why}"),
        _("Wait until it is done, or end it. Nothing was changed."),
    ),
    "RC028": Message(_("This cannot be the name of a file or folder"), Text("{why}"), _("Choose another name.")),
    "RC040": Message(_("{file} is {kind}; {count} of its settings are taken over")),
    "RC041": Message(
        _("{file} is {kind}; {count} of its settings are taken over"), _("Without a counterpart: {names}.")
    ),
    "RC042": Message(
        _("{method} has no setting `{key}`"), _("It is a setting of {owners}."), _("Its own settings: {names}")
    ),
    "DS001": Message(
        _("The image folder does not exist"), _("No folder of this name was found."), _("Check its path.")
    ),
    "DS002": Message(
        _("{usable} of {total} images can be used; at least {needed} are needed"),
        Text("{why}"),
        _("Add images, or look at the list of images that are left out: {report}"),
    ),
    "DS003": Message(
        _("This image cannot be used"), Text("{why}"), _("Remove it from the folder, or save it again as PNG or JPEG.")
    ),
    "DS004": Message(
        _("The VAE turned this image into NaN or infinite values"),
        Text("{why}"),
        _("Half precision overflows in some VAEs: --set train.precision=fp32, or another VAE with --vae."),
    ),
    "DS005": Message(
        _("The cleaned copy cannot be written there"), Text("{why}"), _("Choose another place with --out.")
    ),
    "DS006": Message(_("{name} is left out: {reason}"), Text("{words}")),
    "DS007": Message(_("About {name}: {reason}"), Text("{words}")),
    "DS008": Message(
        _("{count} images are smaller than the training size and are enlarged"),
        _("They are: {names}."),
        _("Use larger originals if you have them. Blur is learned, too."),
    ),
    "DS009": Message(_("The cached data of {name} cannot be used"), Text("{why}"), _("It is encoded again.")),
    "DS010": Message(_("{count} images are left out: {reason}"), Text("{names}")),
    "DS011": Message(_("About {count} images: {reason}"), Text("{names}")),
    "DS012": Message(
        _("Captions longer than the base model reads at once: {count}"),
        _(
            "The longest has {tokens} tokens; {room} are read at once, so it is read in {chunks} parts, as a long prompt is."
        ),
        _("Shorten it if other programs, which may cut it off, are to train on it as well."),
    ),
    "DS020": Message(
        _("The cache of encoded images cannot be written"),
        Text("{why}"),
        _("Do without it: --set data.cache=false; or name another place for it: the variable XDG_CACHE_HOME"),
    ),
    "MD001": Message(
        _("The base model was not found"),
        Text("{why}"),
        _("Give a diffusers folder, a .safetensors or .ckpt file, a Hugging Face model id, or `embedded`."),
    ),
    "MD002": Message(_("This is not {expected}"), _("Found: {found}."), Text("{do}")),
    "MD003": Message(_("The file is damaged or incomplete"), Text("{why}"), _("Download or copy it again.")),
    "MD004": Message(
        _("{artifact} was made for {found}, not for {expected}"),
        _("Their layers differ, so it would fail or have no effect."),
        _("Use it with the kind of base model that it was made for."),
    ),
    "MD005": Message(
        _("The file holds more than the numbers of weights and was refused"),
        Text("{why}"),
        _("Get it as .safetensors; a pickle can run programs when opened."),
    ),
    "MD006": Message(
        _("No file for `{found}` was found"),
        _("Looked for it in: {folders}"),
        _("Check the name (nearest: {nearest}), or give the folder with --artifacts."),
    ),
    "MD007": Message(
        _("The word `{word}` is defined by two results at once"),
        _("In a prompt it can mean only one of them."),
        _("Use one of the two, or rename one of the files."),
    ),
    "MD008": Message(
        _("The word `{word}` cannot be used in a prompt"),
        _("It holds a space, a comma, a colon, a slash or a bracket."),
        _("Rename the file. If a file names no word, its own name is the word. Letters, digits, `-` and `_` are best."),
    ),
    "MD009": Message(
        _("The VAE was not found"),
        _("There is no such file or folder."),
        _("Give `builtin`, a file, a folder or a Hugging Face model id."),
    ),
    "MD010": Message(
        _("The base model has no VAE called `{found}`"),
        _("It has: {known}."),
        _("Give one of these, a file, a folder or a Hugging Face model id."),
    ),
    "MD011": Message(
        _("The file holds values that only give black or broken images: `{tensor}`"),
        Text("{why}"),
        _(
            "Get the file again. If you trained it yourself, use an earlier saved state, "
            "and a lower learning rate or bf16 next time."
        ),
    ),
    "MD012": Message(
        _("There is no VAE in this base model"),
        _("The file holds the other parts only; images need a VAE, too."),
        _("Name one with --vae (in a recipe: base.vae). Where a command has no --vae, use a file that holds its VAE."),
    ),
    "MD021": Message(
        _("`{word}` is the name of several different files"),
        Text("{files}"),
        _(
            "Give the file itself, as --lora FILE or --embedding FILE; or one folder, as --artifacts DIR; or rename one."
        ),
    ),
    "MD022": Message(
        _("`{word}` is the trigger word of {artifact}"),
        _("A file that has that name by chance is not applied with it."),
        _("To apply both, give the file itself: --embedding FILE"),
    ),
    "FM001": Message(
        _("tsuika cannot read the format of this file here"), _("Found: {found}"), _("Expected: {expected}")
    ),
    "FM002": Message(_("{format} cannot hold this result"), Text("{why}"), Text("{do}")),
    "FM003": Message(
        _("The written file does not match the trained model"),
        Text("{why}"),
        _("This is a bug: please report it with the log file."),
    ),
    "FM004": Message(_("There is no such file"), _("Nothing was found under this name."), _("Check the path.")),
    "FM005": Message(_("This cannot be done with these files"), Text("{why}"), Text("{do}")),
    "FM006": Message(
        _("{file} has copies in place of the text encoder's last block and projection"),
        _(
            "The base model came without them. They are not used in any computation, but programs look for these tensors."
        ),
    ),
    "FM007": Message(_("Keys that were not understood are left out"), _("They are: {keys}")),
    "FM008": Message(_("{kind} became a plain LoRA of rank {rank} at most"), _("Relative error of a layer: {error}.")),
    "FM009": Message(
        _("0.18215 (SD1, SD2) is written as the latent scale"),
        _("The file does not say its own."),
        _("For SDXL: --base SDXL-BASE"),
    ),
    "FM010": Message(
        _("{file} was written as well"), _("Programs read from it that the model is a v-prediction model.")
    ),
    "RS001": Message(_("Not enough memory"), Text("{why}"), Text("{do}")),
    "RS002": Message(_("Not enough disk space"), Text("{why}"), _("Free some space or choose another --out.")),
    "RS003": Message(
        _("There is no permission to read or write here"),
        Text("{why}"),
        _("Choose another place, or change the permissions of this one."),
    ),
    "RS004": Message(
        _("The system could not read or write here"),
        Text("{why}"),
        _("Check that the disk is connected and the folder is still there, then try again."),
    ),
    "TR001": Message(
        _("Training diverged at step {step}"),
        _("The loss became NaN or infinite for these images: {pictures}. The last good state (step {kept}) is kept."),
        _("Try a third of the learning rate: --set train.learning_rate={rate}"),
    ),
    "TR002": Message(
        _("This is not the folder of a training run"),
        _("It holds no recipe.toml."),
        _("Give the folder that you gave to tsuika train as --out."),
    ),
    "TR003": Message(
        _("The new word `{word}` is in no caption"),
        _("It will learn nothing."),
        _("Add it to the captions of its images."),
    ),
    "TR004": Message(
        _("Weight decay has next to no effect here"),
        _(
            "Learning rate x train.weight_decay x steps is {strength}: over the whole training run the weights "
            "shrink by this share."
        ),
        _("Leave it at 0, or use regularize.l2, whose strength does not depend on the learning rate."),
    ),
    "TR005": Message(
        _("{count} layers hold numbers too small for {precision} to keep exactly, such as {layer}"),
        NOTHING,
        _("If it matters: --set output.dtype=fp32"),
    ),
    "TR006": Message(
        _("train.ema and train.schedule are not used"), _("Schedule-free averages the weights by itself.")
    ),
    "TR007": Message(
        _("train.schedule is not used after the warm-up"), _("Prodigy finds its learning rate by itself.")
    ),
    "TR008": Message(
        _("The images are not those that this training run began with"),
        _("{why}. Which images are held out and when each is used was decided at the start."),
        _("Put them back as they were, or start a new training run with: tsuika train"),
    ),
    "TR009": Message(
        _("Captions have changed since this training run began: {names}"),
        _("From here on the new captions are learned, so the result will differ."),
    ),
    "TR011": Message(
        _("A file of this training run is damaged or was changed"),
        Text("{why}"),
        _("Put it back as it was; or begin anew, with another --out: tsuika train --recipe RUN/recipe.toml --out NEW"),
    ),
    "TR012": Message(
        _("The saved state {names} is damaged and is passed over"),
        NOTHING,
        _("The training goes on from step {step}, to the same result."),
    ),
    "TR013": Message(
        _("{count} lines of events.jsonl cannot be read"),
        NOTHING,
        _("The report does without them; the training is not affected."),
    ),
    "TR014": Message(
        _("The training run began in other surroundings"),
        Text("{changes}"),
        _("It goes on, but its numbers may differ in the last digits."),
    ),
    "TR010": Message(_("`{name}` was closed before its end"), _("So there is no result.")),
    "TR015": Message(
        _("The learning rate and the number of steps are usual ones, not chosen for this base model and these images"),
        _("The guard stops a training that is too long, but a rate that is too low learns little."),
        _("A recipe for them: tsuika advise --images {images} --goal ...; a measured rate: tsuika find-rate"),
    ),
    "TR020": Message(
        _("The written files hold the tags of your captions ({tags} different ones)"),
        _("Programs show them, and whoever gets a file can read them."),
        _("To leave them out: --set output.caption_tags=false"),
    ),
    "TR031": Message(
        _("Stopped at step {step}, as was asked"), _("Everything is saved."), _("Go on with: tsuika resume {run}")
    ),
    "TR033": Message(
        _("The run is not running"), _("No process is working on it."), _("Go on with: tsuika resume {run}")
    ),
    "GD001": Message(
        _("Stopped at step {step}: the loss became NaN or infinite"),
        _("The state of step {best} is kept (0 is the untrained base model)."),
        _("Try a third of the learning rate: --set train.learning_rate={rate}"),
    ),
    "GD002": Message(
        _(
            "Stopped at step {step}: the loss of held-out images is now higher than with the untrained base model ({percent})"
        ),
        _("The state of step {best} is kept (0 is the untrained base model)."),
        _("Try a third of the learning rate: --set train.learning_rate={rate}"),
    ),
    "GD003": Message(
        _("Stopped at step {step}: even the loss of the training images keeps rising"),
        _("The learning rate is too high. The state of step {best} is kept (0 is the untrained base model)."),
        _("Try a third of it: --set train.learning_rate={rate}"),
    ),
    "GD004": Message(
        _("Stopped at step {step}: nothing has been learned"),
        _("Neither the training images nor the held-out ones are better than with the untrained base model."),
        _("Check the captions, the trigger word and the VAE, or raise the learning rate."),
    ),
    "GD005": Message(
        _("Stopped at step {step}: what was learned does not carry over to held-out images"),
        _("Loss of training images: {train}; of held-out images: {percent}."),
        _(
            "Check that all images show the same thing and that the captions fit; add more varied images, or "
            "lower the learning rate."
        ),
    ),
    "GD006": Message(
        _("Stopped at step {step}: no improvement on held-out images since step {best}"),
        _(
            "Step {best} is the best (loss {gain} against the base model). More training would only memorize the images."
        ),
    ),
    "GD007": Message(
        _("The training images are being memorized (step {step})"),
        _("They are ahead of the held-out images by {gap_mid} in detail and {gap_high} in layout."),
        _("Use the state of step {best}, or an earlier one."),
    ),
    "GD008": Message(
        _(
            "Step {step}: still improving; the loss of held-out images is the lowest so far ({percent} against the base model)"
        )
    ),
    "GD009": Message(
        _("Step {step}: training looks sound, but no image is held out, so overfitting cannot be seen"),
        _("Loss of training images: {percent} against the base model."),
    ),
    "GD010": Message(_("Step {step}: no improvement on held-out images since step {best}; waiting a little longer")),
    "GD011": Message(_("Step {step}: held-out images are not yet better than with the base model (loss {percent})")),
    "GD012": Message(
        _("{found} different images are too few for a validation that can be trusted"),
        Text("{then}"),
        _("With 4 or more different images overfitting can be seen; 10 or more are better."),
    ),
    "GD013": Message(
        _("{held_out} of {found} images are held out to detect overfitting"), _("They are: {names}."), Text("{then}")
    ),
    "GD014": Message(
        _("{names} are treated as the same image"),
        _("Copies, crops and mirrored copies are never split between training and validation."),
    ),
    "GD016": Message(
        _("Cross-validation: {folds} folds of {found} images, one after another"),
        Text("{why}"),
        _("Fewer folds are quicker: --folds 2; none: --guard off"),
    ),
    "GD017": Message(
        _("No step was better on held-out images than the untrained base model"),
        _("The file holds step {step}, which did the least harm. Do not expect much of it."),
    ),
    "GD020": Message(
        _("Best of the learning rates that were tried: {rate} (loss {gain} after {after} steps)"),
        _(
            "Estimates: at this rate, held constant, training is at its best near step {best}; over your {run} "
            "steps with their schedule a rate of {slower} learns as much."
        ),
        _("--set train.learning_rate={slower}; or {rate} and fewer steps"),
    ),
    "GD021": Message(
        _("Best of the learning rates that were tried: {rate} (loss {gain} after {after} steps)"),
        _(
            "None of them was past its best after {steps} steps, so the number of steps that it needs cannot be estimated."
        ),
        _("--set train.learning_rate={rate}"),
    ),
    "GD022": Message(
        _("No learning rate from {lowest} to {highest} can be recommended"),
        _("After {steps} steps none of them is better than the untrained model by more than chance."),
        _("Try more steps (--steps) or other rates (--rates), and check the captions and the trigger word."),
    ),
    "GD023": Message(
        _("Learning rates {rates} are tried for {steps} steps each"),
        _("They are judged by {measured} of the {found} images, which are held out here."),
    ),
    "GD024": Message(
        _("Learning rates {rates} are tried for {steps} steps each"),
        _(
            "{found} different images are too few to hold one out: the rates are judged by images that are "
            "trained on, which cannot show overfitting."
        ),
    ),
    "GD025": Message(_("Trial {number} is left out"), Text("{why}")),
    "GD026": Message(
        _("{count} trials are being run by other processes"),
        _("The result below is without them."),
        _("The same command shows it again once they are done."),
    ),
    "GD028": Message(
        _("Best of the learning rates that were tried: {rate} (loss {gain} after {after} steps)"),
        _(
            "Estimate: at this rate, held constant, training is at its best near step {best}; your {run} steps "
            "with their schedule end before that."
        ),
        _("--set train.learning_rate={rate}, and more steps"),
    ),
    "GD029": Message(
        _("Cross-validation: {folds} folds of {found} images, one after another"),
        _(
            "{why} Each fold has half of the images and overfits much sooner: the step for all of them is a "
            "rough estimate, {times} times theirs."
        ),
        _("Other folds: --folds K; none: --guard off"),
    ),
    "GD030": Message(
        _("Best of the learning rates that were tried: {rate} (loss {gain} after {after} steps)"),
        _(
            "It is the highest of them, and was not past its best after {steps} steps: a higher one may be better still."
        ),
        _("--set train.learning_rate={rate}; or try higher ones: --rates {higher}"),
    ),
    "GD031": Message(
        _("The guard's checks took {took} of the training time, more than guard.overhead ({most})"),
        _("The training run is short: finding the best step takes at least 8 checks with 4 images."),
        _(
            "You need not do anything. A larger batch size or more steps make the share smaller; --guard off measures nothing."
        ),
    ),
    "GD032": Message(
        _("All {step} steps are done; step {best} is the best on held-out images (loss {gain} against the base model)")
    ),
    "GD033": Message(
        _(
            "All {step} steps are done, and held-out images were still improving (loss {percent} against the base model)"
        ),
        do=_("More steps may gain more: --steps {more}"),
    ),
    "GD034": Message(
        _(
            "All {step} steps are done, and held-out images are not yet better than with the base model (loss {percent})"
        ),
        _("Learning was too slow."),
        _("Raise the learning rate: --set train.learning_rate={higher}; or the number of steps: --steps {more}"),
    ),
    "GD035": Message(
        _("Prompts that have nothing to do with it have changed {share} as much as those with `{trigger}`"),
        _("So other images change as well; evaluate shows by how much."),
        Text("{do}"),
    ),
    "GD036": Message(
        _("The class word `{word}` alone has changed {share} as much as prompts with `{trigger}`"),
        _("It was learned along, so a prompt without the trigger word may draw what you trained."),
        Text("{do}"),
    ),
    "GD037": Message(
        _("The class word `{word}` may be the cause: this base model does not know it as a word"),
        _("Its tokenizer tears it into {pieces} pieces, so what they draw has little to do with your images."),
        _("Use a simpler class word that the base model knows: --class-word WORD"),
    ),
    "EV001": Message(
        _("This cannot be opened as an image encoder"),
        Text("{why}"),
        _(
            "Give a CLIP, SigLIP or DINOv2 as a Hugging Face model id or a folder, with weights as "
            ".safetensors; e.g. --encoder openai/clip-vit-base-patch32"
        ),
    ),
    "EV002": Message(
        _(
            "No encoder was given that understands the images of this base model, so likeness to the training "
            "images, adherence to the prompt and drift are not measured"
        ),
        _(
            "The embedded yardstick works for the embedded base model only. Copies and diversity are measured "
            "without an encoder."
        ),
        _(
            "Give one as a Hugging Face model id or a folder: --encoder openai/clip-vit-base-patch32 (measures "
            "everything) or --encoder facebook/dinov2-small (finer likeness, no adherence)."
        ),
    ),
    "EV003": Message(
        _("{encoder} cannot read text, so adherence to the prompt is not measured"),
        _("It sees images only. Step and strength are then judged by likeness and diversity."),
        _("A CLIP or SigLIP measures it: --encoder openai/clip-vit-base-patch32"),
    ),
    "EV004": Message(
        _("This training run holds nothing to evaluate"),
        _("It has not ended yet (there is no report.json), or its results have been moved away."),
        _("Finish it first: tsuika resume {where}"),
    ),
    "EV005": Message(
        _("The evaluation could not be added to the report"),
        Text("{why}"),
        _("Its numbers are in evaluation.json, its images in the folder evaluation."),
    ),
    "EV006": Message(
        _("There is no kept step {found}"),
        _("This training run kept: {kept}."),
        _("Choose among them, or keep more when training: --set output.keep_states=9"),
    ),
    "EV007": Message(
        _("Some of the training images have changed or are gone"),
        Text("{why}"),
        _(
            "The evaluation compares with the images that are there now. If they were moved, give their folder "
            "with --images DIR."
        ),
    ),
    "GN001": Message(
        _("No font on this machine can show `{missing}`"),
        _("These characters are spelled out in the image instead."),
        _(
            "Install a font that has them, for example Noto Sans CJK (Debian, Ubuntu: fonts-noto-cjk; Fedora: "
            "google-noto-sans-cjk-fonts)."
        ),
    ),
    "GN002": Message(
        _("Sampler {sampler} cannot start from pure noise"),
        _("This base model was trained down to zero terminal SNR, so dark and bright images come out flat."),
        _("Use another sampler, for example Euler or DDIM."),
    ),
    "GN003": Message(
        _("`{found}` in the prompt is not supported"),
        _("Tags other than lora and hypernet are left out; AND is read as plain text."),
    ),
    "GN004": Message(
        _("Prompt weights are used without restoring the mean"),
        _("The mean of this text encoder's embeddings is too near to zero to be restored."),
    ),
    "GN005": Message(
        _("{unmatched} of {total} tensors in {artifact} do not match this base model"),
        _("First of them: {first}"),
        _("Make sure that the file was made for this kind of base model."),
    ),
    "GN007": Message(
        _("{unread} of {total} tensors in {artifact} are of a kind that tsuika cannot read; they have no effect"),
        _("First of them: {first}"),
        _("The rest is used. The base model is not the cause; the program that made the file shows all of it."),
    ),
    "GN006": Message(
        _("{artifact} is not used"),
        _("{why}."),
        _("Move it out of the folders where names are looked up, or rename it."),
    ),
    "NW001": Message(
        _("The Hugging Face Hub could not be reached, or refused access"),
        Text("{why}"),
        _("Check the connection, the name and the licence; or give a folder or file on this machine."),
    ),
    "VA001": Message(
        _("{vae} overflows in {precision}"),
        _(
            "Its layers reach {largest}, more than {precision} can hold, so programs that decode in half "
            "precision show black images."
        ),
        _("Run it in {fallback} or fp32 (A1111: --no-half-vae; ComfyUI: --bf16-vae or --fp32-vae)."),
    ),
    "VA002": Message(
        _("{vae} gives NaN or infinite values"),
        _("{broken} of {total} images came out broken, in fp32 too."),
        _("The file is damaged: get it again."),
    ),
    "VA003": Message(
        _("{vae} is a VAE for another kind of base model"),
        _(
            "Its latents do not correspond to those of this base model (correlation {correlation}); images of "
            "this base model come out {lost} dB worse than they could. Such a VAE loads without any error: an "
            "SDXL VAE on SD1, for example."
        ),
        _("Use it with the base model it was made for."),
    ),
    "VA004": Message(
        _("{vae} expects latents {factor} times as large as this base model makes them"),
        _(
            "Its scale is another one; images of this base model come out {lost} dB worse than they could, and "
            "training would see latents of the wrong size. No program shows an error."
        ),
        _("Use a VAE made for this base model."),
    ),
    "VA005": Message(
        _("The config of {vae} names the latent scale {found}; this base model uses {expected}"),
        _("The base model's scale is used here, as in every program."),
        _("If colours or contrast look wrong, use a VAE made for this base model."),
    ),
    "VA006": Message(
        _("{vae} washes colours out"),
        _("The originals' chroma falls to {chroma}%, their range from dark to light to {range}%."),
        _("Use another VAE."),
    ),
    "VA007": Message(
        _("{vae} gives black or flat images"),
        _("Next to nothing of the originals' range from dark to light is left."),
        _("Use another VAE, or a higher precision."),
    ),
    "VA008": Message(
        _("{vae} shows seams when it decodes in tiles"),
        _("With tiles of {tile} px the worst hundredth of the pixels differs by ΔE {difference}."),
        _("Decode whole images where memory allows, or use larger tiles with more overlap."),
    ),
    "VA009": Message(
        _("{vae} gives NaN or infinite values in {precision}"),
        _("It was measured in {fallback} instead."),
        _("Run it in {fallback}."),
    ),
    "VA010": Message(
        _("{vae} has another encoder than the base model's own VAE"),
        _(
            "So latents and training are affected, not only how images look: train with it and draw with it, or do neither."
        ),
    ),
    "VA011": Message(
        _("{found} different images are too few to tell VAEs apart"),
        _("A confidence interval needs at least {needed}; ten or more are good."),
    ),
    "VA012": Message(
        _("{shown} of {found} images are compared"),
        _("They are taken evenly from the folder."),
        _("For all: --max-pictures {found}"),
    ),
    "VA013": Message(
        _("{count} images were cut to sides that are multiples of {multiple} px"),
        _("VAEs take no others; programs cut or stretch them too."),
    ),
    "VA020": Message(
        _("The tuned decoder is not better than before, so nothing was written"),
        _("On {proof} held-out images {measure} went from {before} to {after} (change: {low} to {high})."),
        _(
            "Give more or other images, another --purpose, or keep the VAE that you have. To have the file "
            "anyway: --keep-anyway"
        ),
    ),
    "VA021": Message(
        _("{found} different images are too few to tune a VAE"),
        _("At least {needed} are needed: some are held out to choose the step and others to prove the gain."),
        _("Add images; copies and crops of one image count as one."),
    ),
    "VA022": Message(
        _("Tuning diverged at step {step}"),
        _("The loss became NaN or infinite; nothing was written."),
        _("Try a third of the learning rate: --learning-rate {rate}"),
    ),
    "VA023": Message(
        _("{measure} became worse: {mean} ({low} to {high})"),
        _("That is what the gain costs on the held-out images."),
        _("Compare the two with: tsuika vae compare"),
    ),
    "VA024": Message(
        _("{small} of {found} images are smaller than the crops of {side} px and are not trained on"),
        _("Otherwise the smallest would decide the size of all crops."),
        _("To train on them as well, give a smaller --crop."),
    ),
}
