"""Run inside a container, by its Python's standard library alone: replace files, see that it works, or put them back.

Standard input is a tar of the files, the argument JSON: ``delete`` (paths), and ``commands`` that have to succeed one
after the other. Python files that don't compile replace nothing. Exits with status 1 if the files are as they were
before, having printed why; the commands but the first are then run again if they had been begun.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import traceback

Files = dict[str, bytes | None]  # by path; None: it isn't there


def write(path: str, content: bytes) -> None:
    """Write ``path`` whole or not at all, owned as it was, or as its folder is if it is new."""
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    like = os.stat(path if os.path.exists(path) else folder)
    part = f"{path}.part"
    try:
        with open(part, "wb") as stream:
            stream.write(content)
        os.chown(part, like.st_uid, like.st_gid)
        os.chmod(part, like.st_mode & (0o777 if os.path.exists(path) else 0o666))
        os.replace(part, path)
    except OSError:
        if os.path.exists(part):
            os.unlink(part)
        raise


def replace(files: Files, before: Files) -> None:
    """Make ``files`` what is there; what was goes into ``before`` one by one, in case this doesn't come to its end."""
    for path, content in files.items():
        before[path] = None
        if os.path.isfile(path):
            with open(path, "rb") as stream:
                before[path] = stream.read()
        if content is not None:
            write(path, content)
        elif before[path] is not None:
            os.unlink(path)


def main() -> int:
    """Do what the argument says and return the exit status."""
    task = json.loads(sys.argv[1])
    files: Files = dict.fromkeys(task["delete"])
    with tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read())) as tar:
        for member in tar:
            if stream := tar.extractfile(member):
                files[f"/{member.name}"] = stream.read()
    for path, content in files.items():
        if content and path.endswith(".py"):
            try:
                compile(content, path, "exec")
            except (SyntaxError, ValueError):
                traceback.print_exc(limit=0, file=sys.stdout)
                return 1
    before: Files = {}
    try:
        replace(files, before)
    except OSError as error:  # a full disk, a folder where a file should be
        print(f"{error.filename}: {error.strerror}")
        replace(before, {})
        return 1
    for number, command in enumerate(task["commands"]):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            print(done.stdout)
            replace(before, {})
            for again in task["commands"][1 : number + 1]:
                subprocess.run(again, stdout=subprocess.DEVNULL)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
