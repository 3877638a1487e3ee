"""Whether a model can be used: its texts, streams, parts and steering against the plainest way to get them.

For example:

    python inference/check_model.py --model embedded

Every line is exact, refused with the reason, or wrong; the exit status is 1 where one is wrong. Take float32
for it: in 16 bits a text may differ where two tokens tie.
"""

import runpy
from pathlib import Path

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")

from traitscope.inference.checking.model_check import check_model as find
from traitscope.inference.checking.model_check import describe_feeding
from traitscope.utils.errors import UserError
from traitscope.utils.model.loading import ModelOptions, load_lm
from traitscope.utils.stage.command import command


def check_model(model: ModelOptions) -> None:
    """Print how each ability fared.

    Raises:
        UserError: the model cannot be had or used, or something is wrong.
    """
    lm = load_lm(model)
    findings = find(lm)
    print(f"{lm.identity['architecture']}: {lm.n_layers} layers × {lm.d_model}; {describe_feeding(lm)}")

    for finding in findings:
        print(f"{finding.what:<9} {'' if finding.is_right else 'WRONG: '}{finding.said}")
    wrong = [finding.what for finding in findings if not finding.is_right]
    if wrong:
        raise UserError(
            f"{model.model}: {', '.join(wrong)} are not what they should be; do not trust results with it"
        )


if __name__ == "__main__":
    command(check_model)
