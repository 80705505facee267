"""What a training run depends on."""

from dataclasses import dataclass

from augment import Augmentation
from cot_probe.windows import WindowLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that a run depends on; written beside its weights.

    ``adapted`` is a file of adapter matrices to start from (adapt.py), empty for fresh ones.
    ``begun`` is a checkpoint whose adapter and heads the training goes on from, empty for fresh ones.
    ``lengthen`` is the share of traces that the trace head also sees in long company (lengthen.py).
    ``average`` is the share that a running average of the weights keeps at each step (Polyak and
    Juditsky 1992; 0: none); with one, the averaged weights are what is measured and saved.
    """

    base: str
    seed: int = 0
    epochs: int = 8
    patience: int = 4
    learning_rate: float = 5e-4
    head_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.06
    batch_tokens: int = 2560
    max_tokens: int = 512
    lora_rank: int = 32
    lora_alpha: float = 64.0
    layers: str = "3,6"
    hidden: int = 192
    dropout: float = 0.1
    max_weight: float = 8.0
    kind_weight: float = 0.15
    trace_weight: float = 1.0
    bf16: bool = False
    drop_context: float = 0.3
    cut: float = 0.15
    dilute: float = 0.35
    real_filler: float = 0.6
    mask: float = 0.05
    stretch: int = 120
    adapted: str = ""
    begun: str = ""
    average: float = 0.0
    lengthen: float = 0.0

    @property
    def pooled_layers(self) -> tuple[int, ...]:
        """The hidden states that sentences are pooled from."""
        return tuple(int(layer) for layer in self.layers.split(","))

    @property
    def augmentation(self) -> Augmentation:
        """The probabilities of the changes to a row."""
        return Augmentation(
            drop_context=self.drop_context,
            cut=self.cut,
            dilute=self.dilute,
            real_filler=self.real_filler,
            mask=self.mask,
            stretch=self.stretch,
        )

    @property
    def layout(self) -> WindowLayout:
        """The window sizes."""
        return WindowLayout(max_tokens=self.max_tokens)
