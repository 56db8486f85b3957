"""The tasks' options."""

from __future__ import annotations

from invoke import Collection

import tasks

# The letters of each task's options in 0.1. Invoke gives them in the order of the function's parameters.
LETTERS = {
    "build": "e=env i=instance s=set",
    "bundle": "e=env f=file s=set",
    "check": "e=env i=instance s=set",
    "clone": "e=env i=instance s=set",
    "debug": "e=env i=instance p=port",
    "doctor": "j=json",
    "down": "a=all e=env i=instance k=keep-volumes y=yes",
    "envs": "j=json",
    "export-volume": "e=env i=instance o=output v=volume",
    "load": "f=file s=set",
    "logs": "c=container e=env f=follow i=instance l=lines",
    "play": "e=env i=instance s=set",
    "push": "e=env r=registry s=set",
    "reload": "e=env i=instance s=set w=watch",
    "render": "e=env i=instance o=output s=set t=target w=with-secrets",
    "secrets": "e=env i=instance n=init r=rotate s=set",
    "shell": "c=container e=env i=instance o=command u=user",
    "slurm": "c=command e=env i=instance u=user",
    "status": "j=json",
    "test-repo": "a=arguments e=env r=repository s=set",
    "token": "a=audience e=env i=instance l=lifetime p=platform s=set u=user x=expired",
    "up": "a=as c=configmap d=dry-run e=env i=instance s=set u=users y=yes",
    "verify": "e=env i=instance s=set t=token-file u=url",
    "volumes": "e=env i=instance s=set",
    "wait": "e=env i=instance s=set t=timeout",
}


def test_options_keep_their_letters() -> None:
    """A new option doesn't take the letter that people and scripts use for another."""
    menu = Collection.from_module(tasks)
    for task, letters in LETTERS.items():
        arguments = menu[task].get_arguments()
        names = [{name.rstrip("_").replace("_", "-") for name in each.names} for each in arguments]
        for pair in letters.split():
            assert any(set(pair.split("=")) <= each for each in names), f"{task}: {pair}"
