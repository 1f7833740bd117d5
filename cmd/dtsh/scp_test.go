package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"devicetrust/client/clienttest"
)

func TestAServersFileIsTold(t *testing.T) {
	for text, want := range map[string]operand{
		"root@web-1:": {"root", "web-1", "."}, "root@web-1:/etc/x:y": {"root", "web-1", "/etc/x:y"}, "root@web-1:~/a b": {"root", "web-1", "./a b"},
		"root@[::1]:x": {"root", "::1", "x"}, "root@[10.0.0.1:3022]:x": {"root", "10.0.0.1:3022", "x"}, "root@[web-1]:x": {"root", "web-1", "x"},
		"file": {path: "file"}, "./a:b": {path: "./a:b"}, ":x": {path: ":x"}, "dir/a@b:c": {path: "dir/a@b:c"}, "/a:b": {path: "/a:b"}, "a@b": {path: "a@b"},
		"[x": {path: "[x"}, "[a]/b:c": {path: "[a]/b:c"},
	} {
		got, err := parseOperand(text)
		if err != nil || cmp.Diff(want, got, cmp.AllowUnexported(operand{})) != "" {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	if o, err := parseOperand("[web-1]:x"); err != nil || o.host != "web-1" || o.login != ownName() {
		t.Errorf("%+v, %v", o, err)
	}
	for _, text := range []string{"", "@web-1:x", "root@:x", "root@[]:x", "Root@web-1:x", "root@web-1:~bob/x", "a b@web-1:x"} {
		if got, err := parseOperand(text); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

func TestSCPSaysWhatItCannotDo(t *testing.T) {
	c, s := clienttest.Start(t), newSeat(t)
	want(t, s.dtsh("scp", "a", "b"), 2, "", `^ERROR: all of these are on this machine`)
	for _, port := range []string{"0", "70000", "ssh"} {
		want(t, s.dtsh("scp", "-P", port, "a", "root@web-1:"), 2, "", `^ERROR: invalid argument "`+port+`" for "-P, --port" flag: want a port from 1 to 65535\n`)
	}
	want(t, s.dtsh("scp", "root@web-1:a"), 2, "", `^ERROR: `)
	want(t, s.dtsh("scp", "a", "root@web-1:b"), 1, "", `^ERROR: not logged in`)
	s.login(c)
	c.StartNode(t, "web-1", clienttest.HostCert{})
	want(t, s.dtsh("scp", "a", "root@web-2:b"), 1, "", `^ERROR: no node "web-2" is known to you`)
	want(t, s.dtsh("scp", "a", "root@web-1:b"), 1, "", `^ERROR: the node refused its sftp`)
}

func TestProgressIsOneLineForAFile(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(0, 0)
	p := progress{out: &out, now: func() time.Time { return now }}
	for _, done := range []int64{0, 1, 2, 1 << 20, 2 << 20, 3 << 20} {
		p.show("a\x1b[2Jb", done, 3<<20)
		now = now.Add(progressInterval / 2)
	}
	p.show("empty", 0, 0)
	p.end()
	p.end()
	lines := strings.Split(out.String(), "\n")
	if len(lines) != 3 || strings.Count(lines[0], "\r") != 4 || !strings.Contains(lines[0], "100%    3.0 MiB") || !strings.Contains(lines[1], "100%        0 B") ||
		strings.Contains(out.String(), "\x1b") {
		t.Errorf("%q", out.String())
	}
}
