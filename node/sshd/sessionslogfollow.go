package sshd

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// logSource is where sshd's log is read from.
type logSource struct {
	// path of a file of syslogd's; "" is the journal.
	path string
	// journalctl is the program.
	journalctl string
}

// systemLogs are where syslogd puts the log of sshd: Debian's and Red Hat's.
var systemLogs = []string{"/var/log/auth.log", "/var/log/secure"}

// findLog gives what --auth-log says, or else the journal where systemd runs
// (sd_booted(3)), or a file of syslogd's; false where there is none.
func findLog(given string) (logSource, bool) {
	if given != "" {
		return logSource{path: given}, true
	}
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		if program, err := exec.LookPath("journalctl"); err == nil {
			return logSource{journalctl: program}, true
		}
	}
	for _, path := range systemLogs {
		if _, err := os.Stat(path); err == nil {
			return logSource{path: path}, true
		}
	}
	return logSource{}, false
}

func (s logSource) String() string {
	if s.path == "" {
		return "the journal"
	}
	return s.path
}

// follow gives take what the log says of people who were let in, from a while
// ago on, until ctx ends or the log cannot be read.
func (s logSource) follow(ctx context.Context, now func() time.Time, take func(accepted)) error {
	if s.path == "" {
		return s.followJournal(ctx, take)
	}
	return s.followFile(ctx, now, take)
}

// followFile goes on with a new file when the old one is moved away, and from
// its beginning when it is cut off.
func (s logSource) followFile(ctx context.Context, now func() time.Time, take func(accepted)) error {
	tick := time.NewTicker(logPoll)
	defer tick.Stop()
	f, err := os.OpenFile(s.path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer func() { f.Close() }()
	at := int64(0)
	if info, err := f.Stat(); err != nil {
		return err
	} else if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no regular file", s.path)
	} else if info.Size() > maxLogRead {
		at = info.Size() - maxLogRead // in the middle of a line, which is none then
	}
	for {
		if at, err = readLines(f, at, func(line []byte) {
			if a, ok := parseSyslog(string(line), now()); ok {
				take(a)
			}
		}); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		next, err := os.OpenFile(s.path, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			continue // being rotated
		}
		if at, err = sameFile(f, next, at); errors.Is(err, errRotated) {
			f.Close()
			f, at = next, 0
		} else {
			next.Close()
		}
	}
}

var errRotated = errors.New("it is another file")

// sameFile is errRotated where path is another file than before; at is from
// where to read on.
func sameFile(was, is *os.File, at int64) (int64, error) {
	before, err := was.Stat()
	if err != nil {
		return at, err
	}
	after, err := is.Stat()
	if err != nil {
		return at, err
	}
	// The new one is written to once the old one is not.
	if !os.SameFile(before, after) && after.Size() > 0 && after.Mode().IsRegular() {
		return at, errRotated
	}
	if before.Size() < at { // cut off
		return 0, nil
	}
	return at, nil
}

// readLines gives take each whole line from at on, and where the next begins.
// A line that is too long is left out.
func readLines(f io.ReaderAt, at int64, take func([]byte)) (int64, error) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := f.ReadAt(buffer, at)
		data := buffer[:n]
		end := bytes.LastIndexByte(data, '\n')
		if end < 0 && n == len(buffer) {
			at += int64(n)
			continue
		}
		for line := range bytes.Lines(data[:end+1]) {
			take(line[:len(line)-1])
		}
		at += int64(end + 1)
		if errors.Is(err, io.EOF) {
			return at, nil
		}
		if err != nil {
			return at, err
		}
	}
}

// followJournal believes the fields that journald itself adds
// (systemd.journal-fields(7)), and the lines of root's processes only.
func (s logSource) followJournal(ctx context.Context, take func(accepted)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.journalctl, "--output=json", "--follow", "--boot", "--lines="+strconv.Itoa(maxHints),
		"_COMM=sshd", "_COMM=sshd-session")
	cmd.WaitDelay = time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 8*maxAuthLine) // each has a dozen fields
	for lines.Scan() {
		if a, ok := parseJournal(lines.Bytes()); ok {
			take(a)
		}
	}
	cancel()
	err = cmd.Wait()
	if lines.Err() != nil {
		return lines.Err()
	}
	return fmt.Errorf("journalctl ended: %w", err)
}

type journalLine struct {
	PID     string          `json:"_PID"`
	UID     string          `json:"_UID"`
	Micros  string          `json:"__REALTIME_TIMESTAMP"`
	Message json.RawMessage `json:"MESSAGE"` // what is not UTF-8 is a list of numbers
}

func parseJournal(line []byte) (a accepted, ok bool) {
	var l journalLine
	var message string
	if json.Unmarshal(line, &l) != nil || l.UID != "0" || json.Unmarshal(l.Message, &message) != nil {
		return a, false
	}
	pid, err1 := strconv.Atoi(l.PID)
	micros, err2 := strconv.ParseInt(l.Micros, 10, 64)
	if err1 != nil || err2 != nil || pid <= 0 {
		return a, false
	}
	if a, ok = parseAccepted(message); !ok {
		return a, false
	}
	a.pid, a.at, a.trusted = pid, time.UnixMicro(micros), true
	return a, true
}
