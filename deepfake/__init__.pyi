from deepfake.api import Evaluation as Evaluation
from deepfake.api import Predictor as Predictor
from deepfake.api import Reproduction as Reproduction
from deepfake.api import Run as Run
from deepfake.api import Sweep as Sweep
from deepfake.api import SweepError as SweepError
from deepfake.api import datasets as datasets
from deepfake.api import ensemble as ensemble
from deepfake.api import load as load
from deepfake.api import sweep as sweep
from deepfake.api import train as train
from deepfake.errors import UserError as UserError
from deepfake.runs.listing import runs as runs

__version__: str
