"""Decides with which CRF masks are refined, from the flags and the model's crf.json."""

from __future__ import annotations

from pipelines.masks.options import Views
from pipelines.segment.options import Options
from trainer.formats.options import CrfOptions
from trainer.formats.tuning import how_to_make, load, path_of
from trainer.options import InputError
from trainer.terminal import printable

DEFAULT_NOTE = (
    "CRF: default parameters, which suit one model and harm another; `deeplab tune-crf` finds those that suit this one"
)


def crf_in_force(options: Options, model_digest: str) -> tuple[CrfOptions | None, str]:
    """The CRF's parameters: from flags, else from crf.json, else the defaults.

    Args:
      model_digest: digest of the model's weights.

    Returns:
      The parameters, None for no CRF; and a note for the user if the user did not choose them, else "".

    Raises:
      InputError: --crf auto without a crf.json, or a crf.json that is damaged or was made with other weights.
    """
    if options.crf == "off":
        return None, ""
    tuning, path = load(options.model, model_digest), path_of(options.model)
    if tuning is None:
        if options.crf == "auto":
            raise InputError(f"--crf auto: {how_to_make(options.model)}, or give --crf on or off")
        crf = options.crf_options(CrfOptions())
        return crf, DEFAULT_NOTE if crf == CrfOptions() else ""
    if tuning.options is None and options.crf == "auto":
        ignored = ", ".join(options.crf_flags)
        without = f", so without effect: {ignored}; --crf on uses them" if ignored else ""
        return None, f"no CRF: {path} advises against it{without}"
    crf = options.crf_options(tuning.options or CrfOptions())
    note = printable(f"CRF: {crf.words(list(tuning.per_class))}")
    tuned = Views(tuning.scales, tuning.flip)
    if tuned != options.views:
        note = (
            f"warning: {path} was found {f'with {tuned.flags}' if tuned.flags else 'without --scales or --flip'}, and "
            f"what the CRF gains otherwise is not known; run `deeplab tune-crf` with the flags of this command\n{note}"
        )
    if tuning.options is None:
        note = f"warning: {path} advises against the CRF, whose gain is not certain; --crf auto omits it\n{note}"
    return crf, note
