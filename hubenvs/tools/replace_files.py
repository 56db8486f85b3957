"""Program that `reload` runs in a container: replace files, run commands, restore files if one fails.

Uses the standard library only. Standard input is a tar of the files; the argument is JSON with ``delete``
(paths) and ``commands``, which must succeed in order. If a Python file doesn't compile, nothing is replaced.
On failure the files are restored, and the exit status is 1. The commands up to the failed one, without the
first, are run again.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import traceback

Files = dict[str, bytes | None]  # content by path; None: there is no such file


def write(path: str, content: bytes) -> None:
    """Replace ``path`` atomically. Owner and mode stay; a new file gets those of its folder.

    A new program is executable.
    """
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    like = os.stat(path if os.path.exists(path) else folder)
    part = f"{path}.part"
    try:
        with open(part, "wb") as stream:
            stream.write(content)
        os.chown(part, like.st_uid, like.st_gid)
        is_program = content.startswith(b"#!")
        os.chmod(part, like.st_mode & (0o777 if os.path.exists(path) or is_program else 0o666))
        os.replace(part, path)
    except OSError:
        if os.path.exists(part):
            os.unlink(part)
        raise


def replace(files: Files, before: Files) -> None:
    """Write ``files``. What each replaces is put into ``before`` first, so that an error can be undone."""
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
    """Carry out the task in the argument and return the exit status."""
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
