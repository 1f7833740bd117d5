package node

import "strings"

// parseSCP tells whether line is exactly what OpenSSH's scp asks for with its
// old protocol (scp.c, toremote and tolocal: "scp [-v] [-r] [-p] [-d] -t|-f
// [--] PATH"), and what that does. The path is as it was written: a shell
// expands it.
func parseSCP(line string) (action, path string, ok bool) {
	rest, ok := strings.CutPrefix(line, "scp ")
	for ok {
		var word string
		word, rest, ok = strings.Cut(rest, " ")
		switch {
		case !ok:
			return "", "", false
		case word == "-v" || word == "-r" || word == "-p" || word == "-d":
		case word == "-t" || word == "-f":
			path = strings.TrimPrefix(rest, "-- ")
			// With any of these the shell would do more than to run scp.
			if path == "" || path[0] == '-' || strings.ContainsAny(path, ";|&<>`$()\n") {
				return "", "", false
			}
			if word == "-t" {
				return "upload", path, true
			}
			return "download", path, true
		default:
			return "", "", false
		}
	}
	return "", "", false
}
