package sshd

import (
	"strconv"
	"strings"
	"time"
)

// accepted is a line of sshd's log about somebody who was let in (auth.c,
// auth_log). It tells of a certificate whose it is and its serial, and nothing
// of roles and devices.
type accepted struct {
	// pid is of sshd's process for the connection.
	pid int
	// at is when it was written; the zero time where that is now.
	at    time.Time
	login string
	// certificate: it was by one, of keyID, serial, and an authority with that
	// fingerprint.
	certificate      bool
	keyID, authority string
	serial           uint64
	// trusted: nobody but root can have written it.
	trusted bool
}

// parseAccepted reads what sshd says:
//
//	Accepted publickey for LOGIN from ADDR port N ssh2: TYPE SHA256:… ID KEYID (serial N) CA TYPE SHA256:…
//
// KEYID may hold anything that is no control character (log.c writes those in
// octal); what stands after it is taken from the end.
func parseAccepted(message string) (a accepted, ok bool) {
	rest, ok := strings.CutPrefix(message, "Accepted ")
	if !ok || len(message) > maxAuthLine {
		return a, false
	}
	method, rest, ok := strings.Cut(rest, " for ")
	if !ok || strings.ContainsRune(method, ' ') {
		return a, false
	}
	var about string
	a.login, rest, ok = strings.Cut(rest, " from ")
	if !ok || a.login == "" || strings.ContainsRune(a.login, ' ') {
		return a, false
	}
	// Without a key there is nothing after ssh2.
	_, about, hasKey := strings.Cut(rest, " ssh2: ")
	if method != "publickey" || !hasKey {
		return a, method != "publickey"
	}
	kind, about, ok := strings.Cut(about, " ")
	if !ok {
		return a, false
	}
	if !strings.HasSuffix(kind, "-CERT") {
		return a, true
	}
	a.certificate = true
	_, about, ok = strings.Cut(about, " ID ")
	from := strings.LastIndex(about, " (serial ")
	if !ok || from < 0 {
		return a, false
	}
	a.keyID, about = about[:from], about[from+len(" (serial "):]
	digits, about, ok := strings.Cut(about, ") CA ")
	if !ok {
		return a, false
	}
	var err error
	if a.serial, err = strconv.ParseUint(digits, 10, 64); err != nil {
		return a, false
	}
	_, a.authority, ok = strings.Cut(about, " ")
	a.authority, _, _ = strings.Cut(a.authority, " ")
	return a, ok && strings.HasPrefix(a.authority, "SHA256:")
}

// parseSyslog reads a line as syslogd writes it: the time (RFC 3339, or the old
// form without a year, which is this machine's), the host, the program with its
// process, the message.
func parseSyslog(line string, now time.Time) (a accepted, ok bool) {
	if len(line) > maxAuthLine {
		return a, false
	}
	at, rest, ok := syslogTime(line, now)
	if !ok {
		return a, false
	}
	_, rest, ok = strings.Cut(rest, " ") // the host
	tag, message, ok2 := strings.Cut(rest, "]: ")
	program, digits, ok3 := strings.Cut(tag, "[")
	if !ok || !ok2 || !ok3 || program != "sshd" && program != "sshd-session" {
		return a, false
	}
	pid, err := strconv.Atoi(digits)
	if err != nil || pid <= 0 {
		return a, false
	}
	if a, ok = parseAccepted(strings.TrimRight(message, "\r\n")); !ok {
		return a, false
	}
	a.pid, a.at = pid, at
	return a, true
}

func syslogTime(line string, now time.Time) (at time.Time, rest string, ok bool) {
	if stamp, rest, ok := strings.Cut(line, " "); ok {
		if at, err := time.Parse(time.RFC3339Nano, stamp); err == nil {
			return at, rest, true
		}
	}
	const old = time.Stamp // "Jan _2 15:04:05"
	if len(line) <= len(old) || line[len(old)] != ' ' {
		return at, "", false
	}
	at, err := time.ParseInLocation(old, line[:len(old)], now.Location())
	if err != nil {
		return at, "", false
	}
	at = at.AddDate(now.Year(), 0, 0) // it is of the year 0
	if at.After(now.Add(24 * time.Hour)) {
		at = at.AddDate(-1, 0, 0) // of last December
	}
	return at, line[len(old)+1:], true
}
