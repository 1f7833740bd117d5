package node

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// lastLogin is a record of lastlog(5). The zero value is never.
type lastLogin struct {
	time       time.Time
	line, from string
}

// logLast puts now in place of the account's last login, and gives that. The
// file has a record for each uid, and holes between them.
func (f loginFiles) logLast(uid uint32, now lastLogin) (before lastLogin, err error) {
	if f.layout == 0 {
		return lastLogin{}, nil
	}
	file, err := openRegular(f.lastlog, os.O_RDWR)
	if err != nil {
		if absent(f.lastlog, err) {
			err = nil
		}
		return lastLogin{}, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	record := make([]byte, f.layout.lastlogSize())
	at := int64(uid) * int64(len(record))
	if _, err := file.ReadAt(record, at); err != nil && !errors.Is(err, io.EOF) {
		return lastLogin{}, err
	}
	_, err = file.WriteAt(f.layout.lastlog(now), at)
	return f.layout.parseLastlog(record), err
}

func (l layout) lastlog(last lastLogin) []byte {
	b := make([]byte, 0, l.lastlogSize())
	b = l.appendTime(b, last.time.Unix())
	b = appendText(b, last.line, utLineSize)
	return appendText(b, last.from, utHostSize)
}

// parseLastlog reads a record: lastlogSize bytes.
func (l layout) parseLastlog(b []byte) lastLogin {
	seconds := int64(binary.NativeEndian.Uint32(b)) // of what has 32 bits no sign is left
	if l == 8 {
		seconds = int64(binary.NativeEndian.Uint64(b))
	}
	if seconds == 0 {
		return lastLogin{}
	}
	line, from := b[l:l+utLineSize], b[l+utLineSize:]
	return lastLogin{time: time.Unix(seconds, 0), line: textOf(line), from: textOf(from)}
}

func textOf(field []byte) string {
	text, _, _ := bytes.Cut(field, []byte{0})
	return string(text)
}

// greeting is the line that sshd shows; "" where there was no login. The file
// may be written by others of its group: it is shown as plain text.
func (l lastLogin) greeting(where *time.Location) string {
	if l.time.IsZero() {
		return ""
	}
	text := "Last login: " + l.time.In(where).Format(time.ANSIC)
	if l.from != "" {
		text += fmt.Sprintf(" from %s", plain(l.from))
	}
	return text + "\r\n"
}
