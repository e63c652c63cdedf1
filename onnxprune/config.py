"""Every option of a run, checked; the command line, `compress` and `--config FILE` all make one of these."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from onnxprune.checking import checked, load_mapping, named_shape, number_of_bytes
from onnxprune.named import is_named

Align = Literal["auto"] | int
LOSSES = ("distill", "ce", "mse")
TUNING = "Fine-tuning"
RANKS = "Low rank"
STORED = ("pq", "bin")
"""What `--fc` may ask for that shrinks the file alone."""
BUDGETS = ("macs", "params", "speedup", "ratio")


def option(default: Any, panel: str, text: str, metavar: str = "", **limits: Any) -> Any:
    """A field that is an option of the command line too: where it stands in `--help`, and what that says of it."""
    return Field(default, description=text, json_schema_extra={"panel": panel, "metavar": metavar}, **limits)


def panel(field: Any) -> str:
    """Where a field stands in `--help`."""
    return str(field.json_schema_extra["panel"])


class Config(BaseModel):
    """The options of a run. Shares lie in (0, 1]; at most one of `macs`, `params`, `speedup`, `ratio` is given.

    Lists of numbers may be written as text ("0.5,0.5,0.5"), `input_shape` as "name=1,3,224,224", `ratios` as a path.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    method: str = option(
        "obs",
        "Method",
        "How channels are chosen: random, magnitude, nisp, taylor, fisher, hessian, l0, thinet, lasso or obs; none: no "
        "channel goes.",
        "NAME",
    )
    rebuild: Literal["lsq", "scale", "none"] = option(
        "lsq", "Method", "Solve the remaining weights again: exact refit, one factor a channel, or not at all."
    )
    norm: Literal["l1", "l2"] = option("l1", "Method", "Norm of the magnitude method.")
    forward: bool = option(False, "Method", "Let thinet add channels instead of removing them.")
    ablation: bool = option(
        False,
        "Method",
        "Let fisher mask one channel after the other instead of using gradients: no torch, more passes.",
    )
    fisher_cost: Literal["macs", "params", "memory", "time"] | None = option(
        None,
        "Method",
        "Widths for fisher: the channel whose damage is least for each multiply–add, parameter, element of an "
        "activation or measured millisecond that goes with it, one after the other. If not given: as --allocate says.",
    )
    head: Literal["gap"] | None = option(
        None,
        "Method",
        "gap: one layer on the mean of each channel, solved by least squares, takes the place of a fully connected "
        "tail before anything is pruned.",
        "gap",
    )
    memory: str = option(
        "4GB", "Method", "What the sums of all layers may take; layers too wide for it are judged by variances alone."
    )
    frl: str | None = option(
        None,
        "Method",
        "Layer whose responses nisp ranks; else what the last layer of each output reads.",
        "NODE",
    )
    sampler: bool | None = option(
        None,
        "Method",
        "Sample input channels for one layer alone, by a Gather: for the first layer of each branch, or for none. "
        "If not given: for wide layers whose input cannot lose any.",
    )
    fc: Literal["lrd", "response", "as", "ger", "pq", "bin"] | None = option(
        None,
        RANKS,
        "Let fully connected layers become products of two: by singular values, by least squares of their outputs, the "
        "same behind the activation, or trained together toward the original's answers (needs torch). Or shrink the "
        "file alone: pq stores a byte for each --segment, bin a bit for each weight.",
        "lrd|response|as|ger|pq|bin",
    )
    segment: int = option(4, RANKS, "Weights that pq stores in one byte: 1, 2, 4, 8.", ge=1)
    conv: Literal["channel", "spatial-svd", "auto"] | None = option(
        None,
        RANKS,
        "Let convolutions become two: to fewer maps, and from these to the outputs, 1×1; or one along either side, "
        "k×1 and 1×k; auto: what costs least.",
        "channel|spatial-svd|auto",
    )
    rank: int | None = option(None, RANKS, "The rank of every such layer, where that saves.", ge=1)
    energy: float | None = option(
        None, RANKS, "Or the least rank that keeps this share of the variance of the layer's output.", gt=0, lt=1
    )
    init: Literal["as", "svd"] = option("as", RANKS, "What ger starts from.", "as|svd")
    ger_epochs: int | None = option(
        None, RANKS, "How long ger trains at each rate; 20 if not given, more with few inputs.", "EPOCHS", ge=1
    )
    macs: float | None = option(
        None,
        "Budget",
        "Share of the multiply–adds that stays; 0.5 if no budget is given, 0.75 without data.",
        gt=0,
        le=1,
    )
    params: float | None = option(None, "Budget", "Share of the parameters that stays.", gt=0, le=1)
    speedup: float | None = option(None, "Budget", "How many times fewer multiply–adds.", "TIMES", ge=1)
    ratio: float | None = option(None, "Budget", "Share of the channels removed from every group.", ge=0, lt=1)
    ratios: dict[str, float] = option({}, "Budget", "YAML or TOML file: glob → share removed there.", "FILE")
    allocate: Literal["uniform", "global"] = option(
        "global", "Budget", "The same share everywhere, or more where it does less damage."
    )
    align: Align = option("auto", "Budget", "Widths are multiples of this; auto: of the runtime's block.", "auto|N")
    keep: tuple[str, ...] = option(
        (), "Budget", "Glob of nodes or tensors that stay bit-identical; repeatable.", "GLOB"
    )
    only: tuple[str, ...] = option((), "Budget", "Glob of nodes or tensors: prune nothing else; repeatable.", "GLOB")
    open: tuple[Literal["normalised"], ...] = option(
        (),
        "Budget",
        "Let channels go that are closed by default: the axes that norms and means run over.",
        "normalised",
    )
    max_drop: float | None = option(None, "Budget", "Most that --eval or --metric may drop (0.01: one point).", ge=0)
    samples: int | None = option(None, "Data", "Calibration inputs to solve on; 512 if not given.", ge=1)
    batch_size: int = option(32, "Data", "Inputs run at once.", ge=1)
    seed: int = option(0, "Data", "Seed of everything drawn.", ge=0)
    input_shape: dict[str, tuple[int, ...]] = option(
        {}, "Data", "Shape of an input with dynamic dimensions; repeatable.", "NAME=1,3,224,224"
    )
    image_size: tuple[int, int] | None = option(None, "Data", "Height and width of image files.", "H,W")
    mean: tuple[float, ...] | None = option(None, "Data", "Subtracted from images in 0..1, by channel.", "M,M,M")
    std: tuple[float, ...] | None = option(None, "Data", "Images are divided by this, by channel.", "S,S,S")
    layout: Literal["nchw", "nhwc"] | None = option(None, "Data", "Layout of image inputs.")
    channel_order: Literal["rgb", "bgr"] = option("rgb", "Data", "Channel order of image inputs.")
    finetune: int | None = option(
        None, TUNING, "Train the pruned model for so many epochs; needs torch.", "EPOCHS", ge=1
    )
    rounds: int = option(
        1,
        TUNING,
        "Go down to the budget in so many cuts, by the same factor in each, with a short fine-tune between them; the "
        "last one is that of --finetune.",
        ge=1,
    )
    finetune_per_layer: bool = option(
        False, TUNING, "Cut one group after the other, front to back, with a short fine-tune between them."
    )
    round_epochs: float | None = option(
        None,
        TUNING,
        "Length of the short fine-tunes; 1 epoch in rounds, a quarter of one per layer, if not given.",
        "EPOCHS",
        gt=0,
    )
    loss: str = option(
        "distill",
        TUNING,
        "distill: the original's answers, no labels; ce, mse: labels (mse: else the answers); or your own function.",
        "distill|ce|mse|MODULE:FUNCTION",
    )
    temperature: float = option(20.0, TUNING, "Softens classes in distillation.", "NUMBER", gt=0)
    match_features: bool = option(False, TUNING, "Match what layers read as well, on the channels that stay.")
    train_samples: int | None = option(None, TUNING, "Training inputs; all if not given.", ge=1)
    train_batch: int = option(64, TUNING, "Inputs a step, of each process.", ge=1)
    optimizer: Literal["adamw", "sgd"] = option("adamw", TUNING, "sgd has Nesterov's momentum of 0.9.")
    lr: float | None = option(
        None,
        TUNING,
        "Largest learning rate; if not given 0.001 for adamw, 0.005 for sgd, less after an epoch that undoes much.",
        "NUMBER",
        gt=0,
    )
    warmup: float = option(0.1, TUNING, "Share of the steps in which the rate rises, to fall as a cosine.", ge=0, lt=1)
    weight_decay: float = option(0.01, TUNING, "Of matrices and kernels, not of vectors.", "NUMBER", ge=0)
    clip: float = option(1.0, TUNING, "Largest norm of a step's gradient; 0: any.", "NUMBER", ge=0)
    ema: float = option(0.98, TUNING, "Decay of the average of weights; 0: no average.", ge=0, lt=1)
    augment: tuple[Literal["flip", "crop"], ...] = option(
        (), TUNING, "Mirror images, move them by up to an eighth, or both.", "flip,crop"
    )
    autocast: bool = option(False, TUNING, "Compute steps in bfloat16 where torch deems it safe.")
    reinit: bool = option(False, TUNING, "Start from random weights: the baseline of training from scratch.")
    validation: float = option(
        0.0625, TUNING, "Share of the training inputs, 512 at most, that only judge which epoch is kept.", ge=0, le=0.5
    )
    patience: int | None = option(None, TUNING, "Stop after so many epochs without a gain.", "EPOCHS", ge=1)
    threads: int | None = option(
        None, "Measuring", "Threads of the timed sessions; the runtime's choice if not given.", ge=1
    )
    providers: tuple[str, ...] = option(
        (), "Measuring", "onnxruntime provider of the timed sessions; repeatable.", "NAME"
    )
    measure: bool = option(True, "Measuring", "Measure fidelity and latency at the end.")

    @property
    def fc_rank(self) -> str | None:
        """`fc`, where it asks for products."""
        return None if self.fc in STORED else self.fc

    @property
    def stores_only(self) -> bool:
        """Whether weights are to be stored in fewer bytes, and nothing else is to happen."""
        return self.method == "none" and self.fc in STORED and self.conv is None

    @property
    def memory_bytes(self) -> int:
        """`memory` as a number."""
        return number_of_bytes(self.memory)

    @field_validator("memory", mode="before")
    @classmethod
    def _memory(cls, value: Any) -> str:
        number_of_bytes(str(value))
        return str(value)

    @field_validator("mean", "std", "image_size", mode="before")
    @classmethod
    def _numbers(cls, value: Any, info: Any) -> Any:
        parts = value.replace("x", ",").split(",") if isinstance(value, str) else value
        if info.field_name == "image_size" and (
            isinstance(parts, int) or (isinstance(parts, list) and len(parts) == 1)
        ):
            return (parts, parts) if isinstance(parts, int) else parts * 2
        return (parts,) if isinstance(parts, int | float) else parts

    @field_validator("input_shape", mode="before")
    @classmethod
    def _shapes(cls, value: Any) -> Any:
        texts = [value] if isinstance(value, str) else value
        return dict(named_shape(text) for text in texts) if isinstance(texts, list | tuple) else texts

    @field_validator("ratios", mode="before")
    @classmethod
    def _ratios(cls, value: Any) -> Any:
        return load_mapping(value) if isinstance(value, str | Path) else value

    @field_validator("keep", "only", "open", "providers", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("augment", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("loss")
    @classmethod
    def _loss(cls, value: str) -> str:
        if value not in LOSSES and not is_named(value):
            raise ValueError(f"should be {', '.join(LOSSES)} or module:function")
        return value

    @field_validator("align", mode="before")
    @classmethod
    def _align(cls, value: Any) -> Any:
        number = int(value) if isinstance(value, str) and value.isdecimal() else value
        if number != "auto" and (not isinstance(number, int) or number < 1):
            raise ValueError("should be auto or a whole number from 1")
        return number

    @model_validator(mode="after")
    def _one_budget(self) -> "Config":
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one budget, not {' and '.join('--' + name for name in given)}")
        for pattern, share in self.ratios.items():
            if not 0 <= share < 1:
                raise ValueError(f"ratios: {pattern!r} has {share}; the share of channels to remove lies in [0, 1)")
        return self

    @model_validator(mode="after")
    def _joint(self) -> "Config":
        asked = "--init" if self.init != "as" else "--ger-epochs" if self.ger_epochs is not None else ""
        if asked and self.fc != "ger":
            raise ValueError(f"{asked} is about the joint training of factors: give --fc ger as well")
        return self

    @model_validator(mode="after")
    def _one_schedule(self) -> "Config":
        asked = "--finetune-per-layer" if self.finetune_per_layer else "--rounds" if self.rounds > 1 else ""
        if self.finetune_per_layer and self.rounds > 1:
            raise ValueError("give --rounds or --finetune-per-layer, not both")
        if asked and self.finetune is None:
            raise ValueError(f"{asked} needs to know how long the last fine-tune is: --finetune EPOCHS")
        if asked and self.reinit:
            raise ValueError(f"--reinit would throw away what is learned between cuts: leave {asked} out")
        if self.round_epochs is not None and not asked:
            raise ValueError("--round-epochs needs --rounds or --finetune-per-layer")
        return self


def make_config(**options: Any) -> Config:
    """Check options and name each that is wrong in one line.

    Raises BadInput.
    """
    return checked(Config, options)
