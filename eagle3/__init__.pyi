from eagle3.api import load_config as load_config
from eagle3.api import load_draft as load_draft
from eagle3.api import load_run as load_run
from eagle3.api import load_states as load_states
from eagle3.api import load_tokens as load_tokens
from eagle3.config.configuration import Config as Config
from eagle3.errors import UserError as UserError
from eagle3.run import Run as Run

__version__: str
