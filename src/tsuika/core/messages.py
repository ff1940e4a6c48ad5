"""What tsuika says when something is wrong: a code and its message, in what, why, do. A table, kept in code order.

RC recipe and usage, DS images, MD models, FM file formats, RS resources, TR training, GD guard, EV evaluation, GN
generation (notes), NW network, VA VAEs, CP captioning and masks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from tsuika.core.texts import Text, _

Part = Literal["what", "why", "do"]
_NOTHING: Final = Text("")


@dataclass(frozen=True)
class Message:
    """A message with gaps (`{name}`); `part` and `sentence` fill them."""

    what: Text
    why: Text = _NOTHING
    do: Text = _NOTHING

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


# By code: what, why and what to do, as far as there is something to say.
MESSAGES: Final[Mapping[str, Message]] = {
    code: Message(*map(Text, parts))
    for code, parts in {
        "RC001": ("Unknown setting `{key}`", "There is no setting of this name.", "{do}"),
        "RC002": (
            "Setting `{key}` cannot be `{found}`",
            "{why}",
            "Give `{key}` another value: by its option, in the recipe or with --set.",
        ),
        "RC003": ("The recipe cannot be read", "{why}", "Correct the file, or give another one."),
        "RC004": (
            "`{found}` is not of the form key=value",
            "A setting needs a key, `=`, and a value.",
            "For example: --set train.steps=400",
        ),
        "RC005": ("{found} is needed", "The command cannot start without it.", "{do}"),
        "RC006": ("The output folder is already in use", "{why} Nothing is ever overwritten.", "{do}"),
        "RC007": ("The output exists already", "Files are not overwritten unless you ask for it.", "{do}"),
        "RC008": (
            "L1 cannot be used on the vectors of a new word",
            "Its zeros depend on the axes of the embedding space, which mean nothing by themselves.",
            "Use regularize.l2, which pulls the vectors back to where they started: --set regularize.l1=0",
        ),
        "RC009": (
            "`{key}` cannot be used for this training",
            "It limits a difference of weights. A hypernetwork, or an adapter other than `lora`, is not one.",
            "Use regularize.l2: --set {key}=0",
        ),
        "RC010": (
            "`regularize.l1` cannot be combined with `train.ema`",
            "An average of weights that are zero only from time to time is never zero.",
            "Switch one of them off: --set train.ema=0",
        ),
        "RC011": (
            "The settings of `regularize` cannot be combined with the optimizer `schedule-free`",
            "It keeps the weights in two places, so that a change of one of them is undone.",
            "Choose another optimizer: --set train.optimizer=adamw",
        ),
        "RC012": (
            "`regularize.max_norm` cannot be combined with the optimizer `riemannian`",
            "This optimizer keeps the length of vectors anyway.",
            "Switch it off: --set regularize.max_norm=0",
        ),
        "RC013": (
            "A hypernetwork that ends in a sigmoid cannot be pulled towards the base model",
            "Its output is never zero, so it always changes the base model.",
            "Set method.activate_output=false, or choose another activation.",
        ),
        "RC014": ("There is no option `{found}`", "{why}", "All options: {do}"),
        "RC015": ("`{key}` cannot be `{found}`", "{why}", "How it is used: {do}"),
        "RC016": ("`{found}` needs a value", "No value follows it.", "How it is used: {do}"),
        "RC017": ("There is no command `{found}`", "", "All commands: {do}"),
        "RC018": ("`{found}` is too much", "The command takes fewer arguments.", "How it is used: {do}"),
        "RC019": ("The command line cannot be understood", "{why}", "How it is used: {do}"),
        "RC020": (
            "The optimizer {found} finds its learning rate by itself, so there is none to search for",
            "The learning rate of the recipe is a factor on it, and 1 is best.",
            "Choose another optimizer: --set {key}=adamw",
        ),
        "RC021": (
            "`--over {found}` cannot be searched",
            "{why}",
            "For example: --over train.learning_rate=1e-4..3e-3 --over method.rank=8,16,32",
        ),
        "RC022": (
            "A search needs the package optuna",
            "It is not installed here ({why}).",
            'pip install "tsuika[search]", or pip install optuna',
        ),
        "RC023": (
            "The output folder holds another search",
            "Its recipe or the settings that are searched differ: {why}",
            "Give the same settings to go on with it, or choose another --out.",
        ),
        "RC024": (
            "A search needs held-out images to compare its trials",
            "{why}",
            "Give at least 4 different images, and leave --guard on.",
        ),
        "RC026": ("No method fits these limits", "{why}", "Raise --vram-gb or --max-file-mb, or leave --for out."),
        "RC027": (
            "Another process is at work in this folder",
            "{why}",
            "Wait until it is done, or end it. Nothing was changed.",
        ),
        "RC028": ("This cannot be the name of a file or folder", "{why}", "Choose another name."),
        "RC029": (
            "The database given by --storage cannot be used",
            "{why}",
            "For example: --storage postgresql://USER@HOST/NAME (a password is best kept in ~/.pgpass)",
        ),
        "RC030": (
            "The processes were launched for {found}, which is not supported",
            "{found} splits the weights among the processes; here each process has them whole, and they share each batch.",
            "Launch with `accelerate launch --multi_gpu --num_processes N`, and without {found} in the settings of `accelerate config`.",
        ),
        "RC040": ("{file} is {kind}; {count} settings come from it",),
        "RC041": ("{file} is {kind}; {count} settings come from it", "Without a counterpart: {names}."),
        "RC042": ("{method} has no setting `{key}`", "It is a setting of {owners}.", "Its own settings: {names}"),
        "RC045": (
            "The processes of this launch cannot be joined",
            "{why}",
            "Start with accelerate launch; or alone, without RANK, LOCAL_RANK and WORLD_SIZE in the environment.",
        ),
        "RC043": (
            "`{module}` failed: {error}",
            "It does not belong to tsuika; a setting of the recipe, or `--method`, names it.",
            "Tell whoever made it. The details are in {log}.",
        ),
        "DS001": ("The image folder does not exist", "No folder of this name was found.", "Check its path."),
        "DS002": (
            "{usable} of {total} images can be used; at least {needed} are needed",
            "{why}",
            "Add images, or look at the list of images that are left out: {report}",
        ),
        "DS003": ("This image cannot be used", "{why}", "Remove it from the folder, or save it again as PNG or JPEG."),
        "DS004": (
            "The VAE turned this image into NaN or infinite values",
            "{why}",
            "Half precision overflows in some VAEs: --set train.precision=fp32, or another VAE with --vae.",
        ),
        "DS005": ("The copy cannot be written there", "{why}", "Choose another place with --out."),
        "DS006": ("{name} is left out: {reason}", "{words}"),
        "DS007": ("About {name}: {reason}", "{words}"),
        "DS008": (
            "{count} images are smaller than the training size and are enlarged",
            "They are: {names}.",
            "Use larger originals if you have them. Blur is learned, too.",
        ),
        "DS009": ("The cached data of {name} cannot be used", "{why}", "It is encoded again."),
        "DS010": ("{count} images are left out: {reason}", "{names}"),
        "DS011": ("About {count} images: {reason}", "{names}"),
        "DS012": (
            "Captions longer than the base model reads at once: {count}",
            "The longest has {tokens} tokens; {room} are read at once, so it is read in {chunks} parts, as a long prompt is.",
            "Shorten it if other programs, which may cut it off, are to train on it as well.",
        ),
        "DS013": (
            "Masks: {count} of {total} images",
            "In the loss, what a mask leaves out weighs {outside}. Checks for memorized images and `tsuika evaluate` look "
            "at whole images.",
        ),
        "DS014": ("{count} sets of images", "They are: {sets}. Images are held out in each of them."),
        "DS020": (
            "The cache of encoded images cannot be written",
            "{why}",
            "Do without it: --set data.cache=false; or name another place for it: the variable XDG_CACHE_HOME",
        ),
        "MD001": (
            "The base model was not found",
            "{why}",
            "Give a diffusers folder, a .safetensors or .ckpt file, a Hugging Face model id, or `embedded`.",
        ),
        "MD002": ("This is not {expected}", "Found: {found}.", "{do}"),
        "MD003": ("The file is damaged or incomplete", "{why}", "Download or copy it again."),
        "MD004": (
            "{artifact} was made for {found}, not for {expected}",
            "Their layers differ, so it would fail or have no effect.",
            "Use it with the kind of base model that it was made for.",
        ),
        "MD005": (
            "The file holds more than the numbers of weights and was refused",
            "{why}",
            "Get it as .safetensors; a pickle can run programs when opened.",
        ),
        "MD006": ("No file for `{found}` was found", "Looked for it in: {folders}", "{do}"),
        "MD007": (
            "The word `{word}` is defined by two results at once",
            "In a prompt it can mean only one of them.",
            "Use one of the two, or rename one of the files.",
        ),
        "MD008": (
            "The word `{word}` cannot be used in a prompt",
            "It holds a space, a comma, a colon, a slash or a bracket.",
            "Rename the file. If a file names no word, its own name is the word. Letters, digits, `-` and `_` are best.",
        ),
        "MD009": (
            "The VAE was not found",
            "There is no such file or folder.",
            "Give `builtin`, a file, a folder or a Hugging Face model id.",
        ),
        "MD010": (
            "The base model has no VAE called `{found}`",
            "It has: {known}.",
            "Give one of these, a file, a folder or a Hugging Face model id.",
        ),
        "MD011": (
            "The file holds values that only give black or broken images: `{tensor}`",
            "{why}",
            "Get the file again. If you trained it yourself, use an earlier saved state, and a lower learning rate or bf16 next time.",
        ),
        "MD012": (
            "There is no VAE in this base model",
            "The file holds the other parts only; images need a VAE, too.",
            "Name one with --vae (in a recipe: base.vae). Where a command has no --vae, use a file that holds its VAE.",
        ),
        "MD021": (
            "`{word}` is the name of several different files",
            "{files}",
            "Give the file itself, as --lora FILE or --embedding FILE; or one folder, as --artifacts DIR; or rename one.",
        ),
        "MD022": (
            "`{word}` is the trigger word of {artifact}",
            "A file that has that name by chance is not applied with it.",
            "To apply both, give the file itself: --embedding FILE",
        ),
        "FM001": ("tsuika cannot read the format of this file here", "Found: {found}", "Expected: {expected}"),
        "FM002": ("{format} cannot hold this result", "{why}", "{do}"),
        "FM003": (
            "The written file does not match the trained model",
            "{why}",
            "This is a bug: please report it with the log file.",
        ),
        "FM004": ("There is no such file", "Nothing was found under this name.", "Check the path."),
        "FM005": ("This cannot be done with these files", "{why}", "{do}"),
        "FM006": (
            "{file} has copies in place of the text encoder's last block and projection",
            "The base model came without them. They are not used in any computation, but programs look for these tensors.",
        ),
        "FM007": ("Keys that were not understood are left out", "They are: {keys}"),
        "FM008": ("{kind} became a plain LoRA of rank {rank} at most", "Relative error of a layer: {error}."),
        "FM009": (
            "0.18215 (SD1, SD2) is written as the latent scale",
            "The file does not say its own.",
            "For SDXL: --base SDXL-BASE",
        ),
        "FM010": ("{file} was written as well", "Programs read from it that the model is a v-prediction model."),
        "RS001": ("Not enough memory", "{why}", "{do}"),
        "RS002": ("Not enough disk space", "{why}", "Free some space or choose another --out."),
        "RS003": (
            "There is no permission to read or write here",
            "{why}",
            "Choose another place, or change the permissions of this one.",
        ),
        "RS004": (
            "The system could not read or write here",
            "{why}",
            "Check that the disk is connected and the folder is still there, then try again.",
        ),
        "TR001": (
            "Training diverged at step {step}",
            "The loss became NaN or infinite for these images: {pictures}. The last good state (step {kept}) is kept.",
            "Try a third of the learning rate: --set train.learning_rate={rate}",
        ),
        "TR002": (
            "This is not the folder of a training run",
            "It holds no recipe.toml.",
            "Give the folder that you gave to tsuika train as --out.",
        ),
        "TR003": (
            "The new word `{word}` is in no caption",
            "It will learn nothing.",
            "Add it to the captions of its images.",
        ),
        "TR004": (
            "Weight decay has next to no effect here",
            "Learning rate x train.weight_decay x steps is {strength}: over the whole training run the weights shrink by this share.",
            "Leave it at 0, or use regularize.l2, whose strength does not depend on the learning rate.",
        ),
        "TR005": (
            "{count} layers hold numbers too small for {precision} to keep exactly, such as {layer}",
            "",
            "If it matters: --set output.dtype=fp32",
        ),
        "TR006": ("train.ema and train.schedule are not used", "Schedule-free averages the weights by itself."),
        "TR007": ("train.schedule is not used after the warm-up", "Prodigy finds its learning rate by itself."),
        "TR008": (
            "The images are not those that this training run began with",
            "{why}. Which images are held out and when each is used was decided at the start.",
            "Put them back as they were, or start a new training run with: tsuika train",
        ),
        "TR009": (
            "Captions have changed since this training run began: {names}",
            "From here on the new captions are learned, so the result will differ.",
        ),
        "TR011": (
            "A file of this training run is damaged or was changed",
            "{why}",
            "Put it back as it was; or begin anew, with another --out: tsuika train --recipe RUN/recipe.toml --out NEW",
        ),
        "TR012": (
            "The saved state {names} is damaged and is passed over",
            "",
            "The training goes on from step {step}, to the same result.",
        ),
        "TR013": (
            "{count} lines of events.jsonl cannot be read",
            "",
            "The report does without them; the training is not affected.",
        ),
        "TR014": (
            "The training run began in other surroundings",
            "{changes}",
            "It goes on, but its numbers may differ in the last digits.",
        ),
        "TR010": ("`{name}` was closed before its end", "So there is no result."),
        "TR015": (
            "The learning rate and the number of steps are usual ones, not chosen for this base model and these images",
            "The guard stops a training that is too long, but a rate that is too low learns little.",
            "A recipe for them: tsuika advise --images {images} --goal ...; a measured rate: tsuika find-rate",
        ),
        "TR020": (
            "The written files hold the tags of your captions ({tags} different ones)",
            "Programs show them, and whoever gets a file can read them.",
            "To leave them out: --set output.caption_tags=false",
        ),
        "TR021": (
            "The training goes on from {file}: kind, rank, alpha and layers are those of the file",
            "The guard compares with the base model without it; the file as it is counts as step 0, which is given back if no step is better.",
        ),
        "TR022": (
            "The guard measures timesteps {first} to {last}, and only {least} to {most} are trained",
            "So it sees less of what is learned, and may stop early or choose another step.",
            "Look at the previews; to train all steps: --guard off",
        ),
        "TR023": (
            "The logger {name} has failed ({error})",
            "The training goes on without it; everything is in events.jsonl all the same.",
        ),
        "TR024": (
            "The message about the end of the training could not be sent to {place}",
            "{why}",
            "The training and its files are not affected. Check the address: train.notify",
        ),
        "TR034": (
            "Training on a few-step base model ({kind}, as told by: {why}) undoes its distillation",
            "The longer it is trained, the more steps and CFG its images need; losses on held-out images, and so the guard, do not see that.",
            "Train on the model that it was distilled from, and use the result on this one. Else train briefly, and look at the previews.",
        ),
        "TR035": (
            "This is an inpainting base model: it is trained with random masks, a quarter of them over the whole image",
            "Previews and evaluate draw from the prompt alone, under a mask over the whole image.",
        ),
        "TR036": (
            "Another process of this training has ended, and without it the others cannot go on",
            "{why}",
            "What ended it stands above, or in the log of its machine. Go on, with any number of processes: tsuika resume {run}",
        ),
        "TR037": (
            "This base model is trained in fp16, in which its attention is known to overflow",
            "Others report that the loss became NaN after two to three thousand steps.",
            "Where the GPU has it, use bf16: --set train.precision=bf16. Else fp32, or save often: train.checkpoint_every",
        ),
        "TR038": (
            "This training run is over: nothing is left to do, and nothing was changed",
            "Its report is {report}",
            "For another training with its settings: tsuika train --recipe {recipe} --out NEW",
        ),
        "TR031": ("Stopped at step {step}, as was asked", "Everything is saved.", "Go on with: tsuika resume {run}"),
        "TR033": ("The run is not running", "No process is working on it.", "{do}"),
        "GD001": (
            "Stopped at step {step}: the loss became NaN or infinite",
            "The state of step {best} is kept (0 is the untrained base model).",
            "Try a third of the learning rate: --set train.learning_rate={rate}",
        ),
        "GD002": (
            "Stopped at step {step}: the loss of held-out images is now higher than with the untrained base model ({percent})",
            "The state of step {best} is kept (0 is the untrained base model).",
            "Try a third of the learning rate: --set train.learning_rate={rate}",
        ),
        "GD003": (
            "Stopped at step {step}: even the loss of the training images keeps rising",
            "The learning rate is too high. The state of step {best} is kept (0 is the untrained base model).",
            "Try a third of it: --set train.learning_rate={rate}",
        ),
        "GD004": (
            "Stopped at step {step}: nothing has been learned",
            "Neither the training images nor the held-out ones are better than with the untrained base model.",
            "Check the captions, the trigger word and the VAE, or raise the learning rate.",
        ),
        "GD005": (
            "Stopped at step {step}: what was learned does not carry over to held-out images",
            "Loss of training images: {train}; of held-out images: {percent}.",
            "Check that all images show the same thing and that the captions fit; add more varied images, or lower the learning rate.",
        ),
        "GD006": (
            "Stopped at step {step}: no improvement on held-out images since step {best}",
            "Step {best} is the best (loss {gain} against the base model). More training would only memorize the images.",
        ),
        "GD007": (
            "The training images are being memorized (step {step})",
            "They are ahead of the held-out images by {gap_mid} in detail and {gap_high} in layout.",
            "Use the state of step {best}, or an earlier one.",
        ),
        "GD008": (
            "Step {step}: still improving; the loss of held-out images is the lowest so far ({percent} against the base model)",
        ),
        "GD009": (
            "Step {step}: training looks sound, but no image is held out, so overfitting cannot be seen",
            "Loss of training images: {percent} against the base model.",
        ),
        "GD010": ("Step {step}: no improvement on held-out images since step {best}; waiting a little longer",),
        "GD011": ("Step {step}: held-out images are not yet better than with the base model (loss {percent})",),
        "GD012": (
            "{found} different images are too few for a validation that can be trusted",
            "{then}",
            "With 4 or more different images overfitting can be seen; 10 or more are better.",
        ),
        "GD013": ("{held_out} of {found} images are held out to detect overfitting", "They are: {names}.", "{then}"),
        "GD014": (
            "{names} are treated as the same image",
            "Copies, crops and mirrored copies are never split between training and validation.",
        ),
        "GD016": (
            "Cross-validation: {folds} folds of {found} images, one after another",
            "{why}",
            "Fewer folds are quicker: --folds 2; none: --guard off",
        ),
        "GD017": (
            "No step was better on held-out images than the untrained base model",
            "The file holds step {step}, which did the least harm. Do not expect much of it.",
        ),
        "GD020": (
            "Best of the learning rates that were tried: {rate} (loss {gain} after {after} steps)",
            "Estimates: at this rate, held constant, training is at its best near step {best}; over your {run} steps with their schedule a rate of {slower} learns as much.",
            "--set train.learning_rate={slower}; or {rate} and fewer steps",
        ),
        "GD021": (
            "Best of the learning rates that were tried: {rate} (loss {gain} after {after} steps)",
            "None of them was past its best after {steps} steps, so the number of steps that it needs cannot be estimated.",
            "--set train.learning_rate={rate}",
        ),
        "GD022": (
            "No learning rate from {lowest} to {highest} can be recommended",
            "After {steps} steps none of them is better than the untrained model by more than chance.",
            "Try more steps (--steps) or other rates (--rates), and check the captions and the trigger word.",
        ),
        "GD023": (
            "Learning rates {rates} are tried for {steps} steps each",
            "They are judged by {measured} of the {found} images, which are held out here.",
        ),
        "GD024": (
            "Learning rates {rates} are tried for {steps} steps each",
            "{found} different images are too few to hold one out: the rates are judged by images that are trained on, which cannot show overfitting.",
        ),
        "GD025": ("Trial {number} is left out", "{why}"),
        "GD026": (
            "{count} trials are being run by other processes",
            "The result below is without them.",
            "The same command shows it again once they are done.",
        ),
        "GD028": (
            "Best of the learning rates that were tried: {rate} (loss {gain} after {after} steps)",
            "Estimate: at this rate, held constant, training is at its best near step {best}; your {run} steps with their schedule end before that.",
            "--set train.learning_rate={rate}, and more steps",
        ),
        "GD029": (
            "Cross-validation: {folds} folds of {found} images, one after another",
            "{why} Each fold has half of the images and overfits much sooner: the step for all of them is a rough estimate, {times} times theirs.",
            "Other folds: --folds K; none: --guard off",
        ),
        "GD030": (
            "Best of the learning rates that were tried: {rate} (loss {gain} after {after} steps)",
            "It is the highest of them, and was not past its best after {steps} steps: a higher one may be better still.",
            "--set train.learning_rate={rate}; or try higher ones: --rates {higher}",
        ),
        "GD031": (
            "The guard's checks took {took} of the training time, more than guard.overhead ({most})",
            "The training run is short: finding the best step takes at least 8 checks with 4 images.",
            "You need not do anything. A larger batch size or more steps make the share smaller; --guard off measures nothing.",
        ),
        "GD032": (
            "Step {step} was the last; step {best} is the best on held-out images (loss {gain} against the base model)",
        ),
        "GD033": (
            "Step {step} was the last, and held-out images were still improving (loss {percent} against the base model)",
            "",
            "More steps may gain more: --steps {more}",
        ),
        "GD034": (
            "Step {step} was the last, and held-out images are not yet better than with the base model (loss {percent})",
            "Learning was too slow.",
            "Raise the learning rate: --set train.learning_rate={higher}; or the number of steps: --steps {more}",
        ),
        "GD035": (
            "Prompts that have nothing to do with it have changed {share} as much as those with `{trigger}`",
            "So other images change as well; evaluate shows by how much.",
            "{do}",
        ),
        "GD036": (
            "The class word `{word}` alone has changed {share} as much as prompts with `{trigger}`",
            "It was learned along, so a prompt without the trigger word may draw what you trained.",
            "{do}",
        ),
        "GD037": (
            "The class word `{word}` may be the cause: this base model does not know it as a word",
            "Its tokenizer tears it into {pieces} pieces, so what they draw has little to do with your images.",
            "Use a simpler class word that the base model knows: --class-word WORD",
        ),
        "GD038": ("Step 0: the file that the training goes on from (loss {percent} against the base model)",),
        "GD039": (
            "Stopped at step {step}: no improvement on held-out images over the file that the training goes on from",
            "That file is the best (loss {gain} against the base model). More training would only memorize the images.",
        ),
        "GD040": (
            "No step was better on held-out images than {file}, from which the training went on",
            "So the result is that file, unchanged.",
            "Use new or more varied images, or a lower learning rate.",
        ),
        "GD041": (
            "Trial {number} is not counted, as another process has taken it over",
            "For {seconds} seconds no sign of life of this one reached the database.",
        ),
        "GD042": ("Step 0: the new word as it begins (loss {percent} against the base model without it)",),
        "EV001": (
            "This cannot be opened as an image encoder",
            "{why}",
            "Give a CLIP, SigLIP or DINOv2 as a Hugging Face model id or a folder, with weights as .safetensors; e.g. --encoder openai/clip-vit-base-patch32",
        ),
        "EV002": (
            "No encoder was given that understands the images of this base model, so likeness to the training images, adherence to the prompt and drift are not measured",
            "The embedded yardstick works for the embedded base model only. Copies and diversity are measured without an encoder.",
            "Give one as a Hugging Face model id or a folder: --encoder openai/clip-vit-base-patch32 (measures everything) or --encoder facebook/dinov2-small (finer likeness, no adherence).",
        ),
        "EV003": (
            "{encoder} cannot read text, so adherence to the prompt is not measured",
            "It sees images only. Step and strength are then judged by likeness and diversity.",
            "A CLIP or SigLIP measures it: --encoder openai/clip-vit-base-patch32",
        ),
        "EV004": (
            "This training run holds nothing to evaluate",
            "It has not ended yet (there is no report.json), or its results have been moved away.",
            "Finish it first: tsuika resume {where}",
        ),
        "EV005": (
            "The evaluation could not be added to the report",
            "{why}",
            "Its numbers are in evaluation.json, its images in the folder evaluation.",
        ),
        "EV006": (
            "There is no kept step {found}",
            "This training run kept: {kept}.",
            "Choose among them, or keep more when training: --set output.keep_states=9",
        ),
        "EV007": (
            "Some of the training images have changed or are gone",
            "{why}",
            "The evaluation compares with the images that are there now. If they were moved, give their folder with --images DIR.",
        ),
        "GN001": (
            "No font on this machine can show `{missing}`",
            "These characters are spelled out in the image instead.",
            "Install a font that has them, for example Noto Sans CJK (Debian, Ubuntu: fonts-noto-cjk; Fedora: google-noto-sans-cjk-fonts).",
        ),
        "GN002": (
            "Sampler {sampler} cannot start from pure noise",
            "This base model was trained down to zero terminal SNR, so dark and bright images come out flat.",
            "Use another sampler, for example Euler or DDIM.",
        ),
        "GN003": (
            "`{found}` in the prompt is not supported",
            "A tag is written <lora:NAME:0.8>, in the prompt, not in the negative one; others than lora and hypernet are left"
            " out. AND is read as plain text.",
        ),
        "GN004": (
            "Prompt weights are used without restoring the mean",
            "The mean of this text encoder's embeddings is too near to zero to be restored.",
        ),
        "GN005": (
            "{unmatched} of {total} tensors in {artifact} do not match this base model",
            "First of them: {first}",
            "Make sure that the file was made for this kind of base model.",
        ),
        "GN007": (
            "{unread} of {total} tensors in {artifact} are of a kind that tsuika cannot read; they have no effect",
            "First of them: {first}",
            "The rest is used. The base model is not the cause; the program that made the file shows all of it.",
        ),
        "GN008": (
            "This is taken for a few-step base model ({kind}), as told by: {why}",
            "So it is drawn with {steps} steps, CFG {cfg} and the sampler {sampler} where you say nothing else.",
            "If it is none: --steps 25 --cfg 7 (in training --set preview.steps=25 --set preview.cfg=7).",
        ),
        "GN009": (
            "This is an inpainting base model; it is drawn from the prompt alone, under a mask over the whole image",
            "For inpainting use another program: A1111, Forge, ComfyUI and diffusers take this base model and what was trained on it.",
        ),
        "GN006": (
            "{artifact} is not used",
            "{why}.",
            "Move it out of the folders where names are looked up, or rename it.",
        ),
        "GN010": (
            "The image holds values that are NaN or infinite, which would only be black",
            "What was computed is larger than the number type can hold.",
            "Take smaller strengths, weights of words and CFG scale; on a GPU, a VAE that does not overflow (--vae), or bf16.",
        ),
        "NW001": (
            "The Hugging Face Hub could not be reached, or refused access",
            "{why}",
            "Check the connection, the name and the licence; or give a folder or file on this machine.",
        ),
        "NW002": (
            "Nobody is logged in to the Hugging Face Hub",
            "There is no access token on this machine, and without one nothing can be uploaded.",
            "Make a token that may write (https://huggingface.co/settings/tokens), then: hf auth login, or set HF_TOKEN.",
        ),
        "NW003": (
            "The Hugging Face Hub refuses the upload",
            "{why}",
            "Check that the token may write there (hf auth whoami), the name, and the licence's id.",
        ),
        "NW004": (
            "The Hugging Face Hub could not be reached, or did not take the files",
            "{why}",
            "Nothing of it is visible there. Check the connection and try again; --out DIR writes the files without it.",
        ),
        "NW005": (
            "The repository has files of these names already",
            "They are: {names}. Files are not overwritten unless you ask for it.",
            "Name another repository, or add --overwrite.",
        ),
        "NW006": (
            "The repository is public",
            "--private is for a repository that is made; who sees an existing one is not changed.",
            "Make it private in its settings on the hub, or name another repository.",
        ),
        "NW007": (
            "The database of the search could not be reached, or refuses",
            "{why}",
            "Check its address, user and password, and that it runs. What was trained is kept: the same command goes on.",
        ),
        "VA001": (
            "{vae} overflows in {precision}",
            "Its layers reach {largest}, more than {precision} can hold, so programs that decode in half precision show black images.",
            "Run it in {fallback} or fp32 (A1111: --no-half-vae; ComfyUI: --bf16-vae or --fp32-vae).",
        ),
        "VA002": (
            "{vae} gives NaN or infinite values",
            "{broken} of {total} images came out broken, in fp32 too.",
            "The file is damaged: get it again.",
        ),
        "VA003": (
            "{vae} is a VAE for another kind of base model",
            "Its latents do not correspond to those of this base model (correlation {correlation}); images of this base model come out {lost} dB worse than they could. Such a VAE loads without any error: an SDXL VAE on SD1, for example.",
            "Use it with the base model it was made for.",
        ),
        "VA004": (
            "{vae} expects latents {factor} times as large as this base model makes them",
            "Its scale is another one; images of this base model come out {lost} dB worse than they could, and training would see latents of the wrong size. No program shows an error.",
            "Use a VAE made for this base model.",
        ),
        "VA005": (
            "The config of {vae} names the latent scale {found}; this base model uses {expected}",
            "The base model's scale is used here, as in every program.",
            "If colours or contrast look wrong, use a VAE made for this base model.",
        ),
        "VA006": (
            "{vae} washes colours out",
            "Chroma becomes {chroma}% of the originals', the range from dark to light {range}%.",
            "Use another VAE.",
        ),
        "VA007": (
            "{vae} gives black or flat images",
            "Next to nothing of the originals' range from dark to light is left.",
            "Use another VAE, or a higher precision.",
        ),
        "VA008": (
            "{vae} shows seams when it decodes in tiles",
            "With tiles of {tile} px the worst hundredth of the pixels differs by ΔE {difference}.",
            "Decode whole images where memory allows, or use larger tiles with more overlap.",
        ),
        "VA009": (
            "{vae} gives NaN or infinite values in {precision}",
            "It was measured in {fallback} instead.",
            "Run it in {fallback}.",
        ),
        "VA010": (
            "{vae} has another encoder than the base model's own VAE",
            "So latents and training are affected, not only how images look: train with it and draw with it, or do neither.",
        ),
        "VA011": (
            "{found} different images are too few to tell VAEs apart",
            "A confidence interval needs at least {needed}; ten or more are good.",
        ),
        "VA012": (
            "{shown} of {found} images are compared",
            "They are taken evenly from the folder.",
            "For all: --max-pictures {found}",
        ),
        "VA013": (
            "{count} images were cut to sides that are multiples of {multiple} px",
            "VAEs take no others; programs cut or stretch them too.",
        ),
        "VA020": (
            "The tuned decoder is not better than before, so nothing was written",
            "On {proof} held-out images {measure} went from {before} to {after} (change: {low} to {high}).",
            "Give more or other images, another --purpose, or keep the VAE that you have. To have the file anyway: --keep-anyway",
        ),
        "VA021": (
            "{found} different images are too few to tune a VAE",
            "At least {needed} are needed: some are held out to choose the step and others to prove the gain.",
            "Add images; copies and crops of one image count as one.",
        ),
        "VA022": (
            "Tuning diverged at step {step}",
            "The loss became NaN or infinite; nothing was written.",
            "Try a third of the learning rate: --learning-rate {rate}",
        ),
        "VA023": (
            "{measure} became worse: {mean} ({low} to {high})",
            "That is what the gain costs on the held-out images.",
            "Compare the two with: tsuika vae compare",
        ),
        "VA024": (
            "{small} of {found} images are smaller than the crops of {side} px and are not trained on",
            "Otherwise the smallest would decide the size of all crops.",
            "To train on them as well, give a smaller --crop.",
        ),
        "CP001": (
            "This cannot be used as a captioning model",
            "{why}",
            "Give a folder or a Hugging Face model id: BLIP or GIT with weights as safetensors, or a WD tagger, a folder with "
            "model.onnx and selected_tags.csv.",
        ),
        "CP002": (
            "A WD tagger needs the package onnxruntime",
            "It is not installed here ({why}).",
            'pip install "tsuika[caption]", or pip install onnxruntime',
        ),
        "CP003": (
            "The captioning model is not on this machine and could not be downloaded",
            "{why}",
            "Check the name and the connection; or download the files of {name} (of a tagger: model.onnx and "
            "selected_tags.csv; else config.json, the other .json and .txt files and model.safetensors) into one folder, and "
            "give that folder with --model.",
        ),
        "CP004": (
            "The same words are in almost every caption",
            "{phrases}. The trigger word will not learn it apart from these words.",
            "If it belongs to the subject, take it out of the captions (of a tagger: --exclude); else vary it.",
        ),
        "CP005": (
            "The model found nothing to say about {count} images",
            "{names}. They keep the caption that they have, or none.",
            "Lower --threshold of a tagger, or write these captions by hand.",
        ),
        "CP006": (
            "{names}: only for a tagger",
            "This captioning model writes sentences: it has no tags with probabilities.",
            "Leave it out, or give a WD tagger with --model.",
        ),
        "CP007": (
            "The captions of {count} images do not have the trigger word “{trigger}”",
            "{names}. `--mode missing` leaves captions as they are; training puts it in front of them by itself.",
            "To have it in the files: --mode add, which also adds what the model says, or the studio (All captions, Add in front).",
        ),
        "CP008": (
            "Not known to this tagger: {count} of the tags to leave out",
            "{names}: nothing is left out by these words.",
            "Write them as in selected_tags.csv; the most similar tags there: {nearest}.",
        ),
        "CP020": (
            "This cannot be used as a segmentation model",
            "{why}",
            "Give a folder or a Hugging Face model id of a CLIPSeg with weights as safetensors.",
        ),
        "CP021": (
            "The segmentation model is not on this machine and could not be downloaded",
            "{why}",
            "Check the name and the connection; or download the files of {name} (config.json, the other .json and .txt files "
            "and model.safetensors) into one folder, and give that folder with --model.",
        ),
        "CP022": (
            "Nothing was found in {count} images",
            "`{text}` is nowhere in {names}: their masks are empty.",
            "Lower --threshold, or say it in other words (--text).",
        ),
    }.items()
}
