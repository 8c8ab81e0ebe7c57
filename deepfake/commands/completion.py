"""``deepfake completion SHELL``: what a shell needs to complete verbs, flags, runs, config keys and their choices.

It is evaluated once, so that a TAB starts no Python: runs are completed from the folders they lie in.
"""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from deepfake.commands import VERBS, add_arguments_of
from deepfake.compat import hydra_parser
from deepfake.config import known_keys
from deepfake.installation import CONF, SWEEPS, project_folder

EXAMPLES = (
    ('eval "$(deepfake completion bash)"', "in this shell; as a line of ~/.bashrc, in every one (zsh: ~/.zshrc)"),
    ("deepfake completion fish > ~/.config/fish/completions/deepfake.fish", "in every fish"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which shell."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="whose script is printed")


def main(arguments: argparse.Namespace) -> int:
    """Print the script."""
    print(script(arguments.shell))
    return 0


def script(shell: str) -> str:
    """What a shell is to evaluate.

    Args:
        shell: ``bash``, ``zsh`` or ``fish``.
    """
    import shtab

    functions, last = {"bash": (_bash(), _BASH_LAST), "zsh": (_zsh(), ""), "fish": (_fish(), "")}[shell]
    return shtab.complete(_all_verbs(), shell, preamble=functions) + last


class _Completing(argparse.ArgumentParser):
    """A parser whose arguments are completed."""

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        return _completed(super().add_argument(*names, **settings))


def _completed(action: argparse.Action) -> argparse.Action:
    """An argument with what completes it, which its name tells."""
    import shtab

    name = action.metavar if isinstance(action.metavar, str) else action.dest
    how: object = {"PATH": shtab.FILE, "FILE": shtab.FILE, "FOLDER": shtab.DIRECTORY, "root": shtab.DIRECTORY}.get(name)
    if name == "RUN" or "key=value" in name or action.dest == "overrides":
        function = "_deepfake_runs" if name == "RUN" else "_deepfake_keys"
        function = "_deepfake_sweeps" if name.startswith("SWEEP") else function
        how = {"bash": function, "zsh": function, "fish": f"({function})"}
    if how is not None:
        action.complete = how  # type: ignore[attr-defined]
    return action


def _all_verbs() -> argparse.ArgumentParser:
    parser = _Completing(prog="deepfake")
    verbs = parser.add_subparsers(parser_class=_Completing)
    for verb, text in VERBS.items():
        if verb != "train":
            add_arguments_of(verb, verbs.add_parser(verb, help=text))
            continue
        hydra: Any = hydra_parser()
        for action in hydra._actions:
            # One of Hydra's is made when it is shown.
            action.help = _completed(action).help and str(action.help)
        verbs.add_parser(verb, help=text, parents=[hydra], add_help=False)
    return parser


def _choices() -> dict[str, str]:
    """The members of each config group, by its key, in one line each."""
    groups = [path for root in (CONF, SWEEPS) for path in sorted(root.iterdir()) if path.is_dir()]
    members = {
        group.name: sorted(file.stem for file in group.glob("*.yaml") if not file.stem.startswith("_"))
        for group in groups
    }
    return {name: " ".join(found) for name, found in members.items() if found}


def _keys(*, groups: bool = True) -> str:
    """The config's keys in one line, with those of its groups or without."""
    return " ".join(sorted({*known_keys(), *_choices()} - ({} if groups else _choices()).keys()))


def _sweep_words() -> str:
    """What can be said to a sweep, in one line."""
    from deepfake.runs.sweep_control import COMMANDS

    return " ".join(COMMANDS)


def _outputs() -> str:
    """Where runs lie, as a word of a shell."""
    return shlex.quote(str(project_folder() / "outputs"))


def _outputs_of_bash() -> str:
    return f"local outputs=${{DEEPFAKE_OUTPUTS:-outputs}}; [[ -d $outputs ]] || outputs={_outputs()}"


def _bash() -> str:
    cases = "\n".join(f'    {key}) compgen -P "$before" -W "{names}" -- "$last";;' for key, names in _choices().items())
    outputs = _outputs_of_bash()
    return f"""\
_deepfake_keys() {{
  local word=$1 key= before last
  # Bash takes = for a word of its own.
  if [[ $word == = ]]; then key=${{COMP_WORDS[COMP_CWORD-1]}} word=
  elif [[ ${{COMP_WORDS[COMP_CWORD-1]-}} == = ]]; then key=${{COMP_WORDS[COMP_CWORD-2]}}; fi
  last=${{word##*,}} before=${{word%"${{word##*,}}"}}
  case $key in
    "") compgen -S = -W "{_keys()}" -- "$word";;
{cases}
  esac
}}
_deepfake_runs() {{
  {outputs}
  local folder
  for folder in "$outputs"/runs/*/ "$outputs"/sweeps/*/*/; do
    [[ -f ${{folder}}resolved.yaml ]] && compgen -W "${{folder%/}}" -- "$1"
  done
}}
_deepfake_sweeps() {{
  {outputs}
  local folder
  if [[ $COMP_CWORD == 2 ]]; then
    for folder in "$outputs"/sweeps/*/; do
      [[ -d $folder ]] && folder=${{folder%/}} && compgen -W "${{folder##*/}}" -- "$1"
    done
  elif [[ $COMP_CWORD == 3 ]]; then compgen -W "{_sweep_words()}" -- "$1"
  else _deepfake_keys "$1"; fi
}}"""


#: No blank after a key, and files where nothing of ours fits.
_BASH_LAST = """
_deepfake_complete() {
  _shtab_deepfake "$@"
  [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
  return 0
}
complete -o bashdefault -o default -F _deepfake_complete deepfake
"""


def _zsh() -> str:
    cases = "\n".join(f"      {key}) compadd -- {names};;" for key, names in _choices().items())
    outputs = _outputs_of_bash()  # zsh reads it too
    return f"""\
_deepfake_keys() {{
  if compset -P '*='; then
    local key=${{IPREFIX%=}}
    compset -P '*,'
    case $key in
{cases}
      *) _files;;
    esac
  else
    compadd -q -S = -- {_keys()}
  fi
}}
_deepfake_runs() {{
  {outputs}
  local -a files=("$outputs"/runs/*/resolved.yaml(N) "$outputs"/sweeps/*/*/resolved.yaml(N))
  compadd -- ${{files:h}}
}}
_deepfake_sweeps() {{
  {outputs}
  local -a folders=("$outputs"/sweeps/*(/N))
  local -a typed=(${{words[1,CURRENT-1]:#deepfake}})
  typed=(${{typed:#sweep}})
  case ${{#typed}} in
    0) compadd -- ${{folders:t}};;
    1) compadd -- {_sweep_words()};;
    *) _deepfake_keys;;
  esac
}}"""


def _fish() -> str:
    chosen = " ".join(f"{key}={name}" for key, names in _choices().items() for name in names.split())
    outputs = "set -l outputs outputs; set -q DEEPFAKE_OUTPUTS; and set outputs $DEEPFAKE_OUTPUTS"
    outputs += f"; test -d $outputs; or set outputs {_outputs()}"
    return f"""\
function _deepfake_keys
  # Several values, parted by commas, are completed one by one.
  set -l parts (string match -rg '^(([^=]+=).*,)[^,]*$' -- (commandline -ct))
  for choice in {chosen}
    if set -q parts[2]
      string match -q -- "$parts[2]*" $choice; and string replace -- $parts[2] $parts[1] $choice
    else
      echo $choice
    end
  end
  set -q parts[2]; or printf '%s=\\n' {_keys(groups=False)}
end
function _deepfake_runs
  {outputs}
  for file in $outputs/runs/*/resolved.yaml $outputs/sweeps/*/*/resolved.yaml
    dirname $file
  end
end
function _deepfake_sweeps
  {outputs}
  switch (count (commandline -opc))
    case 2
      for folder in $outputs/sweeps/*/
        path basename $folder
      end
    case 3
      printf '%s\\n' {_sweep_words()}
    case '*'
      _deepfake_keys
  end
end"""
