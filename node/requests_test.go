package node

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

type rawPTY struct {
	Term                         string
	Columns, Rows, Width, Height uint32
	Modes                        string
}

func TestATerminalIsReadAsItWasAskedFor(t *testing.T) {
	modes := "\x03\x00\x00\x00\x7f\x35\x00\x00\x00\x01\x00"
	got, err := parsePTY(gossh.Marshal(rawPTY{"xterm-256color", 80, 24, 640, 480, modes}))
	if err != nil {
		t.Fatal(err)
	}
	want := ptyRequest{"xterm-256color", windowSize{80, 24, 640, 480}, []terminalMode{{3, 0x7f}, {0x35, 1}}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(ptyRequest{}, windowSize{}, terminalMode{})); diff != "" {
		t.Error(diff)
	}
}

func TestAMalformedTerminalIsRefused(t *testing.T) {
	good := gossh.Marshal(rawPTY{"xterm", 80, 24, 0, 0, "\x00"})
	endless := append([]byte(nil), good...)
	binary.BigEndian.PutUint32(endless, 0xfffffffc)
	for name, payload := range map[string][]byte{
		"empty":                       {},
		"a string longer than it all": endless,
		"cut off":                     good[:len(good)-3],
		"more at the end":             append(append([]byte(nil), good...), 0),
		"a terminal with a path":      gossh.Marshal(rawPTY{"../../etc", 80, 24, 0, 0, ""}),
		"a terminal with a line":      gossh.Marshal(rawPTY{"xterm\nX=1", 80, 24, 0, 0, ""}),
		"a long terminal":             gossh.Marshal(rawPTY{strings.Repeat("x", maxTerm+1), 80, 24, 0, 0, ""}),
		"a window too wide":           gossh.Marshal(rawPTY{"xterm", maxWindow + 1, 24, 0, 0, ""}),
		"modes cut off":               gossh.Marshal(rawPTY{"xterm", 80, 24, 0, 0, "\x03\x00\x00"}),
		"modes without end":           gossh.Marshal(rawPTY{"xterm", 80, 24, 0, 0, strings.Repeat("\x01\x00\x00\x00\x00", 200)}),
	} {
		if got, err := parsePTY(payload); err == nil {
			t.Errorf("%s: read as %+v", name, got)
		}
	}
}

func TestModesEndAtTheFirstUndefinedOpcode(t *testing.T) {
	got, err := parseModes([]byte("\x01\x00\x00\x00\x02\xa0anything"))
	if err != nil || len(got) != 1 || got[0] != (terminalMode{1, 2}) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestOnlyTheLanguageComesFromTheClient(t *testing.T) {
	env := func(name, value string) []byte {
		return gossh.Marshal(struct{ Name, Value string }{name, value})
	}
	for _, name := range []string{"LANG", "LC_ALL", "LC_CTYPE", "LC_MEASUREMENT"} {
		if _, _, err := parseEnv(env(name, "de_DE.UTF-8"), defaultAcceptEnv()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"", "LANGUAGE", "LD_PRELOAD", "BASH_ENV", "PATH", "IFS", "LC_ALL=x", "DT_USER",
		"LANG ", "LC_" + strings.Repeat("A", maxEnvName)} {
		if _, _, err := parseEnv(env(name, "x"), defaultAcceptEnv()); err == nil {
			t.Errorf("%q was taken", name)
		}
	}
	for _, value := range []string{"a\nb", "a\x00b", "\x1b]0;x", strings.Repeat("x", maxEnvValue+1)} {
		if _, _, err := parseEnv(env("LANG", value), defaultAcceptEnv()); err == nil {
			t.Errorf("LANG=%q was taken", value)
		}
	}
}

func TestACommandIsBounded(t *testing.T) {
	exec := func(c string) []byte { return gossh.Marshal(struct{ C string }{c}) }
	if got, err := parseExec(exec("echo 'ü'")); err != nil || got != "echo 'ü'" {
		t.Errorf("%q, %v", got, err)
	}
	for _, c := range []string{"a\x00b", strings.Repeat("x", maxCommand+1)} {
		if _, err := parseExec(exec(c)); err == nil {
			t.Errorf("%.20q was taken", c)
		}
	}
}

func TestSignalsAreThoseOfTheRFC(t *testing.T) {
	if sig, err := parseSignal(gossh.Marshal(struct{ S string }{"TERM"})); err != nil || sig != unix.SIGTERM {
		t.Errorf("%v, %v", sig, err)
	}
	for _, name := range []string{"", "term", "SIGTERM", "STOP", "9"} {
		if sig, err := parseSignal(gossh.Marshal(struct{ S string }{name})); err == nil {
			t.Errorf("%q is %v", name, sig)
		}
	}
	if got := signalName(unix.SIGTERM); got != "TERM" {
		t.Error(got)
	}
	if got := signalName(unix.SIGXCPU); !strings.Contains(got, "@") {
		t.Error(got)
	}
}

// FuzzRequests: whatever the bytes, each parser answers, and what it takes is
// within its bounds.
func FuzzRequests(f *testing.F) {
	f.Add(gossh.Marshal(rawPTY{"xterm", 80, 24, 0, 0, "\x03\x00\x00\x00\x7f\x00"}))
	f.Add([]byte("\xff\xff\xff\xfcxterm"))
	f.Add(gossh.Marshal(struct{ A, B string }{"LANG", "C"}))
	f.Add(gossh.Marshal(struct{ A string }{"true"}))
	f.Add(gossh.Marshal(struct{ A, B, C, D uint32 }{80, 24, 0, 0}))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if p, err := parsePTY(payload); err == nil && (len(p.term) > maxTerm || len(p.modes) > 160) {
			t.Errorf("terminal %+v", p)
		}
		if name, value, err := parseEnv(payload, acceptEnv{"*"}); err == nil && (!isEnvName(name) || len(value) > maxEnvValue) {
			t.Errorf("variable %q=%q", name, value)
		}
		if c, err := parseExec(payload); err == nil && len(c) > maxCommand {
			t.Errorf("command of %d bytes", len(c))
		}
		if sig, err := parseSignal(payload); err == nil && signalName(sig) == "" {
			t.Errorf("signal %v", sig)
		}
		if _, err := parseWindowChange(payload); err == nil && len(payload) != 16 {
			t.Errorf("window of %d bytes", len(payload))
		}
		_, _ = parseModes(payload)
	})
}
