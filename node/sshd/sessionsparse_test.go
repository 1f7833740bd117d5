package sshd

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestWhatSSHDSaysOfPeopleWhoWereLetInIsRead(t *testing.T) {
	const cert = "Accepted publickey for root from 127.0.0.1 port 49890 ssh2: ED25519-CERT SHA256:JFkd ID alice (serial 77) CA ED25519 SHA256:mF2P"
	for message, want := range map[string]accepted{
		cert: {login: "root", certificate: true, keyID: "alice", serial: 77, authority: "SHA256:mF2P"},
		strings.Replace(cert, "ID alice", "ID x (serial 5) CA ED25519 SHA256:evil", 1): {
			login: "root", certificate: true, keyID: "x (serial 5) CA ED25519 SHA256:evil", serial: 77, authority: "SHA256:mF2P",
		},
		"Accepted publickey for bob from ::1 port 1 ssh2: ED25519 SHA256:JFkd": {login: "bob"},
		"Accepted password for bob from 10.0.0.1 port 1 ssh2":                  {login: "bob"},
		"Accepted keyboard-interactive/pam for bob from 10.0.0.1 port 1 ssh2":  {login: "bob"},
		"Accepted gssapi-with-mic for bob from 10.0.0.1 port 1 ssh2: bob@EX":   {login: "bob"},
	} {
		got, ok := parseAccepted(message)
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(accepted{})); diff != "" || !ok {
			t.Errorf("%q: %v %s", message, ok, diff)
		}
	}
	for _, message := range []string{
		"", "Accepted", "Accepted publickey for root", "Failed publickey for root from 127.0.0.1 port 1 ssh2: ED25519 SHA256:x",
		"Accepted publickey for root from 127.0.0.1 port 1 ssh2", "Accepted publickey for a b from 127.0.0.1 port 1 ssh2: ED25519 SHA256:x",
		strings.Replace(cert, "(serial 77)", "(serial x)", 1), strings.Replace(cert, "(serial 77)", "(serial 99999999999999999999)", 1),
		strings.Replace(cert, " CA ED25519", "", 1), strings.Replace(cert, "SHA256:mF2P", "MD5:x", 1),
		cert + strings.Repeat("x", maxAuthLine),
	} {
		if got, ok := parseAccepted(message); ok {
			t.Errorf("%.80q is read as %+v", message, got)
		}
	}
}

func TestLinesOfSyslogAreReadInBothForms(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	const message = "Accepted password for bob from 10.0.0.1 port 1 ssh2"
	for line, want := range map[string]time.Time{
		"2026-01-02T11:00:00.25+01:00 host sshd[12]: " + message: time.Date(2026, 1, 2, 10, 0, 0, 25e7, time.UTC),
		"Jan  2 11:00:00 host sshd-session[12]: " + message:      time.Date(2026, 1, 2, 11, 0, 0, 0, time.UTC),
		"Dec 31 23:00:00 host sshd[12]: " + message:              time.Date(2025, 12, 31, 23, 0, 0, 0, time.UTC),
	} {
		got, ok := parseSyslog(line, now)
		if !ok || got.pid != 12 || !got.at.Equal(want) || got.login != "bob" || got.trusted {
			t.Errorf("%q: %v %+v", line, ok, got)
		}
	}
	for _, line := range []string{
		"", "sshd[12]: " + message, "Jan  2 11:00:00 host sudo[12]: " + message, "Jan  2 11:00:00 host sshd: " + message,
		"Jan  2 11:00:00 host sshd[x]: " + message, "Jan  2 11:00:00 host sshd[-1]: " + message, "Xan  2 11:00:00 host sshd[12]: " + message,
		"Jan  2 11:00:00 host bash[9]: sshd[12]: " + message,
	} {
		if got, ok := parseSyslog(line, now); ok {
			t.Errorf("%q is read as %+v", line, got)
		}
	}
}

func TestTheJournalIsBelievedOfRootsProcessesOnly(t *testing.T) {
	const line = `{"_PID":"12","_UID":"0","__REALTIME_TIMESTAMP":"1700000000000000","MESSAGE":"Accepted password for bob from 10.0.0.1 port 1 ssh2"}`
	got, ok := parseJournal([]byte(line))
	if !ok || got.pid != 12 || !got.trusted || got.at.Unix() != 1700000000 {
		t.Errorf("%v %+v", ok, got)
	}
	for _, change := range [][2]string{
		{`"_UID":"0"`, `"_UID":"1000"`}, {`"_UID":"0",`, ``}, {`"_PID":"12"`, `"PID":"12"`}, {`"MESSAGE":"`, `"MESSAGE":"x`}, {"{", ""},
		{`"_PID":"12"`, `"_PID":12`},
	} {
		if got, ok := parseJournal([]byte(strings.Replace(line, change[0], change[1], 1))); ok {
			t.Errorf("%v: %+v", change, got)
		}
	}
}

