package sshd

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// again gives a watch that is started after w, with what w knew of c as it comes
// off the disk.
func (s *stockSSHD) again(w *Watch, c *Connection, change func(*Past), how ...func(*Settings)) (*Watch, *Connection) {
	s.t.Helper()
	text, err := json.Marshal(w.Past(c))
	if err != nil {
		s.t.Fatal(err)
	}
	var p Past
	if err := json.Unmarshal(text, &p); err != nil {
		s.t.Fatal(err)
	}
	if change != nil {
		change(&p)
	}
	next := s.watch(how...)
	recalled, err := next.Recall([]Past{p})
	if err != nil || len(recalled) != 1 {
		s.t.Fatal(recalled, err)
	}
	return next, recalled[0]
}

func nothingOf(c *Connection) bool { return len(c.Proofs) == 0 && !c.Otherwise }

func TestWhatTheKernelToldIsKnownAfterARestart(t *testing.T) {
	needRoot(t)
	s := startStock(t, newAccount(t), "ExposeAuthInfo yes")
	w := s.watch()
	serial, key := s.certify("alice", s.login)
	c := s.connect(key, s.login+"@127.0.0.1", "rm -f $SSH_USER_AUTH; echo A=$$; exec env -i sleep 100")
	c.number("A")
	before := s.look(w, 1, of("alice", serial))[0]

	if unknown := s.look(s.watch(), 1, nothingOf)[0]; unknown.ID == before.ID {
		t.Error("it is the same one without being recalled")
	}
	next, recalled := s.again(w, before, nil)
	after := s.look(next, 1, of("alice", serial))[0]
	if after != recalled || after.ID != before.ID || after.Remote != before.Remote || !after.Began.Round(time.Second).Equal(before.Began.Round(time.Second)) ||
		!after.Seen.Equal(before.Seen) || after.Found.IsZero() || !after.sure || len(after.Proofs) != 1 {
		t.Errorf("was %+v, is %+v", before, after)
	}

	// Another's process with the number, and another run of the machine.
	for name, change := range map[string]func(*Past){
		"started at another time":    func(p *Past) { p.Start++ },
		"of another run":             func(p *Past) { p.Boot = "another" },
		"of a process that is there": func(p *Past) { p.PID = os.Getpid() },
	} {
		next, recalled := s.again(w, before, change)
		if found := s.look(next, 1, nothingOf)[0]; found == recalled || !recalled.Found.IsZero() {
			t.Errorf("%s: it is taken for the same", name)
		}
		if !of("alice", serial)(recalled) {
			t.Errorf("%s: it is not known whose it was", name)
		}
	}

	// What was not signed by the cluster does not count, whatever the file says.
	other, _ := newKeyFile(t)
	forged := *before.sightings[0].certificate
	if err := forged.SignCert(cryptoRand{}, other); err != nil {
		t.Fatal(err)
	}
	next, _ = s.again(w, before, func(p *Past) { p.Certificates = []PastCertificate{{Wire: forged.Marshal(), Sure: true}} })
	s.look(next, 1, nothingOf)
	changed := []byte(strings.Replace(before.sightings[0].wire, "alice", "malic", 1))
	next, _ = s.again(w, before, func(p *Past) { p.Certificates = []PastCertificate{{Wire: changed, Sure: true, Counted: true}} })
	s.look(next, 1, nothingOf)

	s.cut(next, s.look(next, 1, nothingOf)[0], "over")
	eventually(t, "the client's end", c.ended)
}

// Else the connection would be of nobody, and may be left alone as such.
func TestAnAuthorityTakenOutOfUseIsSeenAfterARestart(t *testing.T) {
	needRoot(t)
	s := startStock(t, newAccount(t), "ExposeAuthInfo yes")
	w := s.watch()
	serial, key := s.certify("alice", s.login)
	c := s.connect(key, s.login+"@127.0.0.1", "rm -f $SSH_USER_AUTH; echo A=$$; exec env -i sleep 100")
	c.number("A")
	before := s.look(w, 1, of("alice", serial))[0]
	other, _ := newKeyFile(t)
	var known []ssh.PublicKey
	next, _ := s.again(w, before, nil, func(settings *Settings) { settings.Authorities = func() []ssh.PublicKey { return known } })
	s.look(next, 1, nothingOf)
	known = []ssh.PublicKey{other.PublicKey()}
	after := s.look(next, 1, of("alice", serial))[0]
	if after.Proofs[0].Authority != string(s.authority.PublicKey().Marshal()) {
		t.Error("it passes for another authority's")
	}
}

