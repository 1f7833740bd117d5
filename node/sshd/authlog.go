package sshd

import (
	"fmt"
	"strings"
	"syscall"
	"time"
	"unicode"
)

// authLog is where the system's log listens: /dev/log. The zero value is
// nowhere.
type authLog string

// notice of LOG_AUTHPRIV, which is where sshd's own messages are on most
// systems (syslog(3)).
const notice = 10<<3 | 5

// write sends one line, in the form of glibc's syslog(3). A log that is not
// there, or that is not being read, keeps nobody waiting: what it should have
// said is lost.
func (l authLog) write(now time.Time, pid int, text string) {
	if l == "" {
		return
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer func() { _ = syscall.Close(fd) }()
	line := fmt.Sprintf("<%d>%s dtnoded[%d]: %s", notice, now.Format(time.Stamp), pid, text)
	_ = syscall.Sendto(fd, []byte(line[:min(len(line), maxLogLine)]), syscall.MSG_NOSIGNAL|syscall.MSG_DONTWAIT, &syscall.SockaddrUnix{Name: string(l)})
}

// printable is text on one line that does nothing to a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}

// String is no as the log has it.
func (no *refusal) String() string {
	var b strings.Builder
	b.WriteString("refused:")
	for _, part := range []struct{ name, value string }{
		{"user", no.user}, {"serial", number(no.serial)}, {"login", no.login}, {"cause", no.cause}, {"state_age", age(no.age)},
	} {
		if part.value != "" {
			fmt.Fprintf(&b, " %s=%s", part.name, part.value)
		}
	}
	return printable(b.String() + ": " + no.reason)
}

func number(serial uint64) string {
	if serial == 0 {
		return ""
	}
	return fmt.Sprint(serial)
}

func age(d time.Duration) string {
	if d == unread {
		return "unknown"
	}
	return d.Round(time.Second).String()
}