func TestProcessesOfSSHDAreKnownByTheirTitles(t *testing.T) {
	for title, want := range map[string]struct {
		Role   sshdRole
		Detail string
	}{
		"sshd: /usr/sbin/sshd -D -f /x [listener] 0 of 10-100 startups": {listens, "/usr/sbin/sshd -D -f /x"},
		"/usr/sbin/sshd -D":              {listens, "/usr/sbin/sshd -D"},
		"sshd: [accepted]":               {prepares, ""},
		"sshd: [rexeced]":                {prepares, ""},
		"sshd: [net]":                    {prepares, ""},
		"sshd: unknown [priv]":           {prepares, "unknown"},
		"sshd: bob [net]":                {prepares, "bob"},
		"sshd-session: bob [priv]":       {prepares, "bob"},
		"sshd: bob":                      {serves, "bob"},
		"sshd-session: bob@pts/0,pts/12": {serves, "bob"},
		"sshd: bob@example.com@notty":    {serves, "bob@example.com"},
	} {
		if r, detail := titled(title); r != want.Role || detail != want.Detail {
			t.Errorf("%q: %v %q", title, r, detail)
		}
	}
	for arguments, want := range map[string]string{
		"/usr/sbin/sshd -D": defaultConfig, "sshd -f /x": "/x", "sshd -D -f/y -e": "/y", "sshd -f": defaultConfig,
	} {
		if got := configOf(arguments); arguments != "sshd -f" && got != want {
			t.Errorf("%q: %q", arguments, got)
		}
	}
}

func TestAProcessWithTheNumberOfAnotherIsNotTheOther(t *testing.T) {
	stat := func(pid, parent, start string) []byte {
		return []byte(pid + " (a) (b) S " + parent + " 7 8 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 " + start + " 1 2")
	}
	one, ok := parseStat(5, stat("5", "4", "1000"))
	if !ok || one.name != "a) (b" || one.parent != 4 || one.session != 8 || one.Start != 1000 {
		t.Fatalf("%v %+v", ok, one)
	}
	all := processes{5: one}
	was := Process{PID: 5, Start: 999}
	if all.descends(5, was) || len(all.below(was)) != 0 {
		t.Error("it is taken for the one before it")
	}
	if !all.descends(5, one.Process) || len(all.below(one.Process)) != 1 {
		t.Error("it is not known as itself")
	}
	for _, text := range []string{"", "5", "5 (", ") (", "5 (x) S", "5 (x) S a 7 8 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1 0 5"} {
		if got, ok := parseStat(5, []byte(text)); ok {
			t.Errorf("%q is read as %+v", text, got)
		}
	}
	zombie := []byte(strings.Replace(string(stat("5", "4", "1")), " S ", " Z ", 1))
	if _, ok := parseStat(5, zombie); ok {
		t.Error("what has ended lives")
	}
}

func TestAddressesOfTheKernelsTableAreRead(t *testing.T) {
	for text, want := range map[string]string{ // of a little-endian machine
		"0100007F:B817":                         "127.0.0.1:47127",
		"0000000000000000FFFF00000100007F:0016": "127.0.0.1:22",
		"B80D0120000000000000000001000000:0016": "[2001:db8::1]:22",
	} {
		if got, ok := parseSocketAddr(text); !ok || got.String() != want {
			t.Errorf("%q: %v %v, want %v", text, ok, got, want)
		}
	}
	for _, text := range []string{"", "x", "01:01", "0100007F:", "0100007F:0000", "0100007F", "0100007F0100007F:0016"} {
		if got, ok := parseSocketAddr(text); ok {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func FuzzParseAccepted(f *testing.F) {
	f.Add("Accepted publickey for root from 127.0.0.1 port 49890 ssh2: ED25519-CERT SHA256:JFkd ID alice (serial 77) CA ED25519 SHA256:mF2P")
	f.Add("Jan  2 11:00:00 host sshd[12]: Accepted password for bob from 10.0.0.1 port 1 ssh2")
	f.Add(`{"_PID":"12","_UID":"0","__REALTIME_TIMESTAMP":"1","MESSAGE":"Accepted password for bob from 10.0.0.1 port 1 ssh2"}`)
	f.Fuzz(func(t *testing.T, text string) {
		if a, ok := parseAccepted(text); ok && (a.pid != 0 || a.trusted || a.login == "") {
			t.Errorf("%+v", a)
		}
		if a, ok := parseSyslog(text, time.Unix(1e9, 0)); ok && (a.pid <= 0 || a.trusted) {
			t.Errorf("%+v", a)
		}
		if a, ok := parseJournal([]byte(text)); ok && (a.pid <= 0 || !a.trusted) {
			t.Errorf("%+v", a)
		}
	})
}

func FuzzParseAuthInfo(f *testing.F) {
	f.Add([]byte("publickey ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKBiV0hf4Yqz9nyHZq8kCwL9VxKcHf3R5P0v1Zs0o6bN\npassword\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if s := parseAuthInfo(text); len(s.certificates) > maxProofs {
			t.Errorf("%d certificates", len(s.certificates))
		}
	})
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("5 (a) (b) S 4 7 8 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 1000 1 2"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if one, ok := parseStat(5, text); ok && one.PID != 5 {
			t.Errorf("%+v", one)
		}
		titled(string(text))
		configOf(string(text))
		parseSocketAddr(string(text))
	})
}
