# From lines "home <uid> <user>" of existing homes and one <user>.<project> a line: the users' lines of /etc/passwd.
# Variables: gid, the users' group; free, the lowest uid a user may have.
BEGIN { lowest = free }
sub(/^home /, "") { owner[$2] = $1; if ($1 >= free) free = $1 + 1; next }
/^[ \t]*(#|$)/ { next }
!/^[a-z_][a-z0-9_-]*\.[a-z0-9_-]+$/ { print "not a <user>.<project>: " $0 >"/dev/stderr"; exit 1 }
{
    uid = $0 in owner ? owner[$0] : free++
    if (uid < lowest) { print "the home of " $0 " belongs to uid " uid >"/dev/stderr"; exit 1 }
    split($0, name, ".")
    print $0 ":*:" uid ":" gid "::/home/" name[2] "/" $0 ":/bin/bash"
}