func TestAPlainKeyAndWhatTheLogToldAreKnownAfterARestart(t *testing.T) {
	needRoot(t)
	account := newAccount(t)
	keys := "/tmp/dt-sshd-keys-" + strconv.Itoa(os.Getpid())
	t.Cleanup(func() { os.Remove(keys) })
	s := startStock(t, account, "AuthorizedKeysFile "+keys, "ExposeAuthInfo yes")
	key, private := newKeyFile(t)
	if err := os.WriteFile(keys, ssh.MarshalAuthorizedKey(key.PublicKey()), 0o644); err != nil {
		t.Fatal(err)
	}
	w := s.watch()
	c := s.connect(s.options("-i", s.write("plain", private)), s.login+"@127.0.0.1", "rm -f $SSH_USER_AUTH; echo A=$$; exec env -i sleep 100")
	c.number("A")
	otherwise := func(c *Connection) bool { return len(c.Proofs) == 0 && c.Otherwise }
	before := s.look(w, 1, otherwise)[0]
	next, _ := s.again(w, before, nil)
	s.look(next, 1, otherwise)

	line := PastLine{User: "alice", Serial: 9, Authority: ssh.FingerprintSHA256(s.authority.PublicKey())}
	none := func(settings *Settings) { settings.Authorities = func() []ssh.PublicKey { return nil } }
	next, _ = s.again(w, before, func(p *Past) { p.Lines = []PastLine{line} }, none)
	s.look(next, 1, otherwise)
	next.settings.Authorities = w.settings.Authorities
	after := s.look(next, 1, func(c *Connection) bool { return len(c.Proofs) == 1 && !c.Proofs[0].Whole })[0]
	if again := next.Past(after); len(again.Lines) != 1 || again.Lines[0] != line {
		t.Errorf("%+v", again.Lines)
	}
}

func TestWhatCannotHaveBeenKeptIsNotRecalled(t *testing.T) {
	w := &Watch{proc: "/proc", boot: "b", live: map[Process]*Connection{}, settings: Settings{Authorities: func() []ssh.PublicKey { return nil }}}
	good := Past{ID: newID(), Boot: "b", PID: 1 << 30, Start: 1, Login: "x", Seen: noon}
	if _, err := w.Recall([]Past{good}); err != nil {
		t.Fatal(err)
	}
	plain := newKey(t, 1).PublicKey().Marshal()
	for name, change := range map[string]func(*Past){
		"no id":           func(p *Past) { p.ID = "" },
		"a long id":       func(p *Past) { p.ID += "00" },
		"no run":          func(p *Past) { p.Boot = "" },
		"no process":      func(p *Past) { p.PID = 0 },
		"a negative one":  func(p *Past) { p.PID = -1 },
		"no login":        func(p *Past) { p.Login = "" },
		"no time":         func(p *Past) { p.Seen = time.Time{} },
		"garbage":         func(p *Past) { p.Certificates = []PastCertificate{{Wire: []byte("x")}} },
		"a plain key":     func(p *Past) { p.Certificates = []PastCertificate{{Wire: plain}} },
		"too many":        func(p *Past) { p.Certificates = make([]PastCertificate, maxProofs+1) },
		"too many lines":  func(p *Past) { p.Lines = make([]PastLine, maxProofs+1) },
		"the same again":  func(*Past) {},
		"another's again": func(p *Past) { p.ID = newID() },
	} {
		bad := good
		change(&bad)
		if got, err := w.Recall([]Past{good, bad}); err == nil || len(w.live) != 0 {
			t.Errorf("%s: %v", name, fmt.Sprint(got))
		}
	}
}
