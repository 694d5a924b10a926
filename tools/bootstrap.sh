# Finds a Python that can run SceneBridge and hands over to tools/bootstrap.py.
# Usage: sh tools/bootstrap.sh ROOT run|test [ARGUMENT...]

root=$1
shift

# Prints "3.11.7"; fails where this Python cannot make a virtual environment.
probe='import sys; print("%d.%d.%d" % sys.version_info[:3]); sys.stdout.flush(); import ensurepip, venv'

old=
bare=
for name in python3.13 python3.12 python3.11 python3 python python3.14; do
    # A name may be there and yet not run (a pyenv shim of a version that is not selected).
    version=$("$name" -c "$probe" 2>/dev/null)
    complete=$?
    case $version in
        3.1[1-9].* | 3.[2-9][0-9].*)
            if [ "$complete" -eq 0 ]; then
                exec "$name" -I "$root/tools/bootstrap.py" "$@"
            fi
            bare="$bare $name ($version)" ;;
        ?*) old="$old $name ($version)" ;;
    esac
done

if [ -n "$bare" ]; then
    echo "SceneBridge cannot make its virtual environment with$bare: the modules venv and ensurepip are missing; on Debian or Ubuntu install them with: sudo apt install python3-venv" >&2
elif [ -n "$old" ]; then
    echo "SceneBridge needs Python 3.11 or newer; found only$old. Install a newer Python and run this again." >&2
else
    echo "SceneBridge needs Python 3.11 or newer, and no Python was found. Install Python and run this again." >&2
fi
exit 1
